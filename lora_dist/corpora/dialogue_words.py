"""What the people of the dataset `dialogues` arrange, and what comes between."""

from __future__ import annotations

from typing import NamedTuple


class Activity(NamedTuple):
    """Something that two people do together."""

    do: str
    places: tuple[str, ...]
    """Each begins with its preposition."""
    thing: str
    """What one of them has to bring."""


def _activity(do: str, places: str, thing: str) -> Activity:
    return Activity(do, tuple(places.split(", ")), thing)


ACTIVITIES = (
    _activity("play tennis", "in the park, at the club, behind the school", "the rackets"),
    _activity("go swimming", "in the lake, at the city pool, in the river", "the towels"),
    _activity("have lunch", "at the canteen, in the old mill, at the harbour", "the salad"),
    _activity("see a film", "at the Odeon, in the town hall, at the Rex", "the tickets"),
    _activity("practise the song", "in the church, in the music room, at the youth centre", "the notes"),
    _activity("play chess", "in the library, at the tea house, in the park", "the board"),
    _activity("have a picnic", "by the lake, in the castle garden, on the hill", "the blanket"),
    _activity("study for the exam", "in the library, at the tea house, in the reading room", "the books"),
    _activity("go climbing", "at the climbing hall, in the valley, at the quarry", "the ropes"),
    _activity("play cards", "at the tea house, in the garden, at the inn", "the cards"),
    _activity("fly the kite", "on the hill, at the beach, in the stadium", "the kite"),
    _activity("bake a cake", "in the school kitchen, at the youth centre, at the bakery", "the flour"),
    _activity("take pictures", "at the zoo, at the harbour, in the castle garden", "the camera"),
    _activity("sell old books", "at the flea market, at the school, in the town hall", "the table"),
)
ERRANDS = (
    "work late", "see the dentist", "finish a report", "go to a wedding", "take a test", "visit an aunt",
    "wait for the plumber", "pick up the car", "look after the twins", "give a talk", "clean the flat",
    "help a neighbour", "return the keys", "sign a contract", "pack for a trip", "paint the fence",
)  # fmt: skip
TIMES = ("nine", "ten", "eleven", "noon", "one", "two", "three", "four", "five", "six", "seven")
FLAWS = ("too crowded", "too loud", "too dark", "too cold", "too warm", "far too busy")
"""Of a place."""
MOODS = (("am", "is", "too tired for that"), ("have", "has", "hurt a knee"), ("am", "is", "bored by that"))
"""Why one would rather do something else: of oneself, of another person, and what."""
HINDRANCES = (("come", "comes", "straight from work"), ("have", "has", "too much to carry"), ("am", "is", "on foot"))
"""Why one cannot bring something, told like the moods."""

PROPOSALS = (
    "Shall we {do} {place} on {day} at {time}?",
    "Do you want to {do} {place}? {day} at {time}?",
    "I would like to {do} {place} on {day} at {time}. Will you come?",
    "Are you free on {day} at {time}? We could {do} {place}.",
    "Let us {do} {place} on {day}. Is {time} fine?",
    "{day} at {time}, {place}: shall we {do}?",
)
YES = ("Gladly.", "Good idea.", "Why not?", "Yes, I am in.", "With pleasure.", "That sounds good.")
GLAD = ("Great.", "Good.", "I look forward to it.", "Perfect.", "Then it is settled.")
HALT = ("Sorry,", "Oh no,", "Wait,", "I just see that", "What a pity,", "Hm,")
OFFERS = ("How about {it}?", "What about {it}?", "Would {it} do?", "Can we say {it}?")
OFFERED_PLACES = ("How about {it}?", "Could we do it {it}?", "Why not {it}?")
AGREED = ("That works for me.", "Fine with me.", "All right.", "Yes, let us do that.", "Agreed.", "That suits me.")
THANKS = ("Thank you.", "Kind of you.", "Great.", "Perfect.")
WILL = ("Yes, I will.", "Of course.", "No problem.", "Sure.")
BYES = ("See you then.", "I will note it down.", "Good that we talked.", "Thanks.", "Until then.")
