"""How a service is doing, in words: from what was decided about each of its frontends."""

from proxy.backlog import Quarantined
from proxy.desired import DesiredPort, Frontend
from proxy.model import Service, ServicePort
from proxy.server.states import (
    LABELS,
    STATES,
    Counts,
    Finding,
    State,
    findings,
    frontend_words,
    outcome,
    skipped_words,
    worst,
)
from tests.desired_strategies import make_desired
from tests.model_builders import make_endpoint, make_service, make_service_port

WEB = make_service()
KEY = WEB.ports[0].key
ALL_READY = Counts(2, 2, 2)


def states_of(
    *ports: DesiredPort | None,
    service: Service = WEB,
    counts: Counts = ALL_READY,
    refused: bool = False,
) -> list[State]:
    quarantine = {KEY: Quarantined(reason="no memory", failures=1, retry_s=0.0)} if refused else {}
    return [finding.state for finding in findings(service, ports, quarantine, counts)]


def test_of_a_service_that_is_served_there_is_nothing_to_say() -> None:
    assert states_of(make_desired("default/web", "10.1.0.1:80")) == []
    assert worst([]) == "ok"


def test_without_a_usable_endpoint_anywhere_connections_are_refused() -> None:
    (finding,) = findings(WEB, [make_desired("default/web")], {}, Counts(0, 0, 0))

    assert finding.state == "refusing"
    assert finding.where == "ClusterIP 10.96.0.10:80"
    assert "refused" in finding.text


def test_with_policy_local_and_endpoints_elsewhere_connections_are_dropped() -> None:
    port = make_desired("default/web", is_any_usable=True, internal_local=True)
    (finding,) = findings(WEB, [port], {}, Counts(2, 2, 0))

    assert finding.state == "dropping"
    assert "Local" in finding.text


def test_each_frontend_has_its_own_policy() -> None:
    port = DesiredPort(
        key=KEY,
        frontends=(Frontend("ClusterIP", "10.96.0.10", 80), Frontend("NodePort", None, 30080)),
        cluster=(make_endpoint(),),
        local=(),
        reachable=(make_endpoint(),),
        is_any_usable=True,
        external_local=True,
    )
    (finding,) = findings(WEB, [port], {}, ALL_READY)

    assert (finding.state, finding.where) == ("dropping", "NodePort 30080")
    assert [outcome(port, f) for f in port.frontends] == ["served", "dropped"]


def test_an_address_that_another_service_owns_is_named() -> None:
    served = make_desired("default/web", "10.1.0.1:80", cluster_ip=None)
    lost = Frontend("ExternalIP", "2001:db8::1", 80)
    port = DesiredPort(
        key=KEY,
        frontends=(),
        cluster=served.cluster,
        local=None,
        reachable=served.reachable,
        is_any_usable=True,
        lost=(lost,),
    )
    (finding,) = findings(WEB, [port], {}, ALL_READY)

    assert (finding.state, finding.where) == ("partly-owned", "ExternalIP [2001:db8::1]:80")


def test_what_the_kernel_refuses_comes_first() -> None:
    assert states_of(make_desired("default/web"), refused=True) == [
        "refused-by-kernel",
        "refusing",
    ]


def test_a_port_nobody_looked_at_yet_waits() -> None:
    assert states_of(None) == ["pending"]


def test_endpoints_that_are_not_ready_are_counted() -> None:
    port = make_desired("default/web", "10.1.0.1:80")

    assert findings(WEB, [port], {}, Counts(3, 1, 1)) == [
        Finding("some-not-ready", "2 of 3 endpoints are not ready")
    ]
    assert "1 of 3 endpoints is" in findings(WEB, [port], {}, Counts(3, 2, 1))[0].text


def test_a_service_that_is_not_proxied_says_why() -> None:
    for why in ("headless", "ExternalName", "service-proxy-name", "no-cluster-ip"):
        service = make_service(skipped=why)
        (finding,) = findings(service, [], {}, Counts(0, 0, 0))

        assert finding.state == "skipped"
        assert finding.text == skipped_words(service)
        assert skipped_words(service) != why
    assert skipped_words(Service(name=WEB.name)) == "none of its ports can be used"
    assert skipped_words(make_service(skipped="new")) == "new"


def test_findings_come_worst_first_and_every_state_has_its_words() -> None:
    ports: list[ServicePort] = [
        make_service_port(port_name="a"),
        make_service_port(port_name="b"),
    ]
    service = make_service("default/web", *ports)
    states = states_of(
        make_desired("default/web", "10.1.0.1:80", is_any_usable=True),
        make_desired("default/web"),
        service=service,
        counts=Counts(2, 1, 1),
    )

    assert states == ["refusing", "some-not-ready"]
    assert worst(findings(service, [None, None], {}, ALL_READY)) == "pending"
    assert set(LABELS) == set(STATES)


def test_a_frontend_in_words() -> None:
    assert frontend_words(Frontend("ClusterIP", "fd00::1", 53)) == "ClusterIP [fd00::1]:53"
    assert frontend_words(Frontend("NodePort", None, 30000)) == "NodePort 30000"
