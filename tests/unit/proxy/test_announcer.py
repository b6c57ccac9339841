"""What begins is told once, about the right object, with words that say what to look at."""

import pytest
from msgspec import structs

from proxy.announcer import Announcer
from proxy.events_recorder import Recorder
from proxy.health import Condition
from proxy.health_checks import HealthCheck
from proxy.ladder import Refusal
from proxy.model import NodeInfo, Rejected
from proxy.sources.events import Problems
from tests.model_builders import make_key, make_node, make_service_name

FINE = Condition(is_synced=True, unlisted=frozenset(), node=make_node(), families={})


class Told:
    """An announcer, and what it has said since somebody asked."""

    def __init__(self) -> None:
        self._recorder = Recorder("n1", clock=lambda: 0.0, unix_ns=lambda: 1)
        self.announcer = Announcer(self._recorder, "n1")

    def bodies(self) -> list[dict[str, object]]:
        bodies = []
        while message := self._recorder.take():
            self._recorder.sent(message)
            bodies.append(message.body)
        return bodies

    def reasons(self) -> list[object]:
        return [body["reason"] for body in self.bodies()]


@pytest.fixture
def told() -> Told:
    return Told()


def test_the_start_is_told_with_the_mode(told: Told) -> None:
    told.announcer.started("nftables")

    [body] = told.bodies()
    assert (body["reason"], body["type"]) == ("Starting", "Normal")
    assert "nftables" in str(body["note"])


def test_a_mode_that_is_second_best_is_a_warning(told: Told) -> None:
    told.announcer.fell_back("nftables", ())
    told.announcer.fell_back(
        "userspace", [Refusal(mode="nftables", primitive="set services", how="no module")]
    )

    [body] = told.bodies()
    assert (body["reason"], body["type"]) == ("ProxyModeFallback", "Warning")
    assert body["note"] == "mode userspace instead of nftables: nftables: set services: no module"


def test_that_nothing_can_be_programmed_and_nobody_takes_over_is_a_warning(told: Told) -> None:
    told.announcer.stuck("mode nftables: no answer; no other may be tried")

    [body] = told.bodies()
    assert (body["reason"], body["type"]) == ("ProxyModeFailed", "Warning")
    assert "no answer" in str(body["note"])


@pytest.mark.parametrize(
    ("reason", "condition"),
    [
        ("NodeUnknown", structs.replace(FINE, node=NodeInfo(name="n1"))),
        ("Contended", structs.replace(FINE, is_contended=True)),
    ],
)
def test_what_begins_is_told_when_it_begins(told: Told, reason: str, condition: Condition) -> None:
    told.announcer.look(FINE, ())
    assert told.reasons() == []

    told.announcer.look(condition, ())
    told.announcer.look(condition, ())
    assert told.reasons() == [reason]


def test_a_node_that_was_not_waited_for_yet_is_not_told(told: Told) -> None:
    waiting = structs.replace(FINE, is_synced=False, node=NodeInfo(name="n1"))

    told.announcer.look(waiting, ())

    assert told.reasons() == []


def test_what_is_refused_is_named_and_told_anew_after_it_was_over(told: Told) -> None:
    many = [make_key(f"default/s{number}") for number in range(5)]

    told.announcer.look(FINE, many)
    told.announcer.look(FINE, many[:1])

    [body] = told.bodies()
    assert body["reason"] == "ServicePortsRefused"
    assert "default/s0" in str(body["note"])
    assert str(body["note"]).endswith("and 2 more")
    told.announcer.look(FINE, ())
    told.announcer.look(FINE, many[3:4])
    assert told.reasons() == ["ServicePortsRefused"]


def test_a_busy_port_is_told_of_the_service(told: Told) -> None:
    check = HealthCheck(service=make_service_name(), port=31000, local={}, uid="u-1")

    told.announcer.busy(check, "taken")

    [body] = told.bodies()
    assert body["reason"] == "FailedToStartServiceHealthcheck"
    assert body["note"] == "node n1: taken"
    assert body["regarding"] == {
        "apiVersion": "v1",
        "kind": "Service",
        "name": "web",
        "namespace": "default",
        "uid": "u-1",
    }


def rejected(field: str = "spec.externalIPs[0]", kind: str = "Service") -> Rejected:
    return Rejected(kind=kind, name="default/web", field=field, reason="'x' is no IP address")


def test_what_cannot_be_used_is_told_of_its_object(told: Told) -> None:
    problems = tuple(rejected(f"endpoints[{n}]", "EndpointSlice") for n in range(5))

    told.announcer.heard(Problems("EndpointSlice default/web", problems), ())

    [body] = told.bodies()
    assert body["reason"] == "UnusableField"
    assert str(body["note"]).startswith("endpoints[0]: 'x' is no IP address; endpoints[1]")
    assert str(body["note"]).endswith("(and 2 more)")
    assert body["regarding"] == {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "name": "web",
        "namespace": "default",
    }


def test_what_was_said_of_an_object_is_not_said_again(told: Told) -> None:
    problem, new = rejected(), rejected("spec.clusterIP")

    told.announcer.heard(Problems("Service default/web", (problem,)), (problem,))
    assert told.bodies() == []

    told.announcer.heard(Problems("Service default/web", (problem, new)), (problem,))
    [body] = told.bodies()
    assert body["note"] == "spec.clusterIP: 'x' is no IP address"


@pytest.mark.parametrize(
    "problem",
    [
        Rejected(kind="Watch", name="services", field="", reason="x"),
        Rejected(kind="Service", name="web", field="metadata.namespace", reason="missing"),
        Rejected(kind="Node", name="n1", field="status", reason="x"),
    ],
)
def test_what_is_no_object_of_a_namespace_is_not_told(told: Told, problem: Rejected) -> None:
    told.announcer.heard(Problems("x", (problem,)), ())

    assert told.bodies() == []
