"""What the command says at its end; that it runs at all is seen in e2e/test_demo.py."""

import io

import pytest

from e2e.client import Answer, Failure, Timed
from e2e.demo.__main__ import conclude
from e2e.demo.screen import Screen
from e2e.demo.tally import Tally


@pytest.mark.parametrize(
    ("answered", "failed", "status"), [(500, 0, 0), (499, 1, 1)], ids=["good", "one failed"]
)
def test_the_last_line_and_the_exit_status_tell_the_truth(
    answered: int, failed: int, status: int
) -> None:
    tally = Tally()
    for number in range(answered + failed):
        outcome = Failure.RESET if number < failed else Answer("web-1", "192.0.2.1", 40000)
        tally.add("outside IPv4", Timed(float(number), 0.001, outcome))
    output = io.StringIO()
    screen = Screen(output, is_live=False, is_colourful=False)

    assert conclude(screen, tally, [0.004, 0.002], 12.0) == status

    assert output.getvalue().splitlines()[-1] == f"{failed} failed connections of 500"
