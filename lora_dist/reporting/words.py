"""Numbers and texts as people read them. Everything is plain ASCII of ours: terminals without UTF-8 print it too."""

from __future__ import annotations

import math
import re

NOTHING = "-"
METHOD_WORDS = {
    "base": "the untrained base model",
    "lora": "LoRA",
    "qlora": "QLoRA",
    "partial": "partial fine-tuning",
    "full": "full fine-tuning",
    "prefix": "prefix tuning",
    "ia3": "(IA)^3",
}
_UNREADABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
_SECONDS_PER_MINUTE, _SECONDS_PER_HOUR = 60, 3600


def state_style(state: str) -> str:
    """The colour of a run's state."""
    styles = {"completed": "green", "running": "cyan", "waiting": "dim", "pending": "dim"}
    return styles.get(state) or ("yellow" if state in ("interrupted", "cancelled", "unknown") else "red")


def count(number: float | None) -> str:
    """A count with three significant digits: 999, 12.4k, 1.3M, 7.24B."""
    if number is None:
        return NOTHING
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= size * 0.9995:
            return f"{_three_digits(number / size)}{letter}"
    return f"{number:.0f}" if float(number).is_integer() else _three_digits(number)


def size(number: float | None) -> str:
    """Bytes in binary units: 812 MiB, 27.4 GiB."""
    if number is None:
        return NOTHING
    units = ["TiB", "GiB", "MiB", "KiB", "B"]
    while abs(number) >= 1023.5 and len(units) > 1:
        number /= 1024
        units.pop()
    unit = units[-1]
    return f"{number:.0f} {unit}" if unit in ("B", "KiB") or number >= 100 else f"{_three_digits(number)} {unit}"


def duration(seconds: float | None) -> str:
    """Seconds as 0.85 s, 13.2 s, 4m 05s, 2h 13m."""
    if seconds is None:
        return NOTHING
    if seconds < 59.95:
        return f"{seconds:.2f} s" if seconds < 1 else f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < _SECONDS_PER_HOUR:
        return f"{whole // _SECONDS_PER_MINUTE}m {whole % _SECONDS_PER_MINUTE:02d}s"
    minutes = round(seconds / _SECONDS_PER_MINUTE)
    return f"{minutes // 60}h {minutes % 60:02d}m"


def speed(tokens_per_second: float | None) -> str:
    """Tokens per second: 12.4k tok/s."""
    return NOTHING if tokens_per_second is None else f"{count(tokens_per_second)} tok/s"


def percent(share: float | None) -> str:
    """A share of one as 100%, 5.1%, 0.03%."""
    if share is None:
        return NOTHING
    value = 100 * share
    if value == 0 or value >= 99.95:
        return f"{value:.0f}%"
    return f"{value:.1f}%" if value >= 0.95 else f"{value:.2g}%"


def setting(value: object) -> str:
    """A setting's value: small floats in scientific notation without padding (2e-4), lists joined by +."""
    if isinstance(value, float):
        text = f"{value:g}"
        mantissa, sign, exponent = text.partition("e")
        return f"{mantissa}e{int(exponent)}" if sign else (_scientific(value) if 0 < abs(value) < 1e-2 else text)
    if isinstance(value, list | tuple):
        return "+".join(str(item) for item in value)
    return str(value)


def perplexity(value: float | None) -> str:
    """A perplexity without an interval: 2.051, 11.46, 101.3, 4,184."""
    if value is None:
        return NOTHING
    if value >= 1e7:
        return f"{value:.3g}"
    return f"{value:,.{_decimals(value)}f}"


def with_interval(
    value: float,
    low: float | None,
    high: float | None,
    *,
    signed: bool = False,
    digits: int = 2,
    least_decimals: int = 0,
) -> tuple[str, str]:
    """A value and its interval: ("0.12", "[0.05, 0.20]").

    They have as many decimals as show `digits` digits of the interval's width, and at least `least_decimals`; `signed`
    puts a + before a value.
    """
    sign = "+" if signed else ""
    if low is None or high is None:
        return (f"{value:{sign},.{_decimals(value)}f}" if abs(value) < 1e7 else f"{value:{sign}.3g}"), ""
    if not all(abs(number) < 1e7 for number in (value, low, high)):  # huge, infinite or NaN
        return f"{value:{sign}.3g}", f"[{low:.3g}, {high:.3g}]"
    width = high - low
    decimals = (
        _decimals(value) if width <= 0 else min(4, max(least_decimals, digits - 1 - math.floor(math.log10(width))))
    )
    return _plain(value, sign, decimals), f"[{_plain(low, '', decimals)}, {_plain(high, '', decimals)}]"


def one_line(text: object, limit: int = 200) -> str:
    """`text` on one line without control characters (they could steer a terminal), cut at `limit` characters."""
    flat = " ".join("".join(sign if sign.isprintable() else " " for sign in str(text)).split())
    return flat if len(flat) <= limit else flat[: limit - 3].rstrip() + "..."


def readable(text: object) -> str:
    """`text` with its lines and tabs; other control characters and broken code points become U+FFFD."""
    return _UNREADABLE.sub("\N{REPLACEMENT CHARACTER}", str(text).replace("\r\n", "\n"))


def listed(parts: list[str]) -> str:
    """a; a and b; a, b and c."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]]) if len(parts) > 1 else "".join(parts)


def sentence(text: str) -> str:
    """`text` with a capital at its beginning."""
    return text[:1].upper() + text[1:]


def many(number: int, noun: str) -> str:
    """1 run, 2 runs."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _three_digits(value: float) -> str:
    magnitude = abs(value)
    return f"{value:.0f}" if magnitude >= 99.95 else f"{value:.1f}" if magnitude >= 9.995 else f"{value:.2f}"


def _decimals(value: float) -> int:
    magnitude = abs(value)
    return 3 if magnitude < 10 else 2 if magnitude < 100 else 1 if magnitude < 1000 else 0


def _plain(value: float, sign: str, decimals: int) -> str:
    text = f"{value:{sign},.{decimals}f}"
    return text.replace("-", "+" if sign else "") if float(text.replace(",", "")) == 0 else text  # no "-0.00"


def _scientific(value: float) -> str:
    mantissa, _, exponent = f"{value:.3e}".partition("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
