"""The composition root's own decisions; that it runs is shown in e2e/test_daemon.py."""

import argparse
import logging
from pathlib import Path

import pytest

from proxy import app
from proxy.cache import Cache
from proxy.config import load
from proxy.config.flags import add_flags
from proxy.config.settings import Settings
from proxy.errors import ConfigError, ProxyError
from proxy.model import NodeInfo, Rejected
from proxy.sources.apiserver import ApiServerSource
from proxy.sources.events import Problems
from proxy.sources.manifests_watch import ManifestSource
from proxy.sources.stream import StreamSource


def settings(*flags: str) -> Settings:
    parser = argparse.ArgumentParser()
    add_flags(parser)
    return load.load(parser.parse_args(flags), hostname="node-a", read_file=lambda _: b"")[0]


@pytest.mark.parametrize(
    ("flags", "source"),
    [
        pytest.param([], ApiServerSource, id="nothing said"),
        pytest.param(["--kubeconfig", "file"], ApiServerSource, id="kubeconfig"),
        pytest.param(["--manifests", "somewhere"], ManifestSource, id="manifests"),
        pytest.param(["--watch-events", "somewhere"], StreamSource, id="stream"),
    ],
)
def test_objects_come_from_the_api_server_unless_something_else_was_said(
    flags: list[str], source: type
) -> None:
    assert isinstance(app.source_of(settings(*flags)), source)


def test_the_oom_score_is_that_of_the_settings(tmp_path: Path) -> None:
    file = tmp_path / "oom_score_adj"

    app.protect_from_oom(settings(), file)

    assert file.read_text() == "-999\n"


def test_an_oom_score_that_cannot_be_set_is_said_and_no_more(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        app.protect_from_oom(settings(), tmp_path)

    assert "oomScoreAdj -999 could not be set" in caplog.text


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
