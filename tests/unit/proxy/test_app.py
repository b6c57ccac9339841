"""The composition root's own decisions; that it runs is shown in e2e/test_daemon.py."""

import argparse
import asyncio
import functools
import logging
from pathlib import Path

import pytest

import backends
from proxy import app
from proxy.announcer import Announcer
from proxy.backend import Retired
from proxy.cache import Cache
from proxy.config import load
from proxy.config.flags import add_flags
from proxy.config.settings import Settings
from proxy.conntrack_sweeper import Sweeper
from proxy.errors import ConfigError, ProxyError
from proxy.events_recorder import Recorder
from proxy.meter import Meter
from proxy.model import NodeInfo, Rejected
from proxy.parts import Parts
from proxy.sources.apiserver import ApiServerSource
from proxy.sources.events import Problems
from proxy.sources.manifests_watch import ManifestSource
from proxy.sources.stream import StreamSource
from proxy.verifier import Verifier
from tests.fakes.backend import FakeBackend
from tests.fakes.conntrack import FakeFlows


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


# --- cleaning up


class Cleaned(FakeBackend):
    """A backend that has left something."""

    def __init__(self, name: str, seen: list[str]) -> None:
        super().__init__()
        self.name = name
        self._seen = seen

    async def cleanup(self) -> int:
        self._seen.append(self.name)
        return 3


@pytest.mark.parametrize(("mode", "cleaned"), [("", ["one", "two"]), ("two", ["two"])])
def test_cleanup_is_for_all_modes_or_for_the_one_that_is_named(
    monkeypatch: pytest.MonkeyPatch, mode: str, cleaned: list[str]
) -> None:
    seen: list[str] = []
    factories = {
        name: functools.partial(lambda name, _: Cleaned(name, seen), name)
        for name in ("one", "two")
    }
    monkeypatch.setattr(backends, "FACTORIES", factories)

    lines = app.cleanup(settings(), mode)

    assert seen == cleaned
    assert lines == [f"{name}: removed 3 objects" for name in cleaned]


def test_a_mode_that_does_not_exist_cannot_be_cleaned_up_after() -> None:
    with pytest.raises(ConfigError, match=r"'three' is none of nftables, ipvs, iptables, null"):
        app.cleanup(settings(), "three")


# --- what other modes have left


class Retiring(FakeBackend):
    def __init__(self, name: str, seen: list[str]) -> None:
        super().__init__()
        self.name = name
        self._seen = seen

    async def retire(self) -> Retired:
        self._seen.append(self.name)
        return Retired()


@pytest.mark.parametrize(
    ("mode", "retired"),
    [
        ("nftables", ["ipvs", "iptables"]),
        ("ipvs", ["nftables", "iptables"]),
        ("iptables", ["nftables", "ipvs"]),
        ("null", []),
    ],
)
def test_what_other_modes_have_left_goes_unless_this_one_programs_nothing(
    monkeypatch: pytest.MonkeyPatch, mode: str, retired: list[str]
) -> None:
    seen: list[str] = []
    monkeypatch.setattr(backends, "create", lambda name, settings: Retiring(name, seen))

    async def main() -> None:
        parts = make_parts(Retiring(mode, seen))
        lives = dict(app._lives(parts))
        departure = lives.pop("other modes")
        for life in lives.values():
            life.close()
        task = asyncio.create_task(departure)
        await asyncio.sleep(0)
        assert seen == []

        parts.reconciler.is_synced.set()
        await task

    asyncio.run(main())

    assert seen == retired


def make_parts(backend: FakeBackend) -> Parts:
    configured = settings("--manifests", "somewhere")
    reconciler, recorder = app.build(configured, backend), Recorder("node-a", is_on=False)
    return Parts(
        configured,
        app.source_of(configured),
        reconciler,
        Verifier(reconciler),
        Sweeper(reconciler, FakeFlows()),
        Meter(),
        recorder,
        Announcer(recorder, "node-a"),
    )
