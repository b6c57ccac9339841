"""What a start would do: the order of plans, that none is carried out, and how it is told."""

import asyncio
import json

import pytest

from backends.null.backend import NullObserved, NullPlan
from proxy import rehearsal
from proxy.backend import Applied
from proxy.desired import DesiredState
from proxy.errors import KernelError
from proxy.ladder import Refusal
from proxy.rehearsal import Rehearsal, rehearse, render_json, render_text
from tests.desired_strategies import make_desired
from tests.fakes.backend import FakeBackend
from tests.model_builders import (
    make_key,
)

WEB, OLD = make_key("default/web"), make_key("default/old")


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
    return asyncio.run(rehearse(backend, desired))


def test_what_is_asked_for_comes_before_what_goes_and_nothing_is_carried_out() -> None:
    backend = FakeBackend()
    backend.kernel.update(desired_of("default/old").ports)
    before = dict(backend.kernel)

    found = rehearsed(backend, desired_of("default/web"))

    assert [(part.phase, part.lines) for part in found.parts] == [
        ("program", (f"remember {WEB}",)),
        ("prune", (f"forget {OLD}",)),
    ]
    assert (found.mode, found.ports, found.operations) == ("fake", 1, 2)
    assert (backend.kernel, backend.applied) == (before, [])


def test_where_all_is_there_nothing_is_to_be_done() -> None:
    backend, desired = FakeBackend(), desired_of("default/web", "default/other")
    backend.kernel.update(desired.ports)

    found = rehearsed(backend, desired)

    assert (found.parts, found.operations, found.ports) == ((), 0, 2)
    assert render_text(found).splitlines()[1:] == [
        "nothing to do: all of it is there, and nothing else of this mode",
    ]


def test_plans_for_nobody_follow_as_long_as_one_is_due() -> None:
    backend = Tidy()
    backend.sweeps = 4

    rehearsed(backend, desired_of("default/web"))

    assert len(backend.told) == 2


def test_what_writes_nothing_is_nothing_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    backend, desired = FakeBackend(), desired_of("default/web")
    backend.kernel.update(desired.ports)
    monkeypatch.setattr(NullPlan, "describe", lambda _: ["10.1.0.1:80 drains"])

    found = rehearsed(backend, desired)

    assert (found.parts, found.operations) == ((), 0)


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
        rehearsal.Part(phase="program", operations=7, lines=("1 add", "2 add")),
        rehearsal.Part(phase="sweep", operations=1, lines=("1 remove",)),
    ),
    refused={WEB: "no room"},
    warnings=("it rains",),
)


def test_as_text_each_plan_has_a_heading() -> None:
    assert render_text(FOUND).splitlines() == [
        "mode iptables on node n1: 1 service port",
        "passed over: mode nftables: a map: Not supported",
        "to be written:",
        "  1 add",
        "  2 add",
        "a moment later, when no packet is on its way any more:",
        "  1 remove",
        "not served: default/web (TCP, IPv4): no room",
        "8 objects to be written or removed; nothing was changed",
    ]


def test_as_json_each_operation_has_its_plan_and_phase() -> None:
    assert json.loads(render_json(FOUND)) == {
        "mode": "iptables",
        "passedOver": ["nftables: a map: Not supported"],
        "node": "n1",
        "servicePorts": 1,
        "objects": 8,
        "operations": [
            {"plan": 1, "phase": "program", "operation": "1 add"},
            {"plan": 1, "phase": "program", "operation": "2 add"},
            {"plan": 2, "phase": "sweep", "operation": "1 remove"},
        ],
        "refused": {"default/web (TCP, IPv4)": "no room"},
        "warnings": ["it rains"],
    }
