"""Source ranges: who has some, and what the kernel holds of them."""

import pytest

from backends.kernel.nft_expressions import Lookup, Verdict, parse_expressions
from backends.kernel.nft_numbers import SetFlag, VerdictCode
from backends.nftables.firewall import (
    firewall_chain,
    firewall_for,
    firewall_of,
    firewall_set,
)
from proxy.desired import Frontend
from tests.desired_strategies import make_desired
from tests.model_builders import make_key

WEB = make_key("default/web")
VIP = Frontend("LoadBalancer", "203.0.113.1", 80)


@pytest.mark.parametrize(
    ("outer", "ranges", "has_one"),
    [
        ((VIP,), ("192.0.2.0/24",), True),
        ((VIP,), (), False),
        ((Frontend("ExternalIP", "198.51.100.1", 80),), ("192.0.2.0/24",), False),
        ((Frontend("NodePort", None, 30080),), ("192.0.2.0/24",), False),
    ],
)
def test_ranges_are_for_load_balancers_alone(
    outer: tuple[Frontend, ...], ranges: tuple[str, ...], has_one: bool
) -> None:
    port = make_desired("default/web", "10.1.0.1:80", outer=outer, source_ranges=ranges)

    assert (firewall_of(port) is not None) == has_one


def test_who_is_in_no_range_and_not_the_vip_itself_is_dropped() -> None:
    firewall = firewall_for(WEB, ("192.0.2.0/24",))
    inside, own, rest = [parse_expressions(r.expressions) for r in firewall_chain(firewall).rules]

    assert Lookup(firewall.set_name) in inside
    assert Lookup("vip-sources") in own
    assert inside[-1] == own[-1] == Verdict(VerdictCode.RETURN)
    assert rest == (Verdict(VerdictCode.DROP),)


def test_other_ranges_are_another_set_and_the_same_ones_the_same() -> None:
    one = firewall_for(WEB, ("192.0.2.0/24", "10.0.0.0/8"))
    same = firewall_for(WEB, ("10.0.0.0/8", "10.1.0.0/16", "192.0.2.0/24"))
    other = firewall_for(WEB, ("192.0.2.0/25", "10.0.0.0/8"))

    assert one.set_name == same.set_name != other.set_name
    assert one.chain_name == other.chain_name
    assert firewall_set(one).facts.flags == SetFlag.INTERVAL
