"""What `sliceproxy explain` says of the service, cut to the part that matters and to the width there is."""

import contextlib
import io
import itertools
import re
import textwrap
from pathlib import Path

from e2e.namespace import TopologyError
from proxy import cli

# the service has no Local policy, and the name of its only slice says nothing here
_ALWAYS_DROPPED = ("LOCAL LIST", "SLICE")
_DROPPED_FOR_WIDTH = "NODE"


def explain(manifests: Path, service: str, node: str) -> str:
    """The text that the command prints. Raises TopologyError if it fails.

    In this process, so that nobody has to wait while an interpreter starts.
    """
    arguments = ["explain", service, "--manifests", str(manifests), "--node", node]
    with contextlib.redirect_stdout(io.StringIO()) as output:
        status = cli.main(arguments)
    if status != 0:
        raise TopologyError(f"sliceproxy {' '.join(arguments)}: exit {status}")
    return output.getvalue()


def trim(text: str, width: int) -> list[str]:
    """The part about the first family, and whether the other one differs in more than addresses."""
    blocks = [block.splitlines() for block in text.strip().split("\n\n")]
    first, *others = (re.findall(r"IPv[46]", block[0])[0] for block in blocks)
    is_same = len({tuple(_verdicts(block)) for block in blocks}) == 1
    alike = [f"{other} {'alike' if is_same else 'differs'}" for other in others]
    chosen = f"{', '.join([first, *alike])}: {_chosen(blocks[0])}"
    rows = drop_columns(_table(blocks[0]), _ALWAYS_DROPPED)
    if rows and max(map(len, rows)) > width:
        rows = drop_columns(rows, (_DROPPED_FOR_WIDTH,))
    return textwrap.wrap(chosen, width, subsequent_indent="  ") + [row[:width] for row in rows]


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
