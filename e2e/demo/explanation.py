"""What `sliceproxy explain` says of the service, cut to the part that matters and to the width there is."""

import itertools
import re
import textwrap
from pathlib import Path

from e2e.demo.daemon import COMMAND
from e2e.namespace import run

# the service has no Local policy, and the name of its only slice says nothing here
_ALWAYS_DROPPED = ("LOCAL LIST", "SLICE")
_DROPPED_FOR_WIDTH = "NODE"


def explain(manifests: Path, service: str, node: str) -> str:
    """The text that the command prints. Raises TopologyError if it fails."""
    place = ["--manifests", str(manifests), "--node", node]
    return run([*COMMAND, "explain", service, *place])


def trim(text: str, width: int) -> list[str]:
    """The lists and endpoints of the first family, and a note if the other family differs in more than addresses."""
    blocks = [block.splitlines() for block in text.strip().split("\n\n")]
    lines = _trim_block(blocks[0], width)
    if len({tuple(_verdicts(block)) for block in blocks}) > 1:
        families = [re.findall(r"IPv[46]", block[0])[0] for block in blocks]
        lines.append(f"{' and '.join(families)} differ; this is {families[0]}")
    return lines


def _trim_block(block: list[str], width: int) -> list[str]:
    lines = textwrap.wrap(_chosen(block), width, subsequent_indent="  ")
    rows = drop_columns(_table(block), _ALWAYS_DROPPED)
    if rows and max(map(len, rows)) > width:
        rows = drop_columns(rows, (_DROPPED_FOR_WIDTH,))
    return lines + [row[:width] for row in rows]


def _verdicts(block: list[str]) -> list[str]:
    """What was decided, without what differs between families in any case."""
    rows = drop_columns(_table(block), ("ENDPOINT", "SLICE"))
    return [_chosen(block), *sorted(" ".join(row.split()) for row in rows)]


def _chosen(block: list[str]) -> str:
    return " ".join(next(line for line in block if line.startswith("  cluster list")).split())


def _table(block: list[str]) -> list[str]:
    """The table of endpoints without its indentation; empty if there are none."""
    rows = itertools.dropwhile(lambda line: not line.startswith("  ENDPOINT"), block)
    return [row[2:] for row in rows]


def drop_columns(table: list[str], names: tuple[str, ...]) -> list[str]:
    """The table without the columns of these names. Its first line has the names, left-aligned over the columns."""
    header = table[0] if table else ""
    # a name may hold a single space; columns are apart by two at least
    starts = [found.start() for found in re.finditer(r"(?<!\S)(?<!\S )\S", header)]
    spans = list(itertools.pairwise([*starts, None]))
    kept = [(begin, end) for begin, end in spans if header[begin:end].strip() not in names]
    return ["".join(line[begin:end] for begin, end in kept).rstrip() for line in table]
