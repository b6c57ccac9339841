"""The processor time of programs is told by whom it was spent."""

import subprocess
import sys

from bench import spent


def test_what_a_program_has_computed_is_its_own() -> None:
    before = spent.so_far()
    subprocess.run([sys.executable, "-S", "-c", "sum(range(2_000_000))"], check=True)

    found = spent.since_ms(before)

    assert found.keys() == {"own", "kernel"}
    assert found["own"] > found["kernel"] >= 0
