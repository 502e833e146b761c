"""The facts that the passages of the dataset `questions` tell, in several ways, and how each is asked about."""

from __future__ import annotations

from typing import NamedTuple

from lora_dist.corpora import words


class Relation(NamedTuple):
    """A kind of fact."""

    tellings: tuple[str, ...]
    questions: tuple[tuple[str, str], ...]
    """The slot that is the answer, and the question."""


VALUES: dict[str, tuple[str, ...]] = {
    "town": words.TOWNS,
    "birth": tuple(str(year) for year in range(1901, 1956)),
    "year": tuple(str(year) for year in range(1975, 2020)),
    "job": words.TRADES,
    "place": words.PLACES,
    "thing": words.THINGS,
    "colour": words.COLOURS,
    "month": words.ALL_MONTHS,
    "day": words.DAYS,
    "vehicle": words.VEHICLES,
    "price": tuple(f"{price} dollars" for price in range(11, 98)),
    "pages": tuple(f"{pages} pages" for pages in range(40, 400, 7)),
    "subject": (
        "Spanish",
        "chess",
        "Latin",
        "dancing",
        "pottery",
        "Polish",
        "the flute",
        "Greek",
        "sewing",
        "swimming",
    ),
}
"""What the slots are filled with, but for `who`, the person whom a fact is about."""

RELATIONS = (
    Relation(
        (
            "{who} was born in {town} in {birth}.",
            "{who} was born in {birth}, in the town of {town}.",
            "In {birth} {who} came into the world in {town}.",
            "{town} is where {who} was born, in {birth}.",
            "It was in {birth} that {who} was born in {town}.",
        ),
        (
            ("town", "Where was {who} born?"),
            ("town", "In which town was {who} born?"),
            ("town", "What is the birthplace of {who}?"),
            ("birth", "When was {who} born?"),
            ("birth", "In which year was {who} born?"),
            ("who", "Who was born in {town}?"),
            ("who", "Who was born in {birth}?"),
        ),
    ),
    Relation(
        (
            "{who} moved to {town} in {year}.",
            "In {year} {who} went to live in {town}.",
            "{who} has lived in {town} since {year}.",
            "The town where {who} has lived since {year} is {town}.",
            "{town} is where {who} found a home in {year}.",
        ),
        (
            ("town", "Where did {who} move?"),
            ("town", "In which town does {who} live?"),
            ("town", "Which town is home to {who}?"),
            ("year", "When did {who} move?"),
            ("year", "Since when has {who} lived at the present place?"),
            ("who", "Who lives in {town}?"),
            ("who", "Who moved in {year}?"),
        ),
    ),
    Relation(
        (
            "{who} works as a {job} at the {place}.",
            "At the {place} {who} is a {job}.",
            "{who} is a {job} and works at the {place}.",
            "The job that {who} has at the {place} is that of a {job}.",
            "{who} earns a living as a {job}, at the {place}.",
        ),
        (
            ("job", "What is the job of {who}?"),
            ("job", "What does {who} work as?"),
            ("job", "What does {who} do for a living?"),
            ("place", "Where does {who} work?"),
            ("place", "What is the place of work of {who}?"),
            ("who", "Who works as a {job}?"),
            ("who", "Who works at the {place}?"),
        ),
    ),
    Relation(
        (
            "{who} owns a {colour} {thing}.",
            "A {colour} {thing} is what {who} owns.",
            "The {thing} that {who} has is {colour}.",
            "{who} has a {thing}, and it is {colour}.",
            "Among the things that {who} keeps is a {colour} {thing}.",
        ),
        (
            ("colour", "What colour is the {thing}?"),
            ("colour", "Which colour does the {thing} of {who} have?"),
            ("thing", "What does {who} own?"),
            ("thing", "Which thing belongs to {who}?"),
            ("thing", "Which thing is {colour}?"),
            ("who", "Who owns the {thing}?"),
            ("who", "To whom does the {colour} thing belong?"),
        ),
    ),
    Relation(
        (
            "{who} sold a {thing} for {price}.",
            "For {price} {who} sold a {thing}.",
            "When {who} sold a {thing}, somebody paid {price}.",
            "{who} asked {price} for a {thing} and got it.",
            "{who} found a buyer who gave {price} for a {thing}.",
        ),
        (
            ("price", "How much did {who} get?"),
            ("price", "What was the price of the {thing}?"),
            ("price", "How much did the {thing} cost?"),
            ("thing", "What did {who} sell?"),
            ("thing", "What was sold for {price}?"),
            ("who", "Who sold the {thing}?"),
            ("who", "Who got {price}?"),
        ),
    ),
    Relation(
        (
            "{who} travelled to {town} by {vehicle}.",
            "By {vehicle} {who} went on a trip to {town}.",
            "{who} took the {vehicle} for a trip to {town}.",
            "On a trip to {town} {who} used the {vehicle}.",
            "The trip that {who} made by {vehicle} ended in {town}.",
        ),
        (
            ("town", "Where did {who} travel?"),
            ("town", "What was the aim of the trip of {who}?"),
            ("town", "Which town was reached by {vehicle}?"),
            ("vehicle", "How did {who} travel?"),
            ("vehicle", "What did {who} use for the trip?"),
            ("who", "Who travelled by {vehicle}?"),
            ("who", "Who made a trip to {town}?"),
        ),
    ),
    Relation(
        (
            "{who} wrote a book of {pages} in {year}.",
            "In {year} {who} wrote a book; it has {pages}.",
            "A book that {who} wrote in {year} has {pages}.",
            "{who} filled {pages} with a book in {year}.",
            "The book that {who} finished in {year} fills {pages}.",
        ),
        (
            ("pages", "How long is the book of {who}?"),
            ("pages", "How many pages did {who} write?"),
            ("pages", "How long is the book of {year}?"),
            ("year", "When did {who} write a book?"),
            ("year", "From which year is the book of {who}?"),
            ("who", "Who wrote a book of {pages}?"),
            ("who", "Who wrote a book in {year}?"),
        ),
    ),
    Relation(
        (
            "{who} learns {subject} every {day}.",
            "Each {day} {who} has lessons in {subject}.",
            "On {day} {who} always takes a lesson in {subject}.",
            "{who} goes to a class in {subject} each {day}.",
            "The lessons in {subject} that {who} takes are always on a {day}.",
        ),
        (
            ("subject", "What does {who} learn?"),
            ("subject", "In what does {who} take lessons?"),
            ("subject", "What is taught on {day}?"),
            ("day", "On which day does {who} have lessons?"),
            ("day", "When are the lessons in {subject}?"),
            ("who", "Who learns {subject}?"),
            ("who", "Who has lessons on {day}?"),
        ),
    ),
    Relation(
        (
            "{who} opened a shop at the {place} in {month}.",
            "In {month} {who} opened a shop at the {place}.",
            "The shop that {who} has at the {place} opened in {month}.",
            "At the {place} {who} has had a shop since {month}.",
            "{month} was the month in which {who} opened a shop at the {place}.",
        ),
        (
            ("month", "When did {who} open a shop?"),
            ("month", "In which month did {who} open a shop?"),
            ("month", "When did the shop at the {place} open?"),
            ("place", "Where is the shop of {who}?"),
            ("place", "Where did {who} open a shop?"),
            ("who", "Who has a shop at the {place}?"),
            ("who", "Who opened a shop in {month}?"),
        ),
    ),
)
