"""Figures as aligned text. Pure."""

import statistics
from collections.abc import Sequence


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value that this share of all values does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def render(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table with its columns aligned, numbers to the right."""
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    lines = [
        title,
        "  "
        + "  ".join(_align(c, w, i) for i, (c, w) in enumerate(zip(header, widths, strict=True))),
    ]
    lines += [
        "  " + "  ".join(_align(c, w, i) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        for row in rows
    ]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _align(cell: str, width: int, column: int) -> str:
    return cell.ljust(width) if column == 0 else cell.rjust(width)


def figure(value: float) -> str:
    """Return a number with three significant digits."""
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.3g}"
