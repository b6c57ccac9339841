"""What is in sets for the node itself follows the node, and ranges come once all services are there."""

from collections import defaultdict

from backends.kernel.nft_node import NODEPORT_IPS, SERVICE_CIDRS, NodePart, node_members, plan_node
from backends.kernel.nft_values import ABSENT, Values
from proxy.desired_node import DesiredNode
from proxy.model import FAMILIES, IPV4, Family

NODE = DesiredNode(
    node_port_addresses={"IPv4": ("192.0.2.1",), "IPv6": ("2001:db8::1",)},
    service_cidrs=("10.96.0.0/16", "fd00::/112"),
)
IN_IPV4 = (IPV4, NODEPORT_IPS, b"\xc0\0\2\1")
RANGE = {(IPV4, SERVICE_CIDRS, b"\x0a\x60\0\0\0"), (IPV4, SERVICE_CIDRS, b"\x0a\x61\0\0\1")}


def planned(
    old: NodePart | None, node: DesiredNode, *, is_settled: bool
) -> tuple[NodePart | None, dict[tuple[Family, str], Values]]:
    asked: dict[tuple[Family, str], Values] = defaultdict(dict)
    part = plan_node(
        lambda family, name: asked[family, name], [IPV4], old, node, is_settled=is_settled
    )
    return part, dict(asked)


def test_only_families_that_are_served_have_elements() -> None:
    assert node_members(NODE, [IPV4], is_settled=False) == {IN_IPV4}
    assert node_members(NODE, [IPV4], is_settled=True) == {IN_IPV4, *RANGE}
    assert len(node_members(NODE, FAMILIES, is_settled=True)) == 6
    assert not node_members(DesiredNode(), FAMILIES, is_settled=True)


def test_ranges_come_once_all_services_are_there() -> None:
    first, asked = planned(None, NODE, is_settled=False)
    assert asked == {IN_IPV4[:2]: {IN_IPV4[2]: (None, None)}}

    second, asked = planned(first, NODE, is_settled=True)

    assert asked[IPV4, SERVICE_CIDRS] == {key: (None, None) for _, _, key in RANGE}
    assert second is not None
    assert second.is_settled


def test_nothing_is_asked_for_what_is_as_it_was() -> None:
    part, _ = planned(None, NODE, is_settled=True)

    assert planned(part, NODE, is_settled=True) == (None, {})
    same = DesiredNode(
        node_port_addresses=NODE.node_port_addresses, service_cidrs=NODE.service_cidrs
    )
    described, asked = planned(part, same, is_settled=True)
    assert asked == {}
    assert described is not None
    assert described.described is same


def test_what_the_node_has_no_more_goes() -> None:
    part, _ = planned(None, NODE, is_settled=True)

    _, asked = planned(part, DesiredNode(), is_settled=True)

    assert asked[IPV4, NODEPORT_IPS] == {IN_IPV4[2]: (ABSENT, None)}
    assert set(asked[IPV4, SERVICE_CIDRS].values()) == {(ABSENT, None)}
