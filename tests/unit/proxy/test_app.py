"""The composition root's own decisions; that it runs is shown in e2e/test_daemon.py."""

import asyncio
import contextlib
import errno
import functools
import logging
from pathlib import Path

import pytest
from msgspec import structs

import backends
from proxy import app
from proxy.announcer import Announcer
from proxy.backend import Retired
from proxy.beside import at_localhost
from proxy.cache import Cache
from proxy.config.settings import Settings
from proxy.conntrack_sweeper import Sweeper
from proxy.errors import ConfigError, KernelError, ProxyError, Unsupported
from proxy.events_recorder import Recorder
from proxy.journal import Round
from proxy.listeners import Listeners
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
from tests.unit.proxy.config.loading import settings_of


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
    assert isinstance(app.source_of(settings_of(*flags)), source)


def test_the_oom_score_is_that_of_the_settings(tmp_path: Path) -> None:
    file = tmp_path / "oom_score_adj"

    app.protect_from_oom(settings_of(), file)

    assert file.read_text() == "-999\n"


def test_an_oom_score_that_cannot_be_set_is_said_and_no_more(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        app.protect_from_oom(settings_of(), tmp_path)

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
        name: functools.partial(lambda name, *_: Cleaned(name, seen), name)
        for name in ("one", "two")
    }
    monkeypatch.setattr(backends, "FACTORIES", factories)

    lines = app.cleanup(settings_of(), mode)

    assert seen == cleaned
    assert lines == [f"{name}: removed 3 objects" for name in cleaned]


def test_what_this_kernel_cannot_have_is_not_to_be_cleaned_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[str] = []

    def cannot(number: int) -> FakeBackend:
        raise KernelError("open a netlink socket", number, "refused")

    factories = {
        "one": lambda *_: cannot(errno.EPROTONOSUPPORT),
        "two": lambda *_: Cleaned("two", seen),
    }
    monkeypatch.setattr(backends, "FACTORIES", factories)
    assert app.cleanup(settings_of()) == ["two: removed 3 objects"]

    factories["one"] = lambda *_: cannot(errno.EPERM)
    with pytest.raises(KernelError):
        app.cleanup(settings_of())


@pytest.mark.parametrize("words", ["not permitted", "not permitted; it takes NET_ADMIN"])
def test_what_cleaning_up_takes_is_said_once(monkeypatch: pytest.MonkeyPatch, words: str) -> None:
    def cannot(*_: object) -> FakeBackend:
        raise KernelError("list tables", errno.EPERM, words)

    monkeypatch.setattr(backends, "FACTORIES", {"one": cannot})

    with pytest.raises(KernelError) as caught:
        app.cleanup(settings_of())

    assert str(caught.value).count("NET_ADMIN") == 1
    assert words in str(caught.value)


def test_a_mode_that_does_not_exist_cannot_be_cleaned_up_after() -> None:
    with pytest.raises(
        ConfigError, match=r"'three' is none of nftables, ipvs, iptables, userspace, null"
    ):
        app.cleanup(settings_of(), "three")


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
        ("nftables", ["ipvs", "iptables", "userspace"]),
        ("ipvs", ["nftables", "iptables", "userspace"]),
        ("iptables", ["nftables", "ipvs", "userspace"]),
        ("userspace", ["nftables", "ipvs", "iptables"]),
        ("null", []),
    ],
)
def test_what_other_modes_have_left_goes_unless_this_one_programs_nothing(
    monkeypatch: pytest.MonkeyPatch, mode: str, retired: list[str]
) -> None:
    seen: list[str] = []
    monkeypatch.setattr(
        backends, "create", lambda name, settings, passed=None: Retiring(name, seen)
    )

    async def main() -> None:
        parts = make_parts(Retiring(mode, seen))
        lives = dict(app._lives(parts, contextlib.ExitStack()))
        departure = lives.pop("ladder")
        for life in lives.values():
            life.close()
        task = asyncio.create_task(departure)
        await settled()
        assert seen == []

        parts.reconciler.is_synced.set()
        parts.reconciler.on_round(Round(started_s=0.0, ended_s=1.0, is_full=True, families=()))
        await settled()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    asyncio.run(main())

    assert seen == retired


async def settled() -> None:
    """Let everything go on that can."""
    for _ in range(10):
        await asyncio.sleep(0)


def make_parts(backend: FakeBackend) -> Parts:
    configured = settings_of("--manifests", "somewhere")
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
        Listeners(),
    )


# --- which backend


def refused_everywhere(monkeypatch: pytest.MonkeyPatch, *modes: str) -> None:
    """Have these modes refused here; whatever else is made would do."""

    class Refused(FakeBackend):
        async def probe(self) -> None:
            raise Unsupported("a primitive", "no such thing")

    def create(name: str, *_: object, **__: object) -> FakeBackend:
        made = Refused() if name in modes else FakeBackend()
        made.name = name
        return made

    monkeypatch.setattr(backends, "create", create)


def chosen(configured: Settings) -> tuple[str, list[str]]:
    backend, refusals = asyncio.run(app.choose_backend(configured, Listeners()))
    return backend.name, [each.mode for each in refusals]


def test_without_a_mode_the_best_that_will_do_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    refused_everywhere(monkeypatch)
    assert chosen(settings_of()) == ("nftables", [])

    refused_everywhere(monkeypatch, "nftables", "ipvs")
    assert chosen(settings_of()) == ("iptables", ["nftables", "ipvs"])

    refused_everywhere(monkeypatch, "nftables", "ipvs", "iptables")
    assert chosen(settings_of()) == ("userspace", ["nftables", "ipvs", "iptables"])


def test_a_mode_that_was_named_stands_alone_unless_there_is_a_fallback(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    refused_everywhere(monkeypatch, "ipvs")
    named = settings_of("--proxy-mode", "ipvs")

    with pytest.raises(Unsupported, match="mode ipvs cannot run here: ipvs: a primitive: no such"):
        chosen(named)

    assert chosen(structs.replace(named, fallback="userspace")) == ("userspace", ["ipvs"])


class Prepared(FakeBackend):
    """Says when settings of the node are written."""

    def __init__(self, seen: list[str]) -> None:
        super().__init__()
        self._seen = seen

    async def probe(self) -> None:
        self._seen.append("probe")

    async def prepare(self) -> None:
        self._seen.append("prepare")


def test_the_node_is_prepared_for_a_mode_unless_it_is_only_asked_what_it_would_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen: list[str] = []
    (tmp_path / "node.yaml").write_text("kind: Node\nmetadata: {name: n1}\n")
    configured = settings_of("--proxy-mode=userspace", "--manifests", str(tmp_path))
    monkeypatch.setattr(backends, "create", lambda *_, **__: Prepared(seen))

    assert app.plan(configured, 30.0).operations == 0
    assert seen == ["probe"]

    seen.clear()
    monkeypatch.setattr(backends, "WITHOUT_TRACKING", ("fake",))
    app.init(configured)
    assert seen == ["probe", "prepare"]


def test_mode_ipvs_is_passed_over_where_its_settings_make_no_sense(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    refused_everywhere(monkeypatch, "nftables")
    configured = settings_of()
    broken = structs.replace(configured.ipvs, problem="ipvs.scheduler: must be one of rr")

    assert chosen(configured) == ("ipvs", ["nftables"])
    assert chosen(structs.replace(configured, ipvs=broken)) == ("iptables", ["nftables", "ipvs"])


@pytest.mark.parametrize(
    ("mode", "flags", "families"),
    [
        ("nftables", [], ("IPv4", "IPv6")),
        ("ipvs", [], ("IPv4", "IPv6")),
        ("iptables", [], ()),
        ("userspace", [], ()),  # of this one's own, if it were real
        ("null", [], ()),
        ("nftables", ["--iptables-localhost-nodeports=false"], ()),
        ("nftables", ["--nodeport-addresses=primary"], ()),
        ("nftables", ["--nodeport-addresses=127.0.0.0/8,fd00::/8"], ("IPv4",)),
    ],
)
def test_node_ports_at_localhost_have_a_listener_where_rules_cannot_serve_them(
    monkeypatch: pytest.MonkeyPatch, mode: str, flags: list[str], families: tuple[str, ...]
) -> None:
    refused_everywhere(monkeypatch)

    backend = app.make_backend(mode, settings_of(*flags), Listeners())

    assert backend.name == mode
    assert at_localhost(backend) == families


class Forwarding(FakeBackend):
    async def drain(self, deadline_s: float) -> int:
        return int(deadline_s)


def test_connections_that_depend_on_the_process_are_waited_for(
    caplog: pytest.LogCaptureFixture,
) -> None:
    asyncio.run(app.let_end(FakeBackend(), 5.0, asyncio.Event()))
    asyncio.run(app.let_end(Forwarding(), 0.0, asyncio.Event()))
    assert caplog.messages == []

    asyncio.run(app.let_end(Forwarding(), 2.0, asyncio.Event()))
    assert caplog.messages == ["2 connections have not ended within 2 s and are cut"]


def test_who_is_told_to_stop_again_waits_for_nobody(caplog: pytest.LogCaptureFixture) -> None:
    class Waiting(FakeBackend):
        has_ended = False

        async def drain(self, deadline_s: float) -> int:
            try:
                await asyncio.Event().wait()
            finally:
                self.has_ended = True
            return 0

    backend = Waiting()

    async def end() -> None:
        at_once = asyncio.Event()
        ending = asyncio.create_task(app.let_end(backend, 25.0, at_once))
        await asyncio.sleep(0)
        at_once.set()
        async with asyncio.timeout(10):
            await ending

    asyncio.run(end())
    assert backend.has_ended
    assert caplog.messages == ["told to stop again: connections that have not ended are cut"]
