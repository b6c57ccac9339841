"""The processor time of programs is told by whom it was spent."""

import subprocess
import sys

import pytest

from bench import spent

_BUSY = "sum(range(10_000_000)); print(flush=True); input()"


def test_what_a_program_has_computed_is_its_own() -> None:
    before = spent.so_far()
    subprocess.run(
        [sys.executable, "-S", "-c", _BUSY], check=True, capture_output=True, input=b"\n"
    )

    found = spent.since_ms(before)

    assert found.keys() == {"own", "kernel"}
    assert found["own"] > found["kernel"] >= 0


def test_one_that_still_runs_counts_and_its_end_changes_nothing() -> None:
    before = spent.so_far()
    with subprocess.Popen(
        [sys.executable, "-S", "-c", _BUSY], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as program:
        assert program.stdout is not None
        program.stdout.readline()
        running = sum(spent.since_ms(before).values())
        program.communicate(b"\n")

    assert running > 50
    assert sum(spent.since_ms(before).values()) == pytest.approx(running, rel=0.5)
