"""The flow suite: every scenario of e2e/flows/scenarios, with every backend this kernel offers, over both families.

One test for each scenario, backend and proxy setting; what they have in common is built once. `--backend NAME` runs
one backend only (iptables, or one of iptables-legacy and iptables-nft; ipvs, or ipvs-iptables, or one of its flavours), `--sample`
one scenario for each feature. Both flavours of iptables take minutes: unless they are asked for by name, or by `--whole`, they are sampled.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import backends
from e2e.flavours import FLAVOURS, needs_of, variants_of
from e2e.flows import exceptions, masquerade, scenario, tally
from e2e.flows.ground import ground
from e2e.flows.running import FlowError, Runner
from e2e.flows.scenario import Feature, Scenario
from e2e.flows.settings import SETTINGS
from e2e.flows.stage import stage

SCENARIOS = Path(__file__).parent / "flows" / "scenarios"
FEATURES: dict[str, Feature] = {
    **scenario.load(SCENARIOS),
    "masquerade": masquerade.parse((SCENARIOS / "masquerade.table").read_text()),
}
NAMES = [
    (file, each.name, setting)
    for file, feature in FEATURES.items()
    for each in feature.scenarios
    for setting in each.settings
]


class Case(NamedTuple):
    """One scenario with one backend, or one variant of it, and one proxy setting."""

    backend: str
    setting: str
    file: str
    scenario: Scenario

    @property
    def why_it_fails(self) -> str:
        """Why it is expected to, if it is."""
        return exceptions.reason(self.backend, self.file, self.scenario.name, self.setting)

    @property
    def marks(self) -> list[pytest.MarkDecorator]:
        needed = pytest.mark.requires(*needs_of(self.backend))
        reason = self.why_it_fails
        return [needed, pytest.mark.xfail(reason=reason, strict=True)] if reason else [needed]


def sample(backend: str) -> set[tuple[str, str, str]]:
    """What stands for each feature: the first scenario that the backend serves, in the first of its settings."""
    served = [name for name in NAMES if not exceptions.reason(backend, *name)]
    return set({name[0]: name for name in reversed(served)}.values())


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A case for each backend, setting and scenario, in the order that changes the daemon least."""
    if "case" not in metafunc.fixturenames:
        return
    option = metafunc.config.getoption
    named = option("--backend", None) or []
    are_sampled = {"iptables", "userspace"} if not option("--whole", default=False) else set[str]()
    if option("--sample", default=False):
        are_sampled = {*exceptions.TABLE, *FLAVOURS, *named}
    elif named:
        are_sampled = set()
    cases = [
        pytest.param(
            Case(backend, setting, file, each),
            id=f"{backend}-{setting}-{file}-{each.name}".replace(" ", "_"),
            marks=Case(backend, setting, file, each).marks,
        )
        for mode in named or exceptions.TABLE
        for backend in variants_of(mode)
        for setting in SETTINGS
        for file, feature in FEATURES.items()
        for each in feature.scenarios
        if setting in each.settings
        and (mode not in are_sampled or (file, each.name, setting) in sample(backend))
    ]
    metafunc.parametrize("case", cases)


@pytest.fixture(scope="module")
def runner() -> Iterator[Runner]:
    with (
        ground() as made,
        tempfile.TemporaryDirectory() as directory,
        stage(made, Path(directory)) as staged,
    ):
        yield Runner(staged)


def test_scenario(runner: Runner, case: Case) -> None:
    counted, wrong = tally.of(case.backend), ""
    with counted.scenario():
        runner.stage.use(case.backend, case.setting)
        is_traced = not case.why_it_fails
        try:
            runner.run(FEATURES[case.file], case.scenario, counted, is_traced=is_traced)
        except FlowError as error:
            wrong = str(error)
    if wrong:
        pytest.fail(wrong, pytrace=False)


def test_every_setting_a_scenario_names_exists_and_is_named_by_one() -> None:
    assert {setting for _, _, setting in NAMES} == SETTINGS.keys()


def test_every_backend_that_forwards_is_judged() -> None:
    assert exceptions.TABLE.keys() == backends.FACTORIES.keys() - {"null"}


def test_every_exception_is_about_a_scenario_and_there_are_few() -> None:
    assert exceptions.unused(NAMES) == []
    for backend, rows in exceptions.TABLE.items():
        assert len(rows) <= exceptions.LIMIT, backend


@pytest.mark.parametrize("backend", exceptions.TABLE)
def test_every_feature_has_a_scenario_that_is_served(backend: str) -> None:
    assert sorted(file for file, _, _ in sample(backend)) == sorted(FEATURES)


def test_the_page_of_exceptions_is_rendered_from_the_table() -> None:
    assert exceptions.PAGE.read_text() == exceptions.page(), "run: python -m e2e.flows.exceptions"
