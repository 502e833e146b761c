"""What the dataset `sentiment` has opinions about, and which ones."""

from __future__ import annotations

from typing import NamedTuple


class Aspect(NamedTuple):
    """Something that is judged, such as the waiter of a restaurant."""

    name: str
    is_plural: bool = False


class Group(NamedTuple):
    """Aspects that the same opinions fit. An aspect is in one group only."""

    aspects: tuple[Aspect, ...]
    opinions: tuple[tuple[str, str], ...]
    """Pairs of a good word and its opposite."""


class Domain(NamedTuple):
    """A kind of thing that is reviewed."""

    subjects: tuple[str, ...]
    groups: tuple[Group, ...]
    preposition: str
    """How one speaks of another one: `at` the last hotel."""
    leads: tuple[str, ...]
    """Sentences that say nothing about the opinion."""


def _group(aspects: str, opinions: str) -> Group:
    """A group from `waiter, staff*` (a star marks a plural) and `friendly/rude, ...`."""
    names = aspects.split(", ")
    pairs = (opinion.split("/") for opinion in opinions.split(", "))
    return Group(
        tuple(Aspect(name.rstrip("*"), name.endswith("*")) for name in names), tuple((good, bad) for good, bad in pairs)
    )


_MANNERS = "friendly/rude, patient/impatient, helpful/unhelpful, polite/grumpy, cheerful/sullen, attentive/careless"
_HOSTS = _group("receptionist, porter, owner, night guard, cleaners*, hosts*", _MANNERS)
_WAITERS = _group("waiter, cook, bartender, manager, waitresses*, staff*", _MANNERS)
_CLERKS = _group("clerk, driver, mechanic, cashier, trainer, nurses*, assistants*", _MANNERS)
_ROOMS = _group(
    "room, lobby, bathroom, terrace, hallway, lounge, beds*",
    "clean/dirty, comfortable/uncomfortable, tidy/messy, pleasant/unpleasant, well kept/run-down, inviting/dreary",
)
_FOOD = _group(
    "soup, bread, fish, breakfast, pasta, cake, salads*",
    "tasty/bland, fresh/stale, delicious/awful, well seasoned/oversalted, excellent/disappointing, appetising/greasy",
)
_PARTS = _group(
    "handle, lid, strap, zip, hinge, stand, buttons*, seams*",
    "sturdy/flimsy, well made/badly made, reliable/unreliable, practical/awkward, solid/wobbly, durable/fragile",
)
_DEALINGS = _group(
    "delivery, booking, repair, refund, payment, registration, help line, returns*",
    "quick/slow, smooth/chaotic, simple/confusing, careful/sloppy, punctual/late, transparent/misleading",
)
_STORY = _group(
    "plot, ending, script, first half, dialogue, main story, final scenes*",
    "gripping/boring, clever/predictable, moving/silly, original/worn out, believable/far-fetched, witty/clumsy",
)
_CRAFT = _group(
    "music, acting, camera work, sound, editing, costumes*, effects*",
    "superb/dreadful, impressive/feeble, elegant/tasteless, skilful/amateurish, powerful/lifeless, refined/crude",
)

DOMAINS = (
    Domain(
        ("hotel", "hostel", "guest house", "mountain hut", "motel"),
        (_HOSTS, _ROOMS, _FOOD),
        "at",
        (
            "We spent {count} nights at this {subject}.",
            "{name} and I were at this {subject} in {month}.",
            "I booked this {subject} for {name}.",
            "This {subject} is {count} minutes from the station.",
        ),
    ),
    Domain(
        ("restaurant", "cafe", "canteen", "bistro", "pizzeria"),
        (_WAITERS, _FOOD, _ROOMS),
        "at",
        (
            "We ate at this {subject} on {day}.",
            "{name} took me to this {subject}.",
            "There were {count} of us at the table.",
            "This {subject} opened in {month}.",
        ),
    ),
    Domain(
        ("backpack", "kettle", "tent", "suitcase", "lamp", "radio", "tool box"),
        (_PARTS, _DEALINGS),
        "with",
        (
            "I bought this {subject} in {month}.",
            "{name} gave me this {subject}.",
            "I have had this {subject} for {count} weeks.",
            "This {subject} came on {day}.",
        ),
    ),
    Domain(
        ("film", "series", "play", "documentary", "musical"),
        (_STORY, _CRAFT),
        "in",
        (
            "I saw this {subject} with {name}.",
            "We watched this {subject} on {day}.",
            "This {subject} has been out since {month}.",
            "There were {count} people in our row.",
        ),
    ),
    Domain(
        ("repair shop", "bank", "clinic", "gym", "language school", "travel agency"),
        (_CLERKS, _DEALINGS, _ROOMS),
        "at",
        (
            "I have been with this {subject} for {count} years.",
            "{name} sent me to this {subject}.",
            "I went to this {subject} on {day}.",
            "This {subject} moved in {month}.",
        ),
    ),
)
