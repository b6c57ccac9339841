"""Whether clients come back to the endpoint they had (session affinity ClientIP), and what becomes of them when it goes."""

import time
from collections.abc import Iterator

import pytest

from e2e.frontends import (
    FRONTENDS,
    NODE,
    SOURCE_RANGE,
    Ground,
    assert_dropped,
    assert_reaches,
    assert_refused,
    frontends_world,
    programmed,
    seen,
)
from e2e.topology import FAMILIES, Family, World
from proxy.model import Protocol

pytestmark = pytest.mark.requires("nftables")
both_families = pytest.mark.parametrize("family", FAMILIES)
both_protocols = pytest.mark.parametrize("protocol", ["TCP", "UDP"])


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with frontends_world() as made:
        yield made


@pytest.fixture(scope="module")
def ground(world: World) -> Iterator[Ground]:
    with programmed(world, SOURCE_RANGE, NODE) as made:
        yield made


@both_families
@both_protocols
def test_a_client_is_led_to_one_endpoint_by_all_frontends(
    ground: Ground, family: Family, protocol: Protocol
) -> None:
    service = ground.service(family, protocol)
    ground.put(service.described(*ground.pods, affinity_timeout_s=60))

    for who in ("pod", "client", "node"):
        names = set()
        for kind in ("ClusterIP", *FRONTENDS):
            names |= {name for name, _ in seen(ground.ask(who, service, kind, count=5))}
        assert len(names) == 1, (who, names)


@both_families
@both_protocols
def test_clients_of_a_removed_endpoint_move_at_once_and_stick_again(
    ground: Ground, family: Family, protocol: Protocol
) -> None:
    service, pods = ground.service(family, protocol), ground.pods
    ground.put(service.described(*pods, affinity_timeout_s=60))
    ((first, _),) = seen(ground.ask("pod", service, "ClusterIP", count=5))
    left = [pod for pod in pods if pod.name != first]

    ground.put(service.described(*left, affinity_timeout_s=60))
    ((second, _),) = seen(ground.ask("pod", service, "ClusterIP", count=8))
    assert second != first
    ground.put(service.described(*pods, affinity_timeout_s=60))
    assert {name for name, _ in seen(ground.ask("pod", service, "NodePort", count=8))} == {second}

    ground.put(service.described(affinity_timeout_s=60))
    for kind in ("ClusterIP", *FRONTENDS):
        assert_refused(ground, "pod", service, kind)
    ground.put(service.described(pods[0], affinity_timeout_s=60))
    assert {name for name, _ in seen(ground.ask("pod", service, "ClusterIP", count=3))} == {"a"}


@both_families
def test_affinity_is_switched_on_and_off(ground: Ground, family: Family) -> None:
    service = ground.service(family)
    for _ in range(2):
        ground.put(service.described(*ground.pods))
        assert (
            len({name for name, _ in seen(ground.ask("pod", service, "NodePort", count=40))}) > 1
        )
        ground.put(service.described(*ground.pods, affinity_timeout_s=60))
        assert len(seen(ground.ask("pod", service, "NodePort", count=15))) == 1
    ground.put(service.described(*ground.pods))
    assert len({name for name, _ in seen(ground.ask("pod", service, "NodePort", count=40))}) > 1


@both_families
def test_affinity_lasts_as_long_as_it_is_used_and_no_longer(
    ground: Ground, family: Family
) -> None:
    service = ground.service(family)
    ground.put(service.described(*ground.pods, affinity_timeout_s=600))
    ground.put(service.described(*ground.pods, affinity_timeout_s=1))

    def name() -> str:
        ((name, _),) = seen(ground.ask("pod", service, "ClusterIP"))
        return name

    last_s = begun_s = time.monotonic()
    used = {name()}
    while (now_s := time.monotonic()) < begun_s + 2.5:
        again = name()
        if time.monotonic() > last_s + 0.9:  # held up for so long that it was not in use
            begun_s, used = now_s, set()
        used.add(again)
        last_s = now_s
        time.sleep(0.2)  # the pause is what is tested: shorter than the timeout
    idle = set()
    for _ in range(8):
        time.sleep(1.1)
        idle.add(name())
        if len(idle) > 1:
            break

    assert len(used) == 1
    assert len(idle) > 1  # by chance once in 5^7


@both_families
def test_affinity_and_local_policies_go_together(ground: Ground, family: Family) -> None:
    service = ground.service(family)
    ground.put(
        service.described(
            *ground.pods[:2],
            remote=ground.remote,
            external_local=True,
            internal_local=True,
            affinity_timeout_s=60,
        )
    )
    for kind in FRONTENDS:
        outcomes = seen(ground.ask("client", service, kind, count=8))
        assert len(outcomes) == 1
        assert outcomes <= {
            (pod.name, ground.world.client.addresses.of(family)) for pod in ground.pods[:2]
        }
    inner = seen(ground.ask("pod", service, "ClusterIP", count=8))
    assert len(inner) == 1
    assert {name for name, _ in inner} <= {"a", "b"}

    ground.put(service.described(remote=ground.remote, external_local=True, affinity_timeout_s=60))
    assert_dropped(ground, "client", service, "LoadBalancer")
    assert_reaches(ground, "pod", service, "LoadBalancer", {"r1"}, is_kept=True)
    assert_reaches(ground, "node", service, "LoadBalancer", {"r1"}, is_kept=False)
