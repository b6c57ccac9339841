"""What runs in the guest."""

import ast
from pathlib import Path

import pytest

import backends
from e2e.capabilities import CAPABILITIES
from e2e.guest import selection

ROOT = Path(__file__).parents[4]


def needs_ipvs(file: Path) -> bool:
    """Whether a test of this file says that it requires what only the guest is sure to have."""
    words = {
        each.value
        for each in ast.walk(ast.parse(file.read_text()))
        if isinstance(each, ast.Constant)
    }
    return bool(words & {"ipvs", "dummy"})


def test_every_file_that_is_named_exists() -> None:
    assert [
        each for each in (*selection.USUAL, *selection.LONG) if not (ROOT / each).exists()
    ] == []


def test_every_test_file_that_needs_ipvs_is_run() -> None:
    needing = {
        str(each.relative_to(ROOT))
        for each in (ROOT / "e2e").glob("test_*.py")
        if needs_ipvs(each)
    }

    assert needing <= set(selection.everything())


def test_everything_holds_the_usual_but_for_the_sampling() -> None:
    assert set(selection.usual()) - {"--sample"} <= set(selection.everything())
    assert "--sample" not in selection.everything()


def test_the_flow_suite_runs_as_soon_as_there_is_a_backend_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(backends, "FACTORIES", {"null": None})
    assert selection.FLOWS not in selection.usual()

    monkeypatch.setattr(backends, "FACTORIES", {"ipvs": None})
    assert selection.usual()[-4:] == ["--backend", "ipvs", selection.FLOWS, "--sample"]
    assert selection.everything()[-3:] == ["--backend", "ipvs", selection.FLOWS]


def test_a_capability_that_the_guest_has_may_not_be_missing_there() -> None:
    environment = selection.environment({"CI": "true", "E2E_REQUIRED": "", "HOME": "/nowhere"})

    assert environment == {"CI": "true", "E2E_REQUIRED": ",".join(selection.REQUIRED)}
    assert set(selection.REQUIRED) <= CAPABILITIES.keys()
