"""The order in which ServicePorts are programmed, and in how many steps."""

import itertools
import math
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.batches import at_once, divide, most_urgent_first
from proxy.desired import DesiredPort
from proxy.model import PortKey
from tests.desired_strategies import make_desired
from tests.model_builders import make_endpoint, make_key

HERE = make_endpoint("10.1.0.1:80", is_local=True)
GONE = make_key("default/gone")


class Believed(NamedTuple):
    is_rebuild_due: bool
    worth_a_commit: int


def by_key(*ports: DesiredPort) -> dict[PortKey, DesiredPort]:
    return {port.key: port for port in ports}


@given(st.permutations(range(5)))
def test_what_everything_else_needs_comes_first_and_what_goes_comes_last(order: list[int]) -> None:
    wanted = [
        make_desired("default/kubernetes"),
        make_desired("kube-system/dns", port=53),
        make_desired("a/here", HERE),
        make_desired("a/elsewhere", "10.1.0.2:80"),
    ]
    keys = [*[port.key for port in wanted], GONE]

    assert most_urgent_first([keys[place] for place in order], by_key(*wanted)) == keys


@pytest.mark.parametrize(
    "stem", ["10.96.0.{}", "::ffff:10.96.0.{}", "fd00:10:96::{:x}", "fd00:10:96::ab{:02x}"]
)
@given(order=st.permutations(range(64)))
def test_addresses_with_the_same_last_bits_come_together(stem: str, order: list[int]) -> None:
    ports = [make_desired(f"a/s{n}", cluster_ip=stem.format(n)) for n in order]
    names = {port.key: n for n, port in zip(order, ports, strict=True)}

    ordered = [names[key] for key in most_urgent_first(list(names), by_key(*ports))]

    for mask in (1, 3, 15, 63):
        assert len(list(itertools.groupby([number & mask for number in ordered]))) == mask + 1


def test_all_ports_of_a_service_come_with_the_most_urgent_of_them() -> None:
    metrics = make_desired("kube-system/dns", "10.1.0.2:80", port_name="metrics", port=9153)
    dns = make_desired("kube-system/dns", "10.1.0.2:53", port_name="dns", port=53)
    other = make_desired("a/here", HERE)
    gone = make_key("kube-system/dns", "gone")
    ports = by_key(metrics, other, dns)

    ordered = most_urgent_first([metrics.key, gone, other.key, dns.key], ports)

    assert ordered == [metrics.key, gone, dns.key, other.key]
    assert list(divide(ordered, ports, lambda: 1)) == [ordered[:3], ordered[3:]]


def test_a_step_is_begun_with_fewer_endpoints_than_these() -> None:
    large = [f"10.1.0.{number}:80" for number in range(1, 4)]
    ports = by_key(
        make_desired("a/a", *large),
        make_desired("a/b", *large),
        make_desired("a/c"),
        make_desired("a/d"),
    )

    assert [len(step) for step in divide(ports, ports, lambda: 3)] == [1, 1, 2]
    assert [len(step) for step in divide(ports, ports, lambda: math.inf)] == [4]


@pytest.mark.parametrize(
    ("is_rebuild_due", "worth_a_commit", "wanted"),
    [(False, 0, 2000), (False, 5000, 5000), (True, 0, math.inf)],
)
def test_how_many_endpoints_a_step_has_depends_on_what_is_believed(
    is_rebuild_due: bool, worth_a_commit: int, wanted: float
) -> None:
    assert at_once(Believed(is_rebuild_due, worth_a_commit)) == wanted


def test_nothing_is_no_step() -> None:
    assert list(divide([], {}, lambda: 1)) == []


def test_each_step_is_as_large_as_is_worth_it_when_it_begins() -> None:
    ports = by_key(*[make_desired(f"a/{number}") for number in range(6)])
    worth = iter([1, 2, 3, 4])

    assert [len(step) for step in divide(ports, ports, lambda: next(worth))] == [1, 2, 3]
