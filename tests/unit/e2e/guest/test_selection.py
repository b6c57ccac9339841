"""What runs in the guest."""

import ast
from pathlib import Path

import pytest

import backends
from e2e.capabilities import CAPABILITIES
from e2e.guest import selection
from e2e.guest.selection import Run

ROOT = Path(__file__).parents[4]


def needs_ipvs(file: Path) -> bool:
    """Whether a test of this file says that it requires what only the guest is sure to have."""
    required = {
        word.value
        for each in ast.walk(ast.parse(file.read_text()))
        if isinstance(each, ast.Call)
        and isinstance(each.func, ast.Attribute)
        and each.func.attr == "requires"
        for word in each.args
        if isinstance(word, ast.Constant)
    }
    return bool(required & {"ipvs", "dummy"})


def arguments(runs: list[Run]) -> set[str]:
    return {argument for run in runs for argument in run.arguments}


def files(runs: list[Run]) -> set[str]:
    named = {argument.partition("::")[0] for argument in arguments(runs)}
    return {each for each in named if each.endswith(".py")}


def test_every_file_that_is_named_exists() -> None:
    assert [each for each in files(selection.everything()) if not (ROOT / each).exists()] == []


def test_every_test_file_that_needs_ipvs_is_run() -> None:
    here = (ROOT / "e2e").glob("test_*.py")
    needing = {str(each.relative_to(ROOT)) for each in here if needs_ipvs(each)}

    assert needing <= files(selection.everything())


def test_everything_holds_the_usual_but_for_the_sampling() -> None:
    assert files(selection.usual()) <= files(selection.everything())
    assert "--sample" not in arguments(selection.everything())


def test_the_usual_takes_at_most_twelve_minutes_and_one_boot() -> None:
    (usual,) = selection.usual()

    assert usual.limit_s <= 12 * 60


def test_only_races_have_a_second_processor() -> None:
    with_two = [run for run in selection.everything() if run.processors == 2]

    assert arguments(with_two) >= set(selection.RACES)
    assert not arguments(with_two) & {selection.LAWS, *selection.DOORS, *selection.LONG}


def test_the_flow_suite_runs_as_soon_as_there_is_a_backend_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(backends, "FACTORIES", {"null": None})
    assert selection.FLOWS not in arguments(selection.everything())

    monkeypatch.setattr(backends, "FACTORIES", {"ipvs": None})
    flows = ["--backend", "ipvs", selection.FLOWS]
    assert selection.usual()[0].arguments[-4:] == [*flows, "--sample"]
    assert selection.everything()[0].arguments[-3:] == flows


def test_a_capability_that_the_guest_has_may_not_be_missing_there() -> None:
    ours = {"CI": "true", "E2E_REQUIRED": "", "HOME": "/nowhere"}

    assert selection.environment(ours, "0.1", "7") == {
        "CI": "true",
        "E2E_REQUIRED": ",".join(selection.REQUIRED),
        "TEST_EFFORT": "0.1",
        "TEST_PATIENCE": "7",
    }
    assert set(selection.REQUIRED) <= CAPABILITIES.keys()
