"""How many examples a test tries, and how long one waits."""

import pytest

from tests.effort import ATTEMPTS_AT_LEAST, examples, patience_s


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


@pytest.mark.parametrize(("patience", "waited_s"), [(None, 2.0), ("1", 2.0), ("10", 20.0)])
def test_what_must_come_is_waited_for_longer_on_a_slow_machine(
    monkeypatch: pytest.MonkeyPatch, patience: str | None, waited_s: float
) -> None:
    monkeypatch.delenv("TEST_PATIENCE", raising=False)
    if patience is not None:
        monkeypatch.setenv("TEST_PATIENCE", patience)

    assert patience_s(2.0) == waited_s
