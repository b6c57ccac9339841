"""Every test here runs in network namespaces of its own and leaves the host as it was."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e import topology
from e2e.capabilities import CAPABILITIES, missing, required
from e2e.flows import tally
from e2e.host_state import differences, host_state
from tests import suite_report


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let the flow suite be run with some backends only, or be sampled."""
    parser.addoption(
        "--backend", action="append", help="the flow suite with this backend only; may be repeated"
    )
    parser.addoption(
        "--sample", action="store_true", help="of the flow suite, one scenario for each feature"
    )
    parser.addoption(
        "--whole", action="store_true", help="all flows on all backends, and all laws: takes long"
    )


_LONG = (
    # each of their many changes starts programs; on fakes they are told in seconds
    *[
        f"e2e/test_contract.py::TestIptables::test_{law}_"
        for law in ("l1", "l2", "l6", "l7_cleanup", "reading", "what")
    ],
    # ten thousand sockets are opened and closed; on fakes they are told in seconds
    *[f"e2e/test_userspace_contract.py::TestUserspace::test_l6_{law}" for law in ("a_", "pl")],
    # another mode is shown, and each of these ways is gone by another test as well
    "e2e/test_demo.py::test_it_succeeds_in_another_mode_too",
    "e2e/test_ladder.py::test_a_named_mode_falls_back_if_that_is_configured",
    "e2e/test_ladder.py::test_a_named_mode_that_can_program_nothing_any_more_falls_back_too",
    "e2e/test_localhost.py::test_what_changes_changes_at_localhost_too",
    "e2e/test_localhost.py::test_where_localhost_is_not_wanted_nobody_listens[ranges",
)


def pytest_configure(config: pytest.Config) -> None:
    """Report by suite, and refuse settings that would silently require nothing."""
    suite_report.register(config)
    try:
        required(os.environ)
    except ValueError as error:
        raise pytest.UsageError(str(error)) from error


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Everything here needs network namespaces, without saying so. What is long is left out unless all is asked for."""
    here = Path(__file__).parent
    if not config.getoption("--whole"):
        long = [item for item in items if item.nodeid.startswith(_LONG)]
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if item not in long]
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker(pytest.mark.netns)
            item.add_marker(pytest.mark.requires("namespaces"), append=False)
            for name in _needs(item):
                if name not in CAPABILITIES:
                    raise pytest.UsageError(
                        f"{item.nodeid} requires {name}, which nobody can probe"
                    )


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip, or fail where it must not be missing, what this machine cannot run; before any fixture is made."""
    for name in _needs(item):
        if reason := missing(name):
            if name in required(os.environ):
                pytest.fail(f"{name} is required here, but {reason}", pytrace=False)
            suite_report.skip_for_capability(item, reason)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how much the flow suite has asked, by backend, and what the fault tests have counted."""
    for backend, each in tally.TALLIES.items():
        terminalreporter.line(f"flows with {backend}: {each}")
    for line in tally.FIGURES:
        terminalreporter.line(line)


def _needs(item: pytest.Item) -> list[str]:
    return [name for mark in item.iter_markers("requires") for name in mark.args]


@pytest.fixture(scope="session", autouse=True)
def _host_stays_as_it_was() -> Iterator[None]:
    before = host_state()
    yield
    changes = differences(before, host_state())
    assert not changes, "the tests changed the host:\n" + "\n".join(changes)


@pytest.fixture
def world() -> Iterator[topology.World]:
    """A node with six pods and a client outside, freshly made."""
    with topology.world() as made:
        yield made
