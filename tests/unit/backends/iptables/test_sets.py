"""Which sets there are, and which cannot be used as they are."""

import pytest

from backends.iptables.sets import affinity_set, fixed_sets, is_misshapen, set_name
from backends.kernel import ipset_messages
from backends.kernel.ipset_objects import IpSet, SetKind
from proxy.model import FAMILIES, Family


@pytest.mark.parametrize("family", FAMILIES)
def test_fixed_sets_can_be_made(family: Family) -> None:
    for name, made in fixed_sets(family).items():
        assert made.name == name
        assert name.startswith(f"sliceproxy{family[-1]}-")
        assert made.family in {family, None}
        assert ipset_messages.create(made)
        assert not is_misshapen(made)


def test_the_two_families_share_no_set() -> None:
    assert not fixed_sets("IPv4").keys() & fixed_sets("IPv6").keys()


def test_addresses_and_frontends_are_sets_of_their_own_kind() -> None:
    kinds = {name.removeprefix("sliceproxy4-"): s.kind for name, s in fixed_sets("IPv4").items()}

    assert kinds["cluster-ips"] == SetKind.ADDRESS
    assert kinds["allowed"] == SetKind.ADDRESS_PORT_NETWORK
    assert kinds["hairpin"] == SetKind.ADDRESS_PORT_ADDRESS
    assert kinds["ports-refused-sctp"] == SetKind.PORT
    assert len(kinds) == 16


def test_a_set_of_another_shape_under_a_name_of_ours_is_misshapen() -> None:
    name = set_name("IPv4", "frontends")
    made = fixed_sets("IPv4")[name]
    client = affinity_set("IPv6", "sliceproxy6-a-ABC")

    assert is_misshapen(made._replace(kind=SetKind.ADDRESS))
    assert is_misshapen(made._replace(family="IPv6"))
    assert is_misshapen(made._replace(max_members=10))
    assert is_misshapen(client._replace(timeout_s=None))
    assert not is_misshapen(client)


def test_a_set_of_a_name_that_we_do_not_use_is_none_of_ours_to_judge() -> None:
    assert not is_misshapen(IpSet("sliceproxy4-other", "list:set", None))
    assert not is_misshapen(IpSet("somebody", "hash:ip", "IPv4"))


def test_clients_are_remembered_in_sets_with_a_timeout() -> None:
    assert affinity_set("IPv4", "sliceproxy4-a-ABC").timeout_s
