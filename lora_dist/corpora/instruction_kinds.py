"""The kinds of tasks of the dataset `instructions` and how each may be worded."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from lora_dist.corpora import instruction_lists as lists
from lora_dist.corpora import instruction_sentences as sentences
from lora_dist.corpora.dice import Dice
from lora_dist.corpora.instruction_words import Task


class Kind(NamedTuple):
    """A kind of task."""

    write: Callable[[Dice], Task]
    wordings: tuple[str, ...]
    """The last one is for the test split alone. A wording with a place for what is given leaves the input empty."""


KINDS = (
    Kind(
        lists.sort_words,
        (
            "Sort the words alphabetically.",
            "Put these words in alphabetical order: {given}.",
            "Arrange the list from A to Z.",
            "Here are some words: {given}. Sort them by the alphabet.",
            "In which order do these words stand in a dictionary?",
        ),
    ),
    Kind(
        lists.reverse_list,
        (
            "Reverse the list.",
            "Write the list {given} backwards, the last word first.",
            "Turn the order of the words around.",
            "Read this list from the end to the beginning: {given}.",
            "Give the same words in the opposite order.",
        ),
    ),
    Kind(
        lists.drop_repeats,
        (
            "Remove the words that come again.",
            "Write each word of the list once, in the order of its first mention.",
            "Some words are repeated in {given}. Leave the repeats out.",
            "Clean this list of duplicates: {given}.",
            "List every word only once.",
        ),
    ),
    Kind(
        lists.keep_long_words,
        (
            "Keep only the words with more than {limit} letters.",
            "Which of these words are longer than {limit} letters: {given}?",
            "Drop all words of {limit} letters or fewer.",
            "From {given}, choose the words that have more than {limit} letters.",
            "Leave out what is not longer than {limit} letters.",
        ),
    ),
    Kind(
        lists.number_lines,
        (
            "Write the list with a number in front of each word, one word per line.",
            "Make a numbered list of {given}.",
            "Number the words.",
            "Put {given} on lines of their own and number the lines.",
            "Turn the words into a list that is numbered from 1.",
        ),
    ),
    Kind(
        lists.odd_one_out,
        (
            "Which word does not belong to the others?",
            "Find the odd one out: {given}.",
            "One word is of another kind. Name it.",
            "Three of {given} belong together. Which one does not?",
            "Name the word that does not fit.",
        ),
    ),
    Kind(
        lists.largest_number,
        (
            "Which number is the largest?",
            "Find the maximum of {given}.",
            "Name the biggest of the numbers.",
            "Which is the highest of these numbers: {given}?",
            "Pick the number that is greater than all others.",
        ),
    ),
    Kind(
        lists.add_numbers,
        (
            "Add the numbers.",
            "What is the sum of {given}?",
            "Compute the total of these numbers.",
            "Add up {given}.",
            "How much is it all together?",
        ),
    ),
    Kind(
        lists.next_number,
        (
            "Which number comes next?",
            "Continue the sequence {given} by one number.",
            "What follows in this sequence?",
            "Each number grows by the same step: {given}. Give the next one.",
            "Go on by one step.",
        ),
    ),
    Kind(
        lists.count_letter,
        (
            "How often does the letter {letter} occur in the word {given}?",
            "Count the letter {letter}.",
            "How many times is {letter} in {given}?",
            "In the word {given}, count every {letter}.",
            "Tell me how many {letter} there are in this word.",
        ),
    ),
    Kind(
        lists.spell,
        (
            "Spell the word with {marks} between the letters.",
            "Write {given} letter by letter, with {marks} in between.",
            "Separate the letters by {marks}.",
            "Take the word {given} apart: put {marks} between its letters.",
            "Give the letters of the word one by one, divided by {marks}.",
        ),
    ),
    Kind(
        lists.plural,
        (
            "Write the nouns in the plural.",
            "What are the plurals of {given}?",
            "Turn each word into its plural.",
            "There is more than one of each of {given}. Write the plural.",
            "How are these words called when there are many?",
        ),
    ),
    Kind(
        lists.classify,
        (
            "What is it: {options}?",
            "Is {given} one of these: {options}? Name the right class.",
            "Classify the word as {options}.",
            "Choose the class of {given}: {options}.",
            "To which class does the word belong, {options}?",
        ),
    ),
    Kind(
        lists.initials,
        (
            "Give the initials.",
            "What are the initials of {given}?",
            "Shorten every name to its first letter and a full stop.",
            "Write {given} as initials.",
            "With which letters would this person sign?",
        ),
    ),
    Kind(
        sentences.past_tense,
        (
            "Rewrite the sentence in the past tense.",
            "It happened yesterday. Change the verb.",
            "Put this into the past: {given}",
            "Change the present tense to the past tense.",
            "Say it as if it were over.",
        ),
    ),
    Kind(
        sentences.negate,
        (
            "Negate the sentence.",
            "Write that this is not so: {given}",
            "Make the sentence negative.",
            "Say the opposite, with not.",
            "Deny it.",
        ),
    ),
    Kind(
        sentences.ask,
        (
            "Turn the sentence into a question.",
            "Ask if this is so: {given}",
            "Make a yes-no question of it.",
            "Rewrite it as a question that begins with does.",
            "How would you ask whether this is true?",
        ),
    ),
    Kind(
        sentences.passive,
        (
            "Rewrite the sentence in the passive.",
            "Put this into the passive voice: {given}",
            "Change the active voice to the passive.",
            "Begin the sentence with what it is done to.",
            "Say it in the passive voice.",
        ),
    ),
    Kind(
        sentences.shorten,
        (
            "Shorten the sentence to who does what.",
            "Keep only doer, verb and object: {given}",
            "Make the sentence shorter: leave out when, where and how.",
            "Reduce this to its core: {given}",
            "Say it in as few words as you can.",
        ),
    ),
    Kind(
        sentences.count_words,
        (
            "Count the words.",
            "How many words does this sentence have: {given}",
            "Of how many words does the sentence consist?",
            "Tell me the number of words in it.",
            "How long is the sentence, in words?",
        ),
    ),
    Kind(
        sentences.extract_date,
        (
            "Extract the date.",
            "Which date is named here? {given}",
            "Write down the date in the sentence and nothing else.",
            "Find day, month and year: {given}",
            "When was or is it?",
        ),
    ),
    Kind(
        sentences.fill_form,
        (
            "Fill in the form with these lines: {lines}.",
            "Make a form ({lines}) of this: {given}",
            "Write one line for each of {lines}.",
            "Extract {lines} from the text.",
            "What is known of {lines}? Answer line by line.",
        ),
    ),
    Kind(
        sentences.convert_units,
        (
            "Convert to {unit}.",
            "How many {unit} are {given}?",
            "Express this in {unit}.",
            "Change {given} into {unit}.",
            "What is it in {unit}?",
        ),
    ),
    Kind(
        sentences.day_after,
        (
            "Which day comes {days} days after {given}?",
            "Today is {given}. Which day is it in {days} days?",
            "Go {days} days on and name the day.",
            "Name the day that is {days} days later.",
            "Once {days} more days have passed, which day is it?",
        ),
    ),
    Kind(
        sentences.on_the_clock,
        (
            "Write the time on the 24-hour clock.",
            "Convert {given} to 24-hour time.",
            "How does a digital clock with 24 hours show {given}?",
            "Change am and pm to hours from 0 to 23.",
            "Give this time as it stands in a timetable of 24 hours.",
        ),
    ),
)
