"""Durations as Go writes them (`30s`, `1h0m0s`, `500ms`): the only way Kubernetes files and flags state a time.

Inside this program durations are float seconds; text exists at the border alone.
"""

import re
from typing import Final

_NANOSECONDS: Final = {
    "ns": 1,
    "us": 10**3,
    "µs": 10**3,  # U+00B5, the micro sign
    "μs": 10**3,  # U+03BC, the Greek letter
    "ms": 10**6,
    "s": 10**9,
    "m": 60 * 10**9,
    "h": 3600 * 10**9,
}
_PART: Final = re.compile(r"([0-9]*)(?:\.([0-9]*))?(ns|us|µs|μs|ms|s|m|h)")
_MAX_NANOSECONDS: Final = 2**63 - 1


class Duration(float):
    """Seconds, in a wire Struct: marks fields whose text is a duration, for msgspec's hooks."""

    __slots__ = ()


def parse(text: str) -> Duration:
    """Return the seconds that a Go duration stands for.

    Follows Go's time.ParseDuration: every number needs a unit (only a bare 0 goes without), units add up in any
    order, a leading sign is allowed. Raises ValueError, with a text that shows the right form.
    """
    body = text[1:] if text[:1] in {"+", "-"} else text
    total = _nanoseconds(body)
    if total is None:
        raise ValueError(
            f"{text!r} is not a duration: write a number with a unit, such as 30s, 1m30s, 1h or 500ms"
        )
    if total > _MAX_NANOSECONDS:
        raise ValueError(f"{text!r} is too long a duration: at most about 292 years")
    return Duration((-total if text.startswith("-") else total) / 10**9)


def render(seconds: float) -> str:
    """Return the text Go prints for a duration: `0s`, `1.5s`, `15m0s`, `24h0m0s`, `250ms`."""
    nanoseconds = round(seconds * 10**9)
    sign, rest = ("-", -nanoseconds) if nanoseconds < 0 else ("", nanoseconds)
    if rest == 0:
        return "0s"
    for unit, size, limit in (("ns", 1, 10**3), ("µs", 10**3, 10**6), ("ms", 10**6, 10**9)):
        if rest < limit:
            return f"{sign}{_decimal(rest, size)}{unit}"
    minutes, below_minute = divmod(rest, 60 * 10**9)
    hours, minutes = divmod(minutes, 60)
    text = f"{_decimal(below_minute, 10**9)}s"
    if minutes or hours:
        text = f"{minutes}m{text}"
    return f"{sign}{hours}h{text}" if hours else sign + text


def _nanoseconds(body: str) -> int | None:
    if body == "0":
        return 0
    total = position = 0
    while position < len(body):
        part = _PART.match(body, position)
        if part is None:
            return None
        whole, fraction, unit = part.group(1), part.group(2) or "", part.group(3)
        if not whole and not fraction:
            return None
        # integers throughout: 0.1s must be 100 ms exactly; what is below a nanosecond is cut off, as Go does
        size = _NANOSECONDS[unit]
        total += int(whole or "0") * size + int(fraction or "0") * size // 10 ** len(fraction)
        position = part.end()
    return total if body else None


def _decimal(amount: int, unit: int) -> str:
    whole, rest = divmod(amount, unit)
    digits = len(str(unit)) - 1
    fraction = f"{rest:0{digits}d}".rstrip("0") if rest else ""
    return f"{whole}.{fraction}" if fraction else str(whole)
