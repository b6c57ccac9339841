"""How many examples a test tries."""

import pytest

from tests.effort import ATTEMPTS_AT_LEAST, examples


@pytest.mark.parametrize(
    ("effort", "tried"),
    [(None, 25), ("1", 25), ("0.2", 5), ("0.5", 12), ("0.01", ATTEMPTS_AT_LEAST)],
)
def test_a_part_of_the_usual_number_and_never_none(
    monkeypatch: pytest.MonkeyPatch, effort: str | None, tried: int
) -> None:
    monkeypatch.delenv("TEST_EFFORT", raising=False)
    if effort is not None:
        monkeypatch.setenv("TEST_EFFORT", effort)

    assert examples(25) == tried
