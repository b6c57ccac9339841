"""What the reconciler tells of its rounds: families, entries with the times of their stages, triggers, and failures."""

import pytest

from proxy.backend import Drift
from proxy.errors import Busy
from proxy.journal import Round
from proxy.model import FAMILIES, NodeInfo, Service
from proxy.sources.events import Delete, Upsert
from tests.daemon import A_MOMENT_S, Daemon, listed, make_daemon
from tests.fakes.backend import unreachable
from tests.model_builders import (
    make_endpoint,
    make_key,
    make_service,
    make_service_port,
    make_slice,
)

A, B = "10.1.0.1:80", "10.1.0.2:80"
WEB, API = make_key("default/web"), make_key("default/api")


class Listener:
    """Keeps what it is told."""

    def __init__(self, daemon: Daemon) -> None:
        self.rounds: list[Round] = []
        daemon.reconciler.on_round = self.rounds.append

    @property
    def triggers(self) -> list[float]:
        return [trigger.at_s for each in self.rounds for trigger in each.triggers]


@pytest.fixture
def daemon(monkeypatch: pytest.MonkeyPatch) -> Daemon:
    return make_daemon(monkeypatch)


@pytest.fixture
def listener(daemon: Daemon) -> Listener:
    return Listener(daemon)


def service(name: str, number: int) -> Service:
    return make_service(name, make_service_port(cluster_ip=f"10.96.0.{number}"))


def test_the_first_round_is_full_and_concerns_both_families(
    daemon: Daemon, listener: Listener
) -> None:
    async def life() -> None:
        daemon.backend.apply_s = 0.5
        began_s = daemon.now_s
        daemon.tell_all(make_service())
        await daemon.pass_s(1.0)

        (first,) = listener.rounds
        assert (first.is_full, set(first.families), first.error) == (True, set(FAMILIES), "")
        assert [entry.key for entry in first.entries] == [WEB]
        assert first.operations == daemon.reconciler.operations > 0
        assert first.transactions == daemon.reconciler.transactions > 0
        assert first.started_s == pytest.approx(began_s, abs=0.01)
        assert first.ended_s - first.started_s == pytest.approx(0.5, abs=0.01)

    daemon.live(life)


def test_a_later_round_concerns_the_families_of_what_changed(
    daemon: Daemon, listener: Listener
) -> None:
    async def life() -> None:
        daemon.tell_all(make_service())
        await daemon.pass_s()
        listener.rounds.clear()

        daemon.tell(make_slice("s-1", make_endpoint(A)))
        await daemon.pass_s()
        daemon.tell(make_slice("s-2", make_endpoint("[fd00::1]:80")))  # of no ServicePort
        await daemon.pass_s()
        daemon.reconciler.repair([Drift(key=WEB, what="gone")])
        await daemon.pass_s()

        assert [(each.is_full, each.families) for each in listener.rounds] == [
            (False, ("IPv4",)),
            (False, ("IPv6",)),
            (False, ("IPv4",)),
        ]
        assert [len(each.entries) for each in listener.rounds] == [1, 0, 1]
        assert listener.rounds[1].operations == 0

    daemon.live(life)


def test_an_entry_has_the_time_of_each_stage(daemon: Daemon, listener: Listener) -> None:
    async def life() -> None:
        daemon.tell_all(make_service())
        await daemon.pass_s()
        daemon.backend.apply_s = 0.5
        daemon.tell(make_slice("s-1", make_endpoint(A)))
        await daemon.pass_s(0.1)  # while this is on its way to the kernel
        read_s = daemon.now_s
        change = make_slice("s-1", make_endpoint(B), triggered_s=7.0)
        daemon.cache.apply([Upsert(change)], read_s, read_s + 0.2)
        daemon.reconciler.wake()
        await daemon.pass_s(2.0)

        last = listener.rounds[-1].entries[-1]
        assert last.triggered_s == 7.0
        assert last.received_s == read_s
        assert last.decoded_s == read_s + 0.2
        assert last.queued_s == pytest.approx(read_s + 0.4, abs=0.01)
        assert last.planned_s == pytest.approx(read_s + 0.4, abs=0.01)
        assert last.acknowledged_s == pytest.approx(read_s + 0.9, abs=0.01)
        assert daemon.reconciler.journal.latest(1) == [last]

    daemon.live(life)


def test_a_failed_round_says_so_and_keeps_its_triggers_for_the_one_that_succeeds(
    daemon: Daemon, listener: Listener
) -> None:
    async def life() -> None:
        daemon.tell_all(make_service())
        await daemon.pass_s()
        listener.rounds.clear()
        daemon.backend.failure = unreachable()
        read_s = daemon.now_s
        daemon.tell(make_slice("s-1", make_endpoint(A), triggered_s=7.0))
        await daemon.pass_s(0.05)
        daemon.tell(make_slice("s-2", make_endpoint(B), triggered_s=8.0))
        await daemon.pass_s(1.0)
        assert listener.triggers == []
        assert all("No buffer space" in each.error for each in listener.rounds)
        assert listener.rounds[0].families == ("IPv4",)

        daemon.backend.failure = None
        await daemon.pass_s(10.0)

        assert listener.triggers == [7.0, 8.0]
        assert listener.rounds[-1].error == ""
        (entry,) = [e for e in listener.rounds[-1].entries if e.cause.name]
        assert (entry.received_s, entry.triggered_s) == (read_s, 7.0)
        assert entry.cause.name == "s-2"

    daemon.live(life)


def test_after_a_round_in_which_nothing_could_be_tried_belief_is_kept(
    daemon: Daemon, listener: Listener
) -> None:
    async def life() -> None:
        daemon.tell_all(make_service())
        await daemon.pass_s()
        observed, reads = daemon.reconciler.observed, len(daemon.backend.observed_at)
        daemon.backend.failure = Busy("write", 0, "the lock is held")
        daemon.tell(make_slice("s-1", make_endpoint(A)))
        await daemon.pass_s(1.0)
        assert "the lock is held" in daemon.reconciler.last_error

        daemon.backend.failure = None
        daemon.backend.told.clear()
        await daemon.pass_s(10.0)

        assert daemon.reconciler.last_error == ""
        assert daemon.reconciler.observed is observed
        assert len(daemon.backend.observed_at) == reads
        assert [e.address for e in daemon.backend.kernel[WEB].reachable] == [A]
        assert daemon.backend.told != []  # that plan may have been the one

    daemon.live(life)


def test_triggers_of_a_refused_service_port_wait_until_the_kernel_takes_it(
    daemon: Daemon, listener: Listener
) -> None:
    async def life() -> None:
        daemon.tell_all(service("default/web", 1), service("default/api", 2))
        await daemon.pass_s()
        daemon.backend.refused[WEB] = "no"
        read_s = daemon.now_s
        daemon.tell(
            make_slice("s-1", make_endpoint(A), triggered_s=7.0),
            make_slice("s-2", make_endpoint(A), service="api", triggered_s=8.0),
        )
        await daemon.pass_s(0.1)
        assert listener.triggers == [8.0]
        errors = {entry.key: entry.error for entry in listener.rounds[-1].entries}
        assert errors == {WEB: "no", API: ""}
        assert listener.rounds[-1].error == ""

        daemon.backend.refused.clear()
        await daemon.pass_s(2.0)

        assert listener.triggers == [8.0, 7.0]
        (entry,) = listener.rounds[-1].entries
        assert (entry.cause.kind, entry.received_s, entry.triggered_s) == ("retry", read_s, 7.0)

    daemon.live(life)


def test_a_trigger_that_changes_nothing_here_counts_as_programmed(
    daemon: Daemon, listener: Listener
) -> None:
    async def life() -> None:
        daemon.tell_all(make_service())
        await daemon.pass_s()
        daemon.tell(make_slice("s-1", service="unknown", triggered_s=7.0))
        await daemon.pass_s()

        assert listener.triggers == [7.0]

    daemon.live(life)


def test_the_condition_follows_the_work(daemon: Daemon) -> None:
    def waits_since_s() -> dict[str, float | None]:
        families = daemon.reconciler.condition(daemon.now_s).families
        return {family: each.queued_s for family, each in families.items()}

    assert waits_since_s() == {}

    async def life() -> None:
        await daemon.pass_s()
        daemon.tell(make_service(), *listed(but="EndpointSlice"))
        await daemon.pass_s(100.0)
        assert waits_since_s() == {"IPv4": None, "IPv6": None}
        assert daemon.reconciler.condition(daemon.now_s).unlisted == {"EndpointSlice"}

        daemon.tell(*listed())
        await daemon.pass_s()
        assert waits_since_s() == {"IPv4": None, "IPv6": None}
        updated_s = daemon.now_s
        await daemon.pass_s(500.0)

        daemon.backend.failure = unreachable()
        queued_s = daemon.now_s
        daemon.tell(make_slice("s-1", make_endpoint(A)))
        await daemon.pass_s(30.0)
        condition = daemon.reconciler.condition(daemon.now_s)
        assert waits_since_s() == {"IPv4": queued_s, "IPv6": None}
        assert "No buffer space" in condition.last_error
        assert condition.is_synced
        assert condition.families["IPv4"].updated_s == pytest.approx(updated_s, abs=0.1)

        daemon.backend.failure = None
        await daemon.pass_s(10.0)
        assert waits_since_s() == {"IPv4": None, "IPv6": None}
        assert daemon.reconciler.condition(daemon.now_s).last_error == ""

    daemon.live(life)


def test_what_was_waiting_for_lists_has_not_waited_for_a_round(daemon: Daemon) -> None:
    daemon.backend.failure = unreachable()

    async def life() -> None:
        daemon.tell(make_service(), *listed(but="EndpointSlice"))
        await daemon.pass_s(100.0)
        listed_s = daemon.now_s
        daemon.tell(*listed())
        await daemon.pass_s(1.0)

        families = daemon.reconciler.condition(daemon.now_s).families
        waits = {family: each.queued_s for family, each in families.items()}
        assert waits == dict.fromkeys(FAMILIES, pytest.approx(listed_s, abs=0.01))

    daemon.live(life)


def test_leftovers_and_refusals_are_part_of_the_condition(daemon: Daemon) -> None:
    gone = make_key("default/gone")
    daemon.find_in_kernel(make_service("default/gone"))
    daemon.backend.refused.update({gone: "busy", WEB: "no"})

    async def life() -> None:
        daemon.tell_all(service("default/web", 1))
        await daemon.pass_s()

        condition = daemon.reconciler.condition(daemon.now_s)
        assert (condition.leftovers, condition.refused) == ("busy", 1)
        assert daemon.reconciler.prune_failures == 1
        daemon.backend.refused.clear()
        await daemon.pass_s(120.0)
        condition = daemon.reconciler.condition(daemon.now_s)
        assert (condition.leftovers, condition.refused) == ("", 0)

    daemon.live(life)


def test_what_was_programmed_at_start_is_none_of_the_slowest(daemon: Daemon) -> None:
    async def life() -> None:
        daemon.tell(service("default/web", 1))
        await daemon.pass_s(20.0)
        daemon.tell(Upsert(NodeInfo(name="n1")), *listed())
        await daemon.pass_s()
        daemon.tell(Delete("Service", "default", "web"))
        await daemon.pass_s()

        (slow,) = daemon.reconciler.journal.slowest(10)
        assert str(slow.cause) == "Service default/web"
        assert slow.took_s < 10 * A_MOMENT_S

    daemon.live(life)
