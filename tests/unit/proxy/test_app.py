"""The composition root's own decisions; that it runs is shown in e2e/test_daemon.py."""

import argparse
import logging

import pytest

from proxy import app
from proxy.cache import Cache
from proxy.config import load
from proxy.config.flags import add_flags
from proxy.config.settings import Settings
from proxy.errors import ConfigError, ProxyError
from proxy.model import NodeInfo, Rejected
from proxy.sources.events import Problems


def settings(*flags: str) -> Settings:
    parser = argparse.ArgumentParser()
    add_flags(parser)
    return load.load(parser.parse_args(flags), hostname="node-a", read_file=lambda _: b"")[0]


def test_without_a_source_the_operator_is_told_what_to_give() -> None:
    with pytest.raises(ConfigError, match="--manifests"):
        app.source_of(settings())


@pytest.mark.parametrize("flag", ["--manifests", "--watch-events"])
def test_a_source_is_made_from_its_flag(flag: str) -> None:
    assert app.source_of(settings(flag, "somewhere")) is not None


def test_what_is_not_done_yet_is_named() -> None:
    named = app.not_yet(settings("--detect-local-mode", "NodeCIDR"))

    assert any("NodeCIDR" in line for line in named)
    assert any("healthz" in line for line in named)


def test_nothing_is_said_about_what_was_switched_off() -> None:
    named = app.not_yet(settings("--healthz-bind-address", ""))

    assert not any("healthz" in line for line in named)


@pytest.mark.parametrize(
    ("host", "is_loopback"), [("127.0.0.1", True), ("::1", True), ("0.0.0.0", False)]
)
def test_loopback_is_told_from_other_addresses(host: str, *, is_loopback: bool) -> None:
    assert app.is_loopback(host) is is_loopback


def test_a_problem_is_logged_once_for_as_long_as_it_stays(
    caplog: pytest.LogCaptureFixture,
) -> None:
    cache = Cache(NodeInfo(name="node-a"))
    event = Problems(
        "Service default/web",
        (Rejected(kind="Service", name="default/web", field="spec", reason="unreadable"),),
    )

    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            app.log_problems(event, cache)
            cache.apply([event], 0.0)

    assert [record.getMessage() for record in caplog.records] == [
        "Service default/web spec: unreadable"
    ]


def test_of_several_errors_that_end_the_process_the_first_is_told() -> None:
    first = ConfigError("the first")
    inner: BaseExceptionGroup[ProxyError] = BaseExceptionGroup("inner", [first])
    group = BaseExceptionGroup[ProxyError]("all", [inner, ConfigError("its consequence")])  # type: ignore[list-item] # groups nest

    assert app._first(group) is first
