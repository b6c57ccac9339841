"""What a start would do: reading until all is there, the order of plans, and how it is told."""

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest

from backends.null.backend import NullObserved, NullPlan
from proxy import rehearsal
from proxy.backend import Applied
from proxy.cache import Cache
from proxy.desired import DesiredState
from proxy.errors import ApiError, ConfigError, KernelError
from proxy.ladder import Refusal
from proxy.model import NodeInfo
from proxy.rehearsal import Rehearsal, read_all, rehearse, render_json, render_text
from proxy.sources.events import Deliver, Event, Synced, Upsert, WatchReport
from tests.daemon import listed
from tests.desired_strategies import make_desired
from tests.fakes.backend import FakeBackend
from tests.model_builders import (
    make_key,
    make_service,
    make_slice,
)

WEB, OLD = make_key("default/web"), make_key("default/old")


class Speaking:
    """A source that says what it is told to, in steps, and then nothing more or no more."""

    def __init__(self, *steps: Sequence[Event] | Exception, ends: bool = False) -> None:
        self._steps = steps
        self._ends = ends
        self.phases: list[str] = []
        self.error = ""

    def report(self) -> Sequence[WatchReport]:
        phase = self.phases.pop(0) if self.phases else "watching"
        values: dict[str, Any] = dict.fromkeys(WatchReport.__struct_fields__)
        return (WatchReport(**(values | {"phase": phase, "error": self.error})),)

    async def run(self, deliver: Deliver) -> None:
        for step in self._steps:
            await asyncio.sleep(0)
            if isinstance(step, Exception):
                raise step
            deliver(step, 0.0)
        if not self._ends:
            await asyncio.Event().wait()


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rehearsal, "_LOOK_S", 0.0)


def read(source: Speaking, limit_s: float = 60.0) -> Cache:
    cache = Cache(NodeInfo(name="n1"))
    asyncio.run(read_all(source, cache, limit_s))
    return cache


@pytest.mark.parametrize("ends", [False, True])
def test_it_is_read_until_every_kind_was_listed(ends: bool) -> None:
    source = Speaking([Upsert(make_service())], [Upsert(make_slice())], listed(), ends=ends)

    cache = read(source)

    assert list(cache.services) == [WEB.name.service]
    assert not cache.unlisted


def test_what_need_not_be_there_is_waited_for_while_it_is_asked_for() -> None:
    source = Speaking(listed())
    source.phases = ["listing"] * 5

    read(source)

    assert source.phases == []


def test_who_does_not_answer_in_time_is_named_with_what_is_missing_and_why() -> None:
    source = Speaking(listed(but="EndpointSlice"))
    source.error = "connection refused"

    with pytest.raises(
        ApiError, match=r"every EndpointSlice .* within 0.01 s: connection refused"
    ):
        read(source, limit_s=0.01)


def test_a_stream_that_ends_too_soon_is_an_error() -> None:
    with pytest.raises(ConfigError, match="before it had listed every EndpointSlice, Node"):
        read(Speaking([Synced("Service")], ends=True))


def test_that_nothing_can_be_read_is_an_error() -> None:
    with pytest.raises(ConfigError, match="cannot read objects: no such file"):
        read(Speaking(OSError("no such file")))


class Tidy(FakeBackend):
    """Leaves what goes for a moment: so much later a plan for nobody is due."""

    sweeps = 0

    def assume(self, plan: NullPlan, observed: NullObserved) -> Applied:
        applied = super().assume(plan, observed)
        self.sweeps -= 1
        return Applied(operations=applied.operations, again_s=1.0 if self.sweeps > 0 else None)


def desired_of(*names: str) -> DesiredState:
    desired = DesiredState()
    for port in map(make_desired, names):
        desired.ports[port.key] = port
    return desired


def rehearsed(backend: FakeBackend, desired: DesiredState) -> Rehearsal:
    return asyncio.run(rehearse(backend, desired, "n1", ()))


def test_what_is_asked_for_comes_before_what_goes_and_nothing_is_carried_out() -> None:
    backend = FakeBackend()
    backend.kernel.update(desired_of("default/old").ports)
    before = dict(backend.kernel)

    found = rehearsed(backend, desired_of("default/web"))

    assert [(part.phase, part.lines) for part in found.parts] == [
        ("write", (f"remember {WEB}",)),
        ("remove", (f"forget {OLD}",)),
    ]
    assert (found.mode, found.node, found.ports, found.operations) == ("fake", "n1", 1, 2)
    assert (backend.kernel, backend.applied) == (before, [])


def test_where_all_is_there_nothing_is_to_be_done() -> None:
    backend, desired = FakeBackend(), desired_of("default/web", "default/other")
    backend.kernel.update(desired.ports)

    found = rehearsed(backend, desired)

    assert (found.parts, found.operations, found.ports) == ((), 0, 2)
    assert render_text(found).splitlines() == [
        "mode fake on node n1: 2 service ports",
        "nothing to do: all of it is there, and nothing else of ours",
    ]


def test_plans_for_nobody_follow_as_long_as_one_is_due() -> None:
    backend = Tidy()
    backend.sweeps = 4

    rehearsed(backend, desired_of("default/web"))

    assert len(backend.told) == 2


def test_that_the_kernel_cannot_be_read_is_an_error() -> None:
    backend = FakeBackend()
    backend.failure = KernelError("list", 1, "Operation not permitted")

    with pytest.raises(KernelError):
        rehearsed(backend, desired_of())


FOUND = Rehearsal(
    mode="iptables",
    passed_over=(Refusal(mode="nftables", primitive="a map", how="Not supported"),),
    node="n1",
    ports=1,
    parts=(
        rehearsal.Part(phase="write", lines=("1 add", "2 add")),
        rehearsal.Part(phase="sweep", lines=("1 remove",)),
    ),
    refused={WEB: "no room"},
)


def test_as_text_each_plan_has_a_heading() -> None:
    assert render_text(FOUND).splitlines() == [
        "mode iptables on node n1: 1 service port",
        "passed over: mode nftables: a map: Not supported",
        "to be written:",
        "  1 add",
        "  2 add",
        "to be removed a moment later, when no packet is on its way through it:",
        "  1 remove",
        "not served: default/web (TCP, IPv4): no room",
        "3 operations, none of which was carried out",
    ]


def test_as_json_each_operation_has_its_plan_and_phase() -> None:
    assert json.loads(render_json(FOUND)) == {
        "mode": "iptables",
        "passedOver": ["nftables: a map: Not supported"],
        "node": "n1",
        "servicePorts": 1,
        "operations": [
            {"plan": 1, "phase": "write", "operation": "1 add"},
            {"plan": 1, "phase": "write", "operation": "2 add"},
            {"plan": 2, "phase": "sweep", "operation": "1 remove"},
        ],
        "refused": {"default/web (TCP, IPv4)": "no room"},
    }
