"""What happens to a test that needs what the machine lacks; the probes themselves need root and run in e2e."""

from collections.abc import Iterator

import pytest

from e2e import capabilities
from e2e.capabilities import Capability, missing, required


@pytest.fixture
def probed(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Two capabilities in place of the real ones, and the names probed so far."""
    calls: list[str] = []

    def probe(name: str, reason: str) -> str:
        calls.append(name)
        return reason

    monkeypatch.setattr(
        capabilities,
        "CAPABILITIES",
        {
            "walking": Capability("legs", lambda: probe("walking", ""), is_stock=True),
            "flying": Capability("wings", lambda: probe("flying", "none grown"), is_stock=True),
            "diving": Capability("gills", lambda: probe("diving", "too dry"), is_stock=False),
        },
    )
    capabilities._probe.cache_clear()
    yield calls
    capabilities._probe.cache_clear()


@pytest.mark.usefixtures("probed")
def test_what_is_missing_comes_with_its_reason() -> None:
    assert missing("flying") == "wings: none grown"
    assert missing("walking") == ""


def test_a_capability_is_probed_once(probed: list[str]) -> None:
    missing("flying")
    missing("flying")

    assert probed == ["flying"]


@pytest.mark.usefixtures("probed")
@pytest.mark.parametrize(
    ("environment", "names"),
    [
        ({}, set()),
        ({"CI": "true"}, {"walking", "flying"}),
        ({"CI": "false"}, set()),
        ({"E2E_REQUIRED": "diving, walking"}, {"diving", "walking"}),
        ({"CI": "true", "E2E_REQUIRED": ""}, set()),
    ],
    ids=["at home", "in CI", "not CI", "listed", "nothing listed in CI"],
)
def test_what_must_be_there_depends_on_where_we_run(
    environment: dict[str, str], names: set[str]
) -> None:
    assert required(environment) == names


@pytest.mark.usefixtures("probed")
def test_requiring_what_nobody_can_probe_is_an_error() -> None:
    with pytest.raises(ValueError, match="unknown swimming; known are diving, flying, walking"):
        required({"E2E_REQUIRED": "swimming,walking"})


@pytest.mark.usefixtures("probed")
@pytest.mark.parametrize(
    ("needed", "listed", "outcomes"),
    [
        ("walking", "walking", {"passed": 1}),
        ("flying", "walking", {"skipped": 1}),
        ("flying", "flying", {"errors": 1}),
    ],
    ids=["there", "missing", "missing though required"],
)
def test_a_test_runs_skips_or_fails_by_what_it_needs(
    pytester: pytest.Pytester,
    monkeypatch: pytest.MonkeyPatch,
    needed: str,
    listed: str,
    outcomes: dict[str, int],
) -> None:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("CI", "true")
    monkeypatch.setenv("E2E_REQUIRED", listed)
    pytester.makeini(
        "[pytest]\naddopts = -p no:cacheprovider\nmarkers = requires(*names): as in e2e\n"
    )
    pytester.makeconftest("from e2e.conftest import pytest_configure, pytest_runtest_setup\n")
    pytester.makepyfile(
        f"""
        import pytest

        @pytest.mark.requires("walking", "{needed}")
        def test_it(): pass
        """
    )

    result = pytester.runpytest_inprocess()

    assert result.parseoutcomes() == outcomes
    if needed == "flying":
        result.stdout.fnmatch_lines(["*wings: none grown*"])
