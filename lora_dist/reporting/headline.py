"""The answer in words: which run is best, and whether less than full fine-tuning is enough."""

from __future__ import annotations

from dataclasses import dataclass

from lora_dist.errors import StorageError
from lora_dist.reporting.answers import answer_sentences
from lora_dist.reporting.collect import short_hash
from lora_dist.reporting.differences import base_for, chosen, difference, full_for, selection_split
from lora_dist.reporting.measures import PERPLEXITY
from lora_dist.reporting.pruned import pruned_sentences
from lora_dist.reporting.rows import Comparison, Group, Row, Versus, best, settings_of
from lora_dist.reporting.words import METHOD_WORDS, listed, many, percent, sentence, setting

_CHEAPER = ("lora", "qlora", "partial", "prefix", "ia3")
_SAME = 0.05  # costs that differ by less are called the same


@dataclass(frozen=True)
class Headline:
    """The answer for one group of comparable rows."""

    title: str
    sentences: tuple[str, ...]


def headlines(comparison: Comparison) -> list[Headline]:
    """One answer per group; a single one that says so while nothing is finished."""
    if not comparison.groups:
        waiting = many(len(comparison.unfinished), "run")
        return [Headline("No run has finished yet", (f"{waiting} listed below with state and reason.",))]
    several = len(comparison.groups) > 1
    answers = [_answer(group) for group in comparison.groups]
    if not several:
        return answers
    return [
        Headline(f"Tokens {short_hash(group.token_hash)}: {answer.title}", answer.sentences)
        for group, answer in zip(comparison.groups, answers, strict=True)
    ]


def _answer(group: Group) -> Headline:
    top = best(group.rows)
    if top is None:
        return Headline("Nothing to compare", (f"No finished run has a test {group.measure.name}.",))
    picks = [pick for kind in _CHEAPER if (pick := chosen(group.of_kind(kind)))]
    sentences = [_best_sentence(top, group), *(_against_full(pick, group) for pick in picks)]
    if not picks and (full := chosen(group.of_kind("full"))) and full.versus_base:
        sentences.append(f"{sentence(_called(full))} is {_difference_words(full.versus_base, 'the base model')}.")
    sentences += [*answer_sentences(group), *pruned_sentences(group)]
    sentences += [warning for pick in picks if (warning := _worse_than_base(pick))]
    return Headline(_title(picks, top), tuple(sentences))


def _title(picks: list[Row], top: Row) -> str:
    if not picks:
        return f"{top.measure.best}: {top.name}"
    pick = picks[0]
    what, versus = METHOD_WORDS[pick.kind], pick.versus_full
    if versus is None:
        return f"Is {what} enough? Open: no full fine-tuning has finished to compare it with"
    if not versus.excludes_zero:
        return f"Is {what} enough? No difference to full fine-tuning shown"
    value, interval = versus.measure.difference_words(versus.value, versus.low, versus.high, signed=False)
    told = f"{value} {versus.measure.unit} {interval} {versus.verdict} than full fine-tuning"
    return f"Is {what} enough? {'Yes' if versus.verdict == 'better' else 'Not quite'}: {told}"


def _best_sentence(top: Row, group: Group) -> str:
    estimate = top.quality()
    if estimate is None:
        raise ValueError("the best row has been measured")
    value, interval = top.measure.value_words(estimate.value, estimate.low, estimate.high)
    found = f"{top.measure.best}: {top.name} with {value} {interval}".rstrip()
    second = best([row for row in group.rows if row is not top])
    if second is None:
        return f"{found}; nothing else has been measured."
    try:
        versus = difference(second, top)
    except StorageError:  # the table's notes say what is wrong with these scores
        return f"{found}, before {second.name}."
    if versus.excludes_zero:
        return f"{found}; next is {second.name}, {_difference_words(versus, top.name)}."
    return f"{found}; next is {second.name}: no difference between the two shown."


def _against_full(pick: Row, group: Group) -> str:
    """What one cheaper method trains, how it compares with full fine-tuning, and what it costs."""
    trains = f"{sentence(_called(pick))} trains {percent(pick.trainable_share)} of the parameters"
    full = full_for(pick, group)
    if pick.versus_full is None or full is None:
        gained = f" and is {_difference_words(pick.versus_base, 'the base model')}" if pick.versus_base else ""
        return f"{trains}{gained}.{_pick_note(pick, group)}"
    parts = [f"{trains} and is {_difference_words(pick.versus_full, 'full fine-tuning')}"]
    if (share := _share_of_gain(pick, full, group)) is not None:
        parts.append(f"it reaches {share:.0%} of full fine-tuning's gain over the base model (in nats per token)")
    if cost := _cost(pick, full):
        parts.append(cost)
    return f"{'; '.join(parts)}.{_pick_note(pick, group)}"


def _called(row: Row) -> str:
    words = METHOD_WORDS[row.kind]
    name = row.name.removeprefix(row.kind).strip()
    return f"{words} ({name})" if name else words


def _difference_words(versus: Versus, reference: str) -> str:
    words, unit = versus.measure.difference_words, versus.measure.unit
    if not versus.excludes_zero:
        value, interval = words(versus.value, versus.low, versus.high)
        return f"not shown to differ from {reference} ({value} {interval} {unit}: no difference shown)"
    value, interval = words(versus.value, versus.low, versus.high, signed=False)
    return f"{value} {unit} {interval} {versus.verdict} than {reference}"


def _share_of_gain(pick: Row, full: Row, group: Group) -> float | None:
    """How much of full fine-tuning's fall in nats per token this row reaches; None unless both falls are shown, and for
    classifiers, whose base has a head that knows nothing."""
    base = base_for(pick, group)
    falls = all(row.versus_base and row.versus_base.verdict == "better" for row in (pick, full))
    if base is None or pick.measure is not PERPLEXITY or not falls:
        return None
    base_bits, full_bits, pick_bits = (_nats(row) for row in (base, full, pick))
    return (base_bits - pick_bits) / (base_bits - full_bits) if base_bits > full_bits else None


def _nats(row: Row) -> float:
    return row.measured("test", "nll_sum") / row.measured("test", "scored_tokens")


def _cost(pick: Row, full: Row) -> str:
    """Time per epoch and peak memory beside full fine-tuning's, where both ran on the same kind of machine."""
    if not (pick.record and full.record and pick.record.train and full.record.train):
        return ""
    mine, theirs = pick.record.train, full.record.train
    if pick.record.environment.get("host") != full.record.environment.get("host"):
        return ""
    if (mine.world_size, mine.peak_memory_kind) != (theirs.world_size, theirs.peak_memory_kind):
        return ""
    time = _times(mine.seconds_per_epoch, theirs.seconds_per_epoch)
    memory = _times(mine.peak_memory_bytes, theirs.peak_memory_bytes)
    return f"an epoch takes {time} time and it peaks at {memory} memory"


def _times(mine: float, theirs: float) -> str:
    ratio = mine / theirs if theirs else 1.0
    return "the same" if abs(ratio - 1) < _SAME else f"{ratio:.2g}x the"


def _pick_note(pick: Row, group: Group) -> str:
    """What stands behind the row that speaks for its method: its other seeds, and what it was picked from."""
    rivals = settings_of(group.of_kind(pick.kind))
    mine = next(rows for rows in rivals if pick in rows)
    note = ""
    if len(mine) > 1 and all(row.versus_full for row in mine):
        found = [row.versus_full for row in mine if row.versus_full]
        values = [versus.measure.difference_words(versus.value, versus.low, versus.high)[0] for versus in found]
        note = f" Seed by seed the difference to full fine-tuning is {listed(values)}."
    if len(rivals) < 2:
        return note
    split = selection_split(group.of_kind(pick.kind))
    fulls = len(settings_of(group.of_kind("full")))
    flattered = "" if split == "validation" else ", which flatters it a little"
    against = f"; full fine-tuning had {many(fulls, 'setting')}" if fulls and fulls != len(rivals) else ""
    return f"{note} It is the best of {len(rivals)} settings by {split} {pick.measure.name}{flattered}{against}."


def _worse_than_base(pick: Row) -> str:
    versus = pick.versus_base
    if versus is None or versus.verdict == "better":
        return ""
    how = "worse than" if versus.excludes_zero else "not shown to be better than"
    value, interval = versus.measure.difference_words(versus.value, versus.low, versus.high)
    return (
        f"After its training {pick.name} is {how} the base model ({value} {interval} {versus.measure.unit}): a "
        "comparison that moves nothing proves nothing. Try another learning rate (it had "
        f"{setting(pick.learning_rate)}) or more steps."
    )
