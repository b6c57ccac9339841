"""A clock that jumps changes nothing: what decides goes by the monotonic clock, which cannot be set."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2]
_SETTABLE = {"time", "time_ns", "now", "utcnow", "today", "clock_gettime"}
_OWNERS = {"time", "datetime", "date"}
_UNSETTABLE = {"CLOCK_BOOTTIME", "CLOCK_MONOTONIC"}
READERS = {
    "proxy/app.py": "triggers from before the start are left out of the latency shown",
    "proxy/meter.py": "latency since a change in the cluster, which is stamped by another host",
    "proxy/metrics/kubeproxy.py": "times of the last sync, shown as unix time",
    "proxy/server/debug.py": "times shown to people",
    "proxy/server/health.py": "times shown in /healthz, as in kube-proxy",
    "proxy/sources/credentials.py": "whether a credential has expired by the time written in it",
}
"""Who may read a clock that can be set, and for what: to show a time, or to compare it with one written by others."""


def readers() -> set[str]:
    """The modules that ask such a clock for the time."""
    return {
        str(path.relative_to(ROOT))
        for package in ("proxy", "backends")
        for path in (ROOT / package).rglob("*.py")
        if any(map(_reads, ast.walk(ast.parse(path.read_text()))))
    }


def _reads(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in _SETTABLE
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id in _OWNERS
        and not any(
            isinstance(arg, ast.Attribute) and arg.attr in _UNSETTABLE for arg in node.args
        )
    )


def test_a_clock_that_can_be_set_is_read_only_to_show_or_compare_times() -> None:
    assert readers() == READERS.keys()


def test_nobody_takes_the_clock_under_another_name() -> None:
    for package in ("proxy", "backends"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.ImportFrom) and node.module in ("time", "datetime"):
                    assert not {each.name for each in node.names} & (_SETTABLE | {"*"}), path
