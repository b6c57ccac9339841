"""Who owns an address that several services ask for, and who takes over when the owner goes."""

from collections.abc import Set

import pytest
from hypothesis import given, settings

from proxy.desired import DesiredState, Frontend, frontends_of
from proxy.model import PortKey, Service, ServiceName
from tests.model_builders import (
    make_key,
    make_node,
    make_service,
    make_service_name,
    make_service_port,
)
from tests.model_strategies import History, histories
from tests.worlds import world_after

OLD, NEW = "2025-01-01T00:00:00Z", "2026-01-01T00:00:00Z"
WEB, API = make_key("default/web"), make_key("default/api")


def update(desired: DesiredState, service: Service) -> Set[PortKey]:
    return desired.update(service.name, service, {}, make_node())


def remove(desired: DesiredState, name: str) -> Set[PortKey]:
    return desired.update(make_service_name(name), None, {}, make_node())


def owner_of(desired: DesiredState, frontend: Frontend) -> list[str]:
    return [str(key.name) for key, port in desired.ports.items() if frontend in port.frontends]


SHARED = Frontend("ExternalIP", "203.0.113.1", 80)
"""A frontend that several services ask for."""


def claimant(
    name: str, created: str, cluster_ip: str, *, ips: tuple[str, ...] = ("203.0.113.1",)
) -> Service:
    return make_service(
        name, make_service_port(cluster_ip=cluster_ip, external_ips=ips), created=created
    )


OLDER = claimant("default/web", OLD, "10.96.0.1")
YOUNGER = claimant("default/api", NEW, "10.96.0.2")


@pytest.mark.parametrize("order", [(OLDER, YOUNGER), (YOUNGER, OLDER)])
def test_the_older_service_owns_a_contested_address(order: tuple[Service, Service]) -> None:
    desired = DesiredState()

    for service in order:
        update(desired, service)

    assert owner_of(desired, SHARED) == ["default/web"]
    assert desired.ports[WEB].lost == ()
    assert desired.ports[API].frontends == (Frontend("ClusterIP", "10.96.0.2", 80),)
    assert desired.ports[API].lost == (SHARED,)


def test_who_gets_an_address_is_named_before_who_loses_it() -> None:
    desired = DesiredState()
    update(desired, YOUNGER)

    assert list(update(desired, OLDER)) == [WEB, API]
    assert list(update(desired, claimant("default/web", OLD, "10.96.0.1", ips=()))) == [API, WEB]


@pytest.mark.parametrize(
    ("names", "owner"),
    [
        (("b/a", "a/b"), "a/b"),
        (("a/b", "a/a"), "a/a"),
        (("a-b/a", "a/z"), "a/z"),  # namespaces are compared first, not the text with the slash
    ],
)
def test_of_services_of_one_age_the_first_by_namespace_and_name_owns(
    names: tuple[str, str], owner: str
) -> None:
    desired = DesiredState()

    for number, name in enumerate(names):
        update(desired, claimant(name, OLD, f"10.96.0.{number}"))

    assert owner_of(desired, SHARED) == [owner]


def test_an_older_service_that_comes_later_takes_an_address_over() -> None:
    desired = DesiredState()
    update(desired, YOUNGER)

    assert update(desired, OLDER) == {WEB, API}
    assert owner_of(desired, SHARED) == ["default/web"]


def test_the_next_in_line_takes_over_in_the_update_in_which_the_owner_goes() -> None:
    desired = DesiredState()
    third = claimant("default/third", "2026-02-02T00:00:00Z", "10.96.0.3")
    for service in (third, YOUNGER, OLDER):
        update(desired, service)

    assert remove(desired, "default/web") == {WEB, API}
    assert owner_of(desired, SHARED) == ["default/api"]
    assert remove(desired, "default/api") == {API, make_key("default/third")}
    assert owner_of(desired, SHARED) == ["default/third"]


@pytest.mark.parametrize(
    "after",
    [
        pytest.param(claimant("default/web", OLD, "10.96.0.1", ips=()), id="withdrawn"),
        pytest.param(
            claimant("default/web", "2026-02-02T00:00:00Z", "10.96.0.1"),
            id="made anew, so younger",
        ),
    ],
)
def test_an_address_that_is_given_up_goes_to_the_next(after: Service) -> None:
    desired = DesiredState()
    update(desired, OLDER)
    update(desired, YOUNGER)

    assert update(desired, after) == {WEB, API}
    assert owner_of(desired, SHARED) == ["default/api"]


def test_a_loser_that_goes_changes_nothing_for_the_owner() -> None:
    desired = DesiredState()
    update(desired, OLDER)
    update(desired, YOUNGER)

    assert remove(desired, "default/api") == {API}
    assert owner_of(desired, SHARED) == ["default/web"]


def test_another_services_cluster_ip_can_be_lost_to_an_older_external_ip() -> None:
    desired = DesiredState()

    update(desired, claimant("default/web", OLD, "10.96.0.1", ips=("10.96.0.2",)))
    update(desired, claimant("default/api", NEW, "10.96.0.2", ips=()))

    assert desired.ports[API].frontends == ()
    assert desired.ports[API].lost == (Frontend("ClusterIP", "10.96.0.2", 80),)


def test_an_address_is_contested_for_each_port_protocol_and_family_alone() -> None:
    desired = DesiredState()
    ip = ("203.0.113.1",)
    update(desired, make_service("default/a", make_service_port(external_ips=ip, node_port=30000)))

    update(
        desired,
        make_service(
            "default/b",
            make_service_port("", "1", cluster_ip="10.96.0.2", port=81, external_ips=ip),
            make_service_port(
                "", "2", cluster_ip="10.96.0.2", protocol="UDP", external_ips=ip, node_port=30000
            ),
            make_service_port("", "3", cluster_ip="fd00::2", node_port=30000),
        ),
    )

    assert [port.lost for port in desired.ports.values()] == [()] * 4


def test_a_node_port_is_contested_too() -> None:
    desired = DesiredState()
    for number, name in enumerate(("default/b", "default/a")):
        port = make_service_port(cluster_ip=f"10.96.0.{number}", node_port=30000)
        update(desired, make_service(name, port))

    assert owner_of(desired, Frontend("NodePort", None, 30000)) == ["default/a"]


def test_ports_of_one_service_contest_an_address_as_well() -> None:
    desired = DesiredState()

    update(
        desired,
        make_service(
            "default/web", make_service_port(port_name="b"), make_service_port(port_name="a")
        ),
    )

    assert owner_of(desired, Frontend("ClusterIP", "10.96.0.10", 80)) == ["default/web:a"]


@settings(max_examples=100, deadline=None)
@given(histories())
def test_every_address_has_one_owner_and_it_is_the_oldest_who_asks(batches: History) -> None:
    world = world_after(batches)

    asking: dict[object, list[tuple[str, ServiceName, PortKey]]] = {}
    for service in world.cache.services.values():
        for port in service.ports:
            for frontend in frontends_of(port):
                where = (port.key.family, port.key.name.protocol, *frontend[1:])
                asking.setdefault(where, []).append((service.created, service.name, port.key))
    owning = [
        ((key.family, key.name.protocol, *frontend[1:]), key)
        for key, port in world.desired.ports.items()
        for frontend in port.frontends
    ]
    assert sorted(owning, key=str) == sorted(
        [(where, min(claims)[2]) for where, claims in asking.items()], key=str
    )


def test_the_owner_of_a_frontend_is_known_while_anybody_claims_it() -> None:
    desired = DesiredState()
    for name, created, ip in (("web", NEW, "10.96.0.1"), ("api", OLD, "10.96.0.2")):
        update(desired, claimant(f"default/{name}", created, ip))

    assert desired.owner(WEB, SHARED) == API
    assert desired.owner(WEB, Frontend("ClusterIP", "10.96.0.1", 80)) == WEB
    assert desired.owner(WEB._replace(family="IPv6"), SHARED) is None
