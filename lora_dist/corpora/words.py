"""The words that the built-in texts share, so that no noun of a word problem is new to the built-in model."""

from __future__ import annotations

from typing import NamedTuple


class Noun(NamedTuple):
    """A thing that can be counted."""

    one: str
    many: str

    def of(self, count: int) -> str:
        """`1 apple`, `3 apples`."""
        return f"{count} {self.one if count == 1 else self.many}"


def _nouns(*names: str) -> tuple[Noun, ...]:
    """Nouns from `singular/plural`, or from a singular whose plural only adds an s."""
    return tuple(Noun(*(name.split("/") if "/" in name else (name, f"{name}s"))) for name in names)


NAMES = (
    "Mia", "Tom", "Anna", "Leo", "Sara", "Ben", "Lena", "Max", "Nora", "Sam", "Ella", "Omar",
    "Ruth", "Ivan", "Clara", "Hugo", "Zoe", "Paul", "Amy", "Karl", "Lily", "Jonas", "Maya", "Finn",
)  # fmt: skip

ITEMS = _nouns(
    "apple", "pear", "lemon", "egg", "bun", "cookie", "muffin", "candle", "pencil", "marble", "sticker", "card",
    "shell", "button", "book", "cup", "brick", "stone", "bead", "ball", "kite", "hat", "stamp", "plum",
)  # fmt: skip

CONTAINERS = _nouns("bag", "box/boxes", "basket", "jar", "crate", "tray")
PLANTS = _nouns("tulip", "rose", "bean", "carrot", "tree", "onion")
BAKED = _nouns("bun", "cookie", "muffin", "cake", "pie", "roll")
ANIMALS = _nouns("cat", "dog", "horse", "cow", "hen", "goat", "duck", "rabbit", "owl", "fox/foxes")
VEHICLES = ("car", "bus", "train", "boat", "truck", "bike")
JOBS = ("gardener", "painter", "baker", "driver", "teacher", "farmer")
PLACES = (
    "market", "school", "library", "park", "farm", "harbour", "station", "museum", "bakery", "garden",
    "kitchen", "workshop",
)  # fmt: skip
FURNITURE = ("table", "shelf", "bench", "chair", "bed", "desk")
AREAS = ("garden", "field", "room", "park", "yard", "pool")
COLOURS = ("red", "blue", "green", "yellow", "white", "black", "brown", "grey")
QUALITIES = ("small", "big", "old", "new", "heavy", "light", "round", "long", "clean", "quiet")
MOODS = ("happy", "tired", "glad", "hungry", "busy", "calm", "proud", "late")
WEATHERS = ("sunny", "cloudy", "windy", "rainy", "cold", "warm")
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = ("January", "March", "April", "June", "July", "September", "October", "December")

# Only the datasets of instructions and questions use these; the built-in model has not met them.
TRADES = (*JOBS, "doctor", "sailor", "clerk", "nurse", "pilot", "singer", "tailor", "guide")
THINGS = ("basket", "table", "lamp", "kite", "chair", "bell", "map", "drum", "ladder", "clock", "mirror", "boat")
ALL_MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
)  # fmt: skip
SURNAMES = (
    "Berg", "Costa", "Dahl", "Egan", "Fuchs", "Grant", "Hale", "Ito", "Jansen", "Klein", "Lund", "Moreau", "Novak",
    "Okoye", "Price", "Quinn", "Rossi", "Silva", "Turner", "Vega",
)  # fmt: skip
TOWNS = (
    "Oslo", "Lima", "Cork", "Ghent", "Turin", "Leeds", "Porto", "Basel", "Kyoto", "Riga", "Quito", "Bergen", "Malmo",
    "Graz", "Perth", "Accra",
)  # fmt: skip
