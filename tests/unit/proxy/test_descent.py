"""Modes are tried for real, and one that can program nothing any more gives way, never silently."""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import pytest

from proxy import descent
from proxy.announcer import Announcer
from proxy.backend import Retired
from proxy.descent import Descent
from proxy.errors import Busy, KernelError, ProxyError, Unsupported
from proxy.events_recorder import Recorder
from proxy.journal import Round
from proxy.ladder import Refusal
from proxy.listeners import Listeners
from proxy.sources.events import Delete
from tests.daemon import Daemon, make_daemon
from tests.fakes.backend import FakeBackend, unreachable
from tests.model_builders import make_key, make_service, make_service_port

LIMIT_S = 60.0
LONG_S = 200.0
MODES = ("first", "second", "third")


class Rung(FakeBackend):
    """A backend that may not be made, may not do, and says when it is closed and when it gives way."""

    def __init__(self, name: str, seen: list[str], problem: Exception | None = None) -> None:
        super().__init__()
        self.name = name
        self.is_prepared = False
        self._seen = seen
        self._problem = problem

    async def probe(self) -> None:
        self._seen.append(f"probe {self.name}")
        if self._problem is not None:
            raise self._problem

    async def prepare(self) -> None:
        self.is_prepared = True

    async def retire(self) -> Retired:
        self._seen.append(f"retire {self.name}")
        return Retired()

    def close(self) -> None:
        self._seen.append(f"close {self.name}")


class Ladder:
    """Modes with what is wrong with each of them."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.unmakable: dict[str, ProxyError] = {}
        self.problems: dict[str, Exception] = {}
        self.made: dict[str, Rung] = {}

    def create(self, mode: str) -> Rung:
        if mode in self.unmakable:
            raise self.unmakable[mode]
        self.made[mode] = Rung(mode, self.seen, self.problems.get(mode))
        return self.made[mode]

    def choose(self, *modes: str) -> tuple[str, tuple[Refusal, ...]]:
        backend, refusals = asyncio.run(descent.choose(modes, self.create))
        return ("" if backend is None else backend.name), refusals


def test_the_first_that_can_do_everything_is_taken_and_nobody_else_is_tried() -> None:
    tried = Ladder()

    assert tried.choose(*MODES) == ("first", ())
    assert tried.seen == ["probe first"]


@pytest.mark.parametrize("is_to_run", [True, False])
def test_the_node_is_prepared_for_what_is_to_be_used_and_for_nothing_else(
    is_to_run: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    tried = Ladder()
    tried.problems["first"] = Unsupported("everything")

    asyncio.run(descent.choose(MODES, tried.create, is_to_run=is_to_run))

    assert [each.is_prepared for each in tried.made.values()] == [False, is_to_run]
    assert bool(caplog.records) is is_to_run


def test_what_is_passed_over_is_closed_and_told(caplog: pytest.LogCaptureFixture) -> None:
    tried = Ladder()
    tried.unmakable["first"] = KernelError("open a socket", 93, "Protocol not supported")
    tried.problems["second"] = Unsupported("scheduler best", "No such file or directory")

    with caplog.at_level(logging.INFO):
        chosen, refusals = tried.choose(*MODES)

    assert chosen == "third"
    assert refusals == (
        Refusal(mode="first", primitive="open a socket", how="Protocol not supported"),
        Refusal(mode="second", primitive="scheduler best", how="No such file or directory"),
    )
    assert tried.seen == ["probe second", "close second", "probe third"]
    told = [(each.levelname, each.getMessage()) for each in caplog.records]
    assert told == [
        ("WARNING", "passed over: mode first: open a socket: Protocol not supported"),
        ("WARNING", "passed over: mode second: scheduler best: No such file or directory"),
        ("WARNING", "mode third"),
    ]


def test_where_nobody_will_do_all_reasons_are_known() -> None:
    tried = Ladder()
    tried.problems = {mode: Unsupported("everything") for mode in MODES}

    chosen, refusals = tried.choose(*MODES)

    assert chosen == ""
    assert [each.mode for each in refusals] == list(MODES)


def test_a_mistake_of_ours_is_none_of_the_hosts() -> None:
    tried = Ladder()
    tried.problems["first"] = KeyError("mistake")

    with pytest.raises(KeyError, match="mistake"):
        tried.choose(*MODES)

    assert tried.seen == ["probe first", "close first"]


# --- while it runs


class Lending(Listeners):
    """Says what is asked of it."""

    def __init__(self, told: list[str]) -> None:
        super().__init__()
        self.told = told

    def lend(self) -> None:
        self.told.append("lend")

    def take_back(self) -> None:
        self.told.append("take back")

    def close_rest(self, *, is_for_services: bool | None = None) -> None:
        assert is_for_services
        self.told.append("close rest")


class Site:
    """A daemon on the first rung, with a few services."""

    def __init__(self, daemon: Daemon, modes: Sequence[str] = MODES) -> None:
        self.daemon = daemon
        self.ladder = Ladder()
        self.kept: list[str] = []
        self.told: list[str] = []
        self.recorder = Recorder("n1", clock=lambda: 0.0, unix_ns=lambda: 1)
        daemon.backend.name = "first"
        self.descent = Descent(
            daemon.reconciler,
            Announcer(self.recorder, "n1"),
            modes,
            self.ladder.create,
            leave=lambda mode: Rung(mode, self.ladder.seen),
            others=lambda mode: [each for each in MODES if each != mode],
            keep=lambda backend: self.kept.append(backend.name),
            listeners=Lending(self.told),
            limit_s=LIMIT_S,
        )
        daemon.reconciler.on_round = self.descent.heard

    def live(self, life: Callable[[], Coroutine[Any, Any, None]]) -> None:
        async def both() -> None:
            task = asyncio.create_task(self.descent.run())
            self.daemon.tell_all(
                *[
                    make_service(name, make_service_port(name, cluster_ip=f"10.96.0.{number}"))
                    for number, name in enumerate(("default/a", "default/b", "default/c"), start=1)
                ]
            )
            await self.daemon.pass_s()
            await life()
            assert not task.done()
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

        self.daemon.live(both)

    def events(self) -> list[tuple[str, str]]:
        told = []
        while message := self.recorder.take():
            self.recorder.sent(message)
            told.append((str(message.body["reason"]), str(message.body["note"])))
        return told

    @property
    def mode(self) -> str:
        return self.daemon.reconciler.backend.name

    @property
    def words(self) -> str:
        return self.daemon.reconciler.condition(self.daemon.now_s).fallback


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Site:
    return Site(make_daemon(monkeypatch))


def test_a_kernel_that_stays_out_of_reach_has_the_next_mode_take_over(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    site.ladder.problems["second"] = Unsupported("scheduler best")

    async def life() -> None:
        assert (site.mode, site.words) == ("first", "")
        site.daemon.backend.failure = unreachable()
        site.daemon.reconciler.repair([])
        site.daemon.tell(make_service("default/d", make_service_port("default/d")))
        await site.daemon.pass_s(LIMIT_S - 5.0)
        assert site.mode == "first"

        await site.daemon.pass_s(15.0)
        assert site.mode == "third"

    site.live(life)

    reason = (
        "first: nothing could be programmed for 60 s: dump: No buffer space available (errno 105)"
    )
    words = f"mode third instead of first, second: {reason}; second: scheduler best"
    assert site.words == words
    assert site.ladder.made["third"].kernel.keys() == site.daemon.desired.ports.keys()
    assert len(site.daemon.desired.ports) == 4
    assert site.events() == [("ProxyModeFallback", words)]
    assert f"mode {reason}; going on in mode third" in caplog.text
    assert site.daemon.reconciler.falls == 1
    assert site.kept == ["third"]


def test_what_the_old_mode_left_goes_only_after_the_new_one_has_done_everything(
    site: Site,
) -> None:
    async def life() -> None:
        await site.daemon.pass_s()
        site.ladder.seen.clear()
        site.daemon.backend.failure = unreachable()
        site.daemon.tell(make_service("default/d", make_service_port("default/d")))
        await site.daemon.pass_s(LIMIT_S - 5.0)
        assert site.ladder.seen == []
        original = site.ladder.create

        def slow(mode: str) -> Rung:
            made = original(mode)
            made.apply_s = 100.0
            return made

        site.descent._create = slow
        await site.daemon.pass_s(50.0)
        assert site.mode == "second"
        assert site.ladder.seen == ["probe second"]
        assert not site.daemon.reconciler.is_synced.is_set()

        await site.daemon.pass_s(LONG_S)
        assert site.daemon.reconciler.is_synced.is_set()
        assert "retire first" in site.ladder.seen
        assert "retire second" not in site.ladder.seen

    site.live(life)


def test_it_goes_down_again_and_names_all_it_has_passed(site: Site) -> None:
    async def life() -> None:
        site.daemon.backend.failure = unreachable()
        site.daemon.tell(make_service("default/d", make_service_port("default/d")))
        await site.daemon.pass_s(LIMIT_S + 10.0)
        assert site.mode == "second"
        site.ladder.made["second"].failure = unreachable()
        site.daemon.tell(make_service("default/e", make_service_port("default/e")))
        await site.daemon.pass_s(LIMIT_S + 10.0)
        assert site.mode == "third"

    site.live(life)

    assert site.words.startswith("mode third instead of first, second: ")
    assert site.daemon.reconciler.falls == 2


def test_where_nobody_may_take_over_it_says_so_and_tries_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    site = Site(make_daemon(monkeypatch), ["first"])

    async def life() -> None:
        site.daemon.backend.failure = unreachable()
        site.daemon.tell(make_service("default/d", make_service_port("default/d")))
        await site.daemon.pass_s(2 * LIMIT_S + 20.0)
        assert "no other may be tried; trying on" in site.words
        assert site.mode == "first"

        site.daemon.backend.failure = None
        await site.daemon.pass_s(10.0)
        assert site.words == ""

    site.live(life)

    told = [each for each in caplog.records if "no other may be tried" in each.getMessage()]
    assert [each.levelname for each in told] == ["ERROR", "ERROR"]
    assert {reason for reason, _ in site.events()} == {"ProxyModeFailed"}
    assert make_key("default/d") in site.daemon.backend.kernel


def test_where_nobody_else_can_run_it_says_why(site: Site) -> None:
    site.ladder.problems = {
        "second": Unsupported("scheduler best"),
        "third": Unsupported("device"),
    }

    async def life() -> None:
        site.daemon.backend.failure = unreachable()
        site.daemon.tell(make_service("default/d", make_service_port("default/d")))
        await site.daemon.pass_s(LIMIT_S + 10.0)
        assert "no other can run: second: scheduler best; third: device" in site.words
        site.ladder.problems.clear()
        await site.daemon.pass_s(LIMIT_S + 10.0)
        assert site.mode == "second"

    site.live(life)


def test_single_refusals_are_no_reason_and_refusals_of_everything_are(site: Site) -> None:
    keys = [make_key(f"default/{name}") for name in "abc"]

    async def life() -> None:
        site.daemon.backend.refused = dict.fromkeys(keys[:2], "No space left")
        site.daemon.reconciler.repair([])
        for number in range(20):
            for name in "ab":
                changed = make_service_port(f"default/{name}", cluster_ip=f"10.96.1.{number}")
                site.daemon.tell(make_service(f"default/{name}", changed))
            await site.daemon.pass_s(20.0)
        assert site.mode == "first"

        site.daemon.backend.refused = dict.fromkeys(keys, "No space left")
        changed = make_service_port("default/c", cluster_ip="10.96.2.1")
        site.daemon.tell(make_service("default/c", changed))
        await site.daemon.pass_s(LONG_S)
        assert site.mode == "second"

    site.live(life)

    assert "all 3 service ports are refused; default/a" in site.words


def test_that_what_nobody_asks_for_cannot_be_removed_is_no_reason(site: Site) -> None:
    names = [f"default/{name}" for name in "def"]

    async def life() -> None:
        site.daemon.tell(*[make_service(name, make_service_port(name)) for name in names])
        await site.daemon.pass_s()
        site.daemon.backend.refused = {make_key(name): "busy" for name in names}
        site.daemon.tell(*[Delete("Service", *name.split("/")) for name in names])
        await site.daemon.pass_s(LONG_S)
        assert len(site.daemon.reconciler.quarantine) == len(site.daemon.desired.ports) == 3
        assert site.daemon.reconciler.last_error == ""
        assert site.mode == "first"

    site.live(life)


def test_a_mistake_of_ours_is_no_reason(site: Site) -> None:
    rounds: list[Round] = []

    async def life() -> None:
        site.daemon.backend.failure = KeyError("mistake")
        site.daemon.tell(make_service("default/d", make_service_port("default/d")))
        hear = site.daemon.reconciler.on_round

        def hear_too(ended: Round) -> None:
            rounds.append(ended)
            hear(ended)

        site.daemon.reconciler.on_round = hear_too
        await site.daemon.pass_s(LONG_S)
        assert site.mode == "first"

    site.live(life)

    assert {(each.error, each.trouble) for each in rounds} == {("'mistake'", "")}


def test_that_somebody_else_is_in_the_way_is_no_reason(site: Site) -> None:
    async def life() -> None:
        site.daemon.backend.failure = Busy("write", 0, "the lock is held")
        site.daemon.tell(make_service("default/d", make_service_port("default/d")))
        await site.daemon.pass_s(LONG_S)
        assert "the lock is held" in site.daemon.reconciler.last_error
        assert site.mode == "first"

    site.live(life)


def test_where_the_new_mode_has_everything_refused_what_the_old_one_left_serves_on(
    site: Site,
) -> None:
    refused = {make_key(f"default/{name}"): "No space left" for name in "abcd"}
    original = site.ladder.create

    def full(mode: str) -> Rung:
        made = original(mode)
        made.refused = dict(refused)
        return made

    site.descent._create = full

    async def life() -> None:
        await site.daemon.pass_s()
        site.ladder.seen.clear()
        site.daemon.backend.failure = unreachable()
        site.daemon.tell(make_service("default/d", make_service_port("default/d")))
        await site.daemon.pass_s(LIMIT_S + 15.0)
        assert site.mode == "second"
        assert site.daemon.reconciler.is_synced.is_set()
        await site.daemon.pass_s(20.0)
        assert site.ladder.seen == ["probe second"]

        site.ladder.made["second"].refused.clear()
        await site.daemon.pass_s(60.0)
        assert site.mode == "second"
        assert "retire first" in site.ladder.seen

    site.live(life)


def test_what_was_passed_on_waits_for_a_mode_that_does_not_have_everything_refused(
    site: Site,
) -> None:
    site.daemon.backend.refused = {make_key(f"default/{name}"): "No space left" for name in "abc"}

    async def life() -> None:
        assert site.daemon.reconciler.is_synced.is_set()
        assert site.told == []
        await site.daemon.pass_s(LIMIT_S + 15.0)
        assert site.mode == "second"
        assert site.told == ["lend", "take back", "close rest"]

    site.live(life)


class Slow(Rung):
    """Takes its time to be tried."""

    async def probe(self) -> None:
        await asyncio.sleep(LONG_S)
        await super().probe()


def test_failures_of_the_old_mode_are_not_the_new_ones(site: Site) -> None:
    site.descent._create = lambda mode: Slow(mode, site.ladder.seen)

    async def life() -> None:
        site.daemon.backend.failure = unreachable()
        site.daemon.tell(make_service("default/d", make_service_port("default/d")))
        await site.daemon.pass_s(LIMIT_S + LONG_S + 10.0)
        assert site.mode == "second"
        await site.daemon.pass_s(LONG_S + 10.0)
        assert site.mode == "second"

    site.live(life)

    assert site.daemon.reconciler.falls == 1


def test_a_mode_that_can_program_again_while_others_are_tried_stays(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    site.descent._create = lambda mode: Slow(mode, site.ladder.seen)

    async def life() -> None:
        site.daemon.backend.failure = unreachable()
        site.daemon.tell(make_service("default/d", make_service_port("default/d")))
        await site.daemon.pass_s(LIMIT_S + 10.0)
        site.daemon.backend.failure = None
        await site.daemon.pass_s(LONG_S)

    site.live(life)

    assert (site.mode, site.words, site.kept) == ("first", "", [])
    assert "close second" in site.ladder.seen
    assert "mode first can program again, and stays" in caplog.text


class Listening(FakeBackend):
    """A backend that listens in this process."""

    name = "first"

    def __init__(self, heard: list[str]) -> None:
        super().__init__()
        self.heard = heard

    async def drain(self, deadline_s: float) -> int:
        self.heard.append(f"drain {deadline_s:g}")
        return 1


def test_where_the_old_mode_listens_the_new_one_is_lent_its_sockets(site: Site) -> None:
    old = Listening(site.told)
    site.daemon.reconciler.backend = site.daemon.backend = old

    def slow(mode: str) -> Rung:
        made = Rung(mode, site.ladder.seen)
        made.apply_s = 100.0
        return made

    async def life() -> None:
        old.failure = unreachable()
        site.daemon.tell(make_service("default/d", make_service_port("default/d")))
        await site.daemon.pass_s(LIMIT_S - 5.0)
        site.told.clear()
        site.descent._create = slow
        await site.daemon.pass_s(10.0)
        assert site.mode == "second"
        assert site.told == ["lend", "drain 0"]

        await site.daemon.pass_s(150.0)
        assert site.told == ["lend", "drain 0", "take back", "close rest"]

    site.live(life)
