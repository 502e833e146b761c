"""Tasks about lists and single words, for the dataset `instructions`."""

from __future__ import annotations

from lora_dist.corpora import words
from lora_dist.corpora.dice import Dice
from lora_dist.corpora.instruction_words import CLASSES, LETTERS, WORDS, Task


def sort_words(dice: Dice) -> Task:
    """pear, cup, hat -> cup, hat, pear."""
    chosen, combination = _words(dice, dice.number(3, 6))
    return Task(", ".join(chosen), ", ".join(sorted(chosen)), combination, {})


def reverse_list(dice: Dice) -> Task:
    """pear, cup, hat -> hat, cup, pear."""
    chosen, combination = _words(dice, dice.number(3, 6))
    return Task(", ".join(chosen), ", ".join(reversed(chosen)), combination, {})


def drop_repeats(dice: Dice) -> Task:
    """pear, cup, pear -> pear, cup."""
    chosen, combination = _words(dice, dice.number(2, 4))
    repeated = [*chosen, *(dice.pick(chosen) for _ in range(dice.number(1, 3)))]
    return Task(", ".join(repeated), ", ".join(chosen), combination, {})


def keep_long_words(dice: Dice) -> Task:
    """The words of more than so many letters: at least one, and not all."""
    chosen, combination = _words(dice, dice.number(4, 6))
    lengths = sorted({len(word) for word in chosen})
    while len(lengths) < 2:
        chosen, combination = _words(dice, dice.number(4, 6))
        lengths = sorted({len(word) for word in chosen})
    limit = dice.pick(lengths[:-1])
    kept = [word for word in chosen if len(word) > limit]
    return Task(", ".join(chosen), ", ".join(kept), combination, {"limit": str(limit)})


def number_lines(dice: Dice) -> Task:
    """pear, cup -> 1. pear / 2. cup, on lines of their own."""
    chosen, combination = _words(dice, dice.number(2, 4))
    lines = [f"{number}. {word}" for number, word in enumerate(chosen, start=1)]
    return Task(", ".join(chosen), "\n".join(lines), combination, {})


def odd_one_out(dice: Dice) -> Task:
    """cow, bus, hen, goat -> bus."""
    first, second = dice.some(range(len(CLASSES)), 2)
    kinds = list(CLASSES.values())
    stranger = dice.pick(kinds[second])
    listed = dice.some(kinds[first], 3)
    listed.insert(dice.number(0, 3), stranger)
    return Task(", ".join(listed), stranger, (first, kinds[second].index(stranger)), {})


def largest_number(dice: Dice) -> Task:
    """12, 80, 9 -> 80."""
    numbers = dice.some(range(2, 200), dice.number(3, 6))
    return Task(", ".join(map(str, numbers)), str(max(numbers)), (numbers[0], numbers[1]), {})


def add_numbers(dice: Dice) -> Task:
    """12, 80, 9 -> 101."""
    numbers = [dice.number(2, 60) for _ in range(dice.number(2, 3))]
    return Task(", ".join(map(str, numbers)), str(sum(numbers)), (numbers[0], numbers[1]), {})


def next_number(dice: Dice) -> Task:
    """4, 7, 10, 13 -> 16."""
    start, step = dice.number(1, 40), dice.number(2, 12)
    numbers = [start + step * turn for turn in range(5)]
    return Task(", ".join(map(str, numbers[:-1])), str(numbers[-1]), (start, step), {})


def count_letter(dice: Dice) -> Task:
    """How many e there are in cheese."""
    word, letter = dice.number(0, len(WORDS) - 1), dice.number(0, len(LETTERS) - 1)
    count = WORDS[word].count(LETTERS[letter])
    return Task(WORDS[word], str(count), (word, letter), {"letter": LETTERS[letter]})


def spell(dice: Dice) -> Task:
    """cup -> c-u-p."""
    word, sign = dice.number(0, len(WORDS) - 1), dice.number(0, 2)
    name, mark = (("hyphens", "-"), ("spaces", " "), ("commas", ","))[sign]
    return Task(WORDS[word], mark.join(WORDS[word]), (word, sign), {"marks": name})


def plural(dice: Dice) -> Task:
    """box, pear -> boxes, pears."""
    nouns = (*words.ITEMS, *words.CONTAINERS, *words.ANIMALS, *words.PLANTS)
    chosen = dice.some(range(len(nouns)), dice.number(2, 3))
    given = ", ".join(nouns[index].one for index in chosen)
    return Task(given, ", ".join(nouns[index].many for index in chosen), (chosen[0], chosen[1]), {})


def classify(dice: Dice) -> Task:
    """cow -> animal, of three classes in the order that is given."""
    classes = dice.some(range(len(CLASSES)), 3)
    names = [list(CLASSES)[index] for index in classes]
    right = dice.pick(names)
    member = dice.number(0, len(CLASSES[right]) - 1)
    options = f"{names[0]}, {names[1]} or {names[2]}"
    return Task(CLASSES[right][member], right, (member, sum(classes)), {"options": options})


def initials(dice: Dice) -> Task:
    """Anna Leo Berg -> A. L. B."""
    names = dice.some(words.NAMES, dice.number(1, 2))
    surname = dice.number(0, len(words.SURNAMES) - 1)
    parts = [*names, words.SURNAMES[surname]]
    combination = (words.NAMES.index(names[0]), surname)
    return Task(" ".join(parts), " ".join(f"{part[0]}." for part in parts), combination, {})


def _words(dice: Dice, count: int) -> tuple[list[str], tuple[int, int]]:
    """Different words, and the numbers of the first two."""
    chosen = dice.some(range(len(WORDS)), count)
    return [WORDS[index] for index in chosen], (chosen[0], chosen[1])
