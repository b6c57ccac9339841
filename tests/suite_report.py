"""A pytest plugin: what ran, what could not and why, by suite; and no skip that hides something.

- A skip must give its reason.
- In CI (CI=true) a test may be skipped only for what the machine cannot do, in the words of a capability probe
  (e2e/capabilities.py, see `skip_for_capability`). Any other skip fails there.
- The last line of the run is `N passed, N failed, N skipped`, after pytest's own: errors count as failed, and a test
  that is expected to fail and does counts as skipped, its reason listed with the others.

Both conftest files register it.
"""

import os
from collections import Counter
from collections.abc import Collection, Generator, Iterable
from dataclasses import dataclass, field
from pathlib import PurePath

import pytest

PLUGIN_NAME = "sliceproxy-suites"
SUITES = ("unit", "contract", "e2e")

_for_capability = pytest.StashKey[bool]()


def skip_for_capability(item: pytest.Item, reason: str) -> None:
    """Skip the test because this machine lacks something: the one kind of skip that CI accepts."""
    item.stash[_for_capability] = True
    pytest.skip(reason)


def register(config: pytest.Config) -> None:
    """Add the plugin, once."""
    if not config.pluginmanager.has_plugin(PLUGIN_NAME):
        is_ci = os.environ.get("CI", "").lower() in ("true", "1")
        config.pluginmanager.register(SuiteReport(is_ci=is_ci), PLUGIN_NAME)


def suite_of(node_id: str) -> str:
    """The suite a test belongs to: `e2e`, or the directory under tests/."""
    parts = PurePath(node_id.partition("::")[0]).parts
    return parts[1] if parts[0] == "tests" and len(parts) > 2 else parts[0]


@dataclass
class Suite:
    """What became of each test of one suite: its last and worst word."""

    outcomes: dict[str, str] = field(default_factory=dict)
    reasons: Counter[str] = field(default_factory=Counter)
    took_s: float = 0.0

    def add(self, report: pytest.TestReport | pytest.CollectReport, outcome: str) -> None:
        """Take a report in. A test has up to three; one that failed in any of them failed."""
        if outcome == "skipped":
            self.reasons[reason_of(report)] += 1
        if self.outcomes.get(report.nodeid) != "failed":
            self.outcomes[report.nodeid] = outcome

    def count(self, outcome: str) -> int:
        """How many tests ended so."""
        return sum(each == outcome for each in self.outcomes.values())

    def lines(self, name: str) -> Iterable[str]:
        """One line, and one for each reason why tests did not run."""
        if not self.outcomes:
            yield f"{name:<9} nothing ran"
            return
        yield f"{name:<9} {totals([self])} in {self.took_s:.1f} s"
        for reason, count in self.reasons.most_common():
            yield f"{'':<9}   {count} skipped: {reason}"


def totals(suites: Collection[Suite]) -> str:
    """The line that counts all tests of these suites."""
    return ", ".join(
        f"{sum(suite.count(outcome) for suite in suites)} {outcome}"
        for outcome in ("passed", "failed", "skipped")
    )


class SuiteReport:
    """The hooks, and what they keep."""

    def __init__(self, *, is_ci: bool) -> None:
        self._is_ci = is_ci
        self._suites = {name: Suite() for name in SUITES}

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Turn a skip that nobody may make into a failure."""
        report = yield
        if report.skipped and not hasattr(report, "wasxfail"):
            self._judge(report, is_for_capability=item.stash.get(_for_capability, False))
        return report

    @pytest.hookimpl(wrapper=True)
    def pytest_make_collect_report(
        self,
    ) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
        """The same for a skip of a whole module."""
        report = yield
        if report.skipped:
            self._judge(report, is_for_capability=False)
        return report

    def _judge(
        self, report: pytest.TestReport | pytest.CollectReport, *, is_for_capability: bool
    ) -> None:
        reason = reason_of(report)
        if not reason:
            complaint = "skipped without a reason"
        elif self._is_ci and not is_for_capability:
            complaint = f"skipped in CI, and not for want of a capability: {reason}"
        else:
            return
        report.outcome = "failed"
        report.longrepr = f"{report.nodeid}: {complaint}"

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count a test."""
        suite = self._suite(report.nodeid)
        suite.took_s += report.duration
        if not report.passed or report.when == "call":
            suite.add(report, report.outcome)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Count a module that cannot be imported as a failed test, one that skips itself as a skipped one."""
        if not report.passed:
            self._suite(report.nodeid).add(report, report.outcome)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_terminal_summary(
        self, terminalreporter: pytest.TerminalReporter
    ) -> Generator[None, None, None]:
        """Say what ran and what could not, as the last section."""
        yield
        terminalreporter.section("what ran and what could not")
        for name, suite in self._suites.items():
            for line in suite.lines(name):
                terminalreporter.line(line)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Generator[None, None, None]:
        """Print the totals as the very last line."""
        yield
        reporter = session.config.pluginmanager.get_plugin("terminalreporter")
        if reporter is not None:
            reporter.line(totals(self._suites.values()))

    def _suite(self, node_id: str) -> Suite:
        return self._suites.setdefault(suite_of(node_id), Suite())


def reason_of(report: pytest.TestReport | pytest.CollectReport) -> str:
    """Why a test was skipped, or is expected to fail; empty if nobody said."""
    if hasattr(report, "wasxfail"):
        return f"expected to fail: {report.wasxfail}"
    # (path, line, "Skipped: reason") for a skip
    said = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    reason = said.removeprefix("Skipped:").strip()
    # what pytest says for @pytest.mark.skip without one
    return "" if reason in ("unconditional skip", "Skipped", "<Skipped instance>") else reason
