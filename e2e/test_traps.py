"""What is easily got wrong about Services: one test each, which looks whether what pins it is there and runs.

The proofs run as tests of their own; see e2e/flows/traps.py.
"""

import ast
import functools
from pathlib import Path

import pytest

from e2e.flows import exceptions
from e2e.flows.traps import TRAPS, Trap
from e2e.test_flows import NAMES

ROOT = Path(__file__).parents[1]


@functools.cache
def _names_in(file: Path) -> frozenset[str]:
    """The names of all test functions of a file."""
    tree = ast.parse(file.read_text())
    return frozenset(
        each.name
        for each in ast.walk(tree)
        if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)
        and each.name.startswith("test_")
    )


def complaint(proof: str) -> str:
    """What is wrong with a proof, or nothing."""
    file, _, test = proof.partition("::")
    if test:
        path = ROOT / file
        return "" if path.is_file() and test in _names_in(path) else f"there is no test {proof}"
    settings = [s for where, name, s in NAMES if f"{where}/{name}" == proof]
    if not settings:
        return f"there is no scenario {proof}"
    where, _, name = proof.partition("/")
    excused = [s for s in settings if exceptions.permanent("nftables", where, name, s)]
    return f"{proof} is excused" if excused else ""


@pytest.mark.parametrize("trap", TRAPS, ids=lambda trap: trap.name.replace(" ", "_"))
def test_trap(trap: Trap) -> None:
    assert trap.proofs
    assert [text for text in map(complaint, trap.proofs) if text] == []


def test_there_are_twenty_five() -> None:
    assert len({trap.name for trap in TRAPS}) == 25
