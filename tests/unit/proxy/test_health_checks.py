"""Whose health is asked for, and what is counted: addresses that are ready and here."""

from proxy.cache import Merged
from proxy.health_checks import HealthCheck, HealthChecks
from proxy.model import IPV4, IPV6, Endpoint, Family, Service, SlicePort
from tests.model_builders import (
    make_endpoint,
    make_service,
    make_service_name,
    make_service_port,
)

WEB = make_service_name()


def _service(*cluster_ips: str, port: int = 31000) -> Service:
    ports = [
        make_service_port(
            port_name=name, cluster_ip=ip, external_local=True, health_check_node_port=port
        )
        for ip in cluster_ips or ("10.96.0.10",)
        for name in ("http", "https")
    ]
    return make_service("default/web", *ports, uid="u1")


def _merged(
    *endpoints: Endpoint, port: str = "http", family: Family = IPV4
) -> dict[tuple[Family, SlicePort], Merged]:
    return {(family, SlicePort(port, "TCP")): Merged(endpoints=endpoints)}


def _here(
    address: str = "10.1.0.1:80", *, ready: bool = True, terminating: bool = False
) -> Endpoint:
    return make_endpoint(address, is_local=True, ready=ready, terminating=terminating)


def _counted(*merged: dict[tuple[Family, SlicePort], Merged], ips: tuple[str, ...] = ()) -> object:
    checks = HealthChecks()
    everything = {key: value for one in merged for key, value in one.items()}
    checks.update(WEB, _service(*ips), everything)
    return checks.wanted[WEB].local


def test_a_service_with_a_health_check_node_port_is_asked_for() -> None:
    checks = HealthChecks()

    checks.update(WEB, _service(), {})

    wanted = HealthCheck(service=WEB, port=31000, local={IPV4: 0}, uid="u1")
    assert checks.wanted == {WEB: wanted}
    assert checks.take_changed() == {WEB}


def test_any_other_service_is_not() -> None:
    checks = HealthChecks()

    checks.update(WEB, make_service(), _merged(_here()))
    checks.update(WEB, None, {})

    assert checks.wanted == {}
    assert checks.take_changed() == set()


def test_only_what_is_ready_and_here_counts() -> None:
    counted = _counted(
        _merged(
            _here("10.1.0.1:80"),
            _here("10.1.0.2:80", ready=False),
            _here("10.1.0.3:80", ready=False, terminating=True),
            make_endpoint("10.1.0.4:80"),
        )
    )

    assert counted == {IPV4: 1}


def test_a_ready_endpoint_that_terminates_counts() -> None:
    # publishNotReadyAddresses: such an endpoint is used as a ready one
    assert _counted(_merged(_here(terminating=True))) == {IPV4: 1}


def test_an_address_counts_once_over_all_ports() -> None:
    http = _merged(_here("10.1.0.1:80"), _here("10.1.0.1:81"), _here("10.1.0.2:80"))
    https = _merged(_here("10.1.0.1:443"), _here("10.1.0.3:443"), port="https")

    assert _counted(http, https) == {IPV4: 3}


def test_each_family_counts_its_own() -> None:
    four, six = (
        _merged(_here()),
        _merged(_here("[fd00::1]:80"), _here("[fd00::2]:80"), family=IPV6),
    )

    assert _counted(four, six, ips=("10.96.0.10", "fd00:10::a")) == {IPV4: 1, IPV6: 2}


def test_a_family_in_which_the_service_is_not_served_has_no_answer() -> None:
    assert _counted(_merged(_here(), family=IPV6), ips=("10.96.0.10",)) == {IPV4: 0}


def test_a_change_is_told_once_and_what_stays_the_same_is_none() -> None:
    checks = HealthChecks()
    checks.update(WEB, _service(), _merged(_here()))
    checks.take_changed()

    checks.update(WEB, _service(), _merged(_here()))
    assert checks.take_changed() == set()

    checks.update(WEB, _service(), {})
    assert checks.take_changed() == {WEB}
    assert checks.wanted[WEB].local == {IPV4: 0}

    checks.update(WEB, _service(port=31001), {})
    assert checks.take_changed() == {WEB}

    checks.update(WEB, None, {})
    assert checks.take_changed() == {WEB}
    assert checks.wanted == {}
