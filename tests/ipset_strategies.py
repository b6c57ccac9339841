"""Sets and members made at random: any that can be sent, and messages about few of them, so that they meet each other."""

import ipaddress
from typing import Final

from hypothesis import strategies as st

from backends.kernel import ipset_messages
from backends.kernel.ipset_objects import (
    NETWORK_NETWORK,
    NETWORK_PORT,
    IpSet,
    Member,
    SetKind,
)
from proxy.addresses import unpack_ip
from proxy.model import FAMILIES, IPV4, IPV6, Family
from proxy.netlink.codec import Request

_MAPPED = ipaddress.ip_network("::ffff:0:0/96")
_U32 = st.integers(0, 2**32 - 1)
_PORTS = st.integers(0, 65535)
_PROTOCOLS = st.integers(1, 255)


def addresses(family: Family) -> st.SearchStrategy[str]:
    """Any address of a family, in canonical text; also IPv6 ones that hold one of IPv4."""
    if family == IPV4:
        return st.binary(min_size=4, max_size=4).map(lambda packed: unpack_ip(packed).text)
    mapped = addresses(IPV4).map(lambda text: f"::ffff:{text}")
    return st.one_of(
        mapped,
        st.ip_addresses(v=6)
        .filter(lambda address: address not in _MAPPED)
        .map(lambda address: unpack_ip(address.packed).text),
    )


@st.composite
def networks(draw: st.DrawFn, family: Family) -> str:
    """Any range of addresses of a family, but those in which IPv4's are held."""
    length = draw(st.integers(0, 32 if family == IPV4 else 128))
    plain = addresses(family).filter(lambda text: not text.startswith("::ffff:"))
    network = ipaddress.ip_network(f"{draw(plain)}/{length}", strict=False)
    return f"{unpack_ip(network.network_address.packed).text}/{length}"


@st.composite
def sets(draw: st.DrawFn) -> IpSet:
    """Any set that can be made."""
    kind = draw(st.sampled_from([*SetKind, NETWORK_PORT, NETWORK_NETWORK]))
    family = None if kind == SetKind.PORT else draw(st.sampled_from(FAMILIES))
    name = draw(st.text("abcdefghijklmnopqrstuvwxyz-0123456789", min_size=1, max_size=31))
    has_marks = kind in {SetKind.ADDRESS_PORT, NETWORK_PORT} and draw(st.booleans())
    return IpSet(name, kind, family, draw(st.none() | _U32), draw(_U32), has_marks)


@st.composite
def members(draw: st.DrawFn) -> Member:
    """Any member that can be packed, of any kind of set."""
    family = draw(st.sampled_from(FAMILIES))
    address, network = addresses(family), networks(family)
    protocol, port, mark = draw(_PROTOCOLS), draw(_PORTS), draw(st.none() | _U32)
    found: Member = draw(
        st.one_of(
            address.map(Member),
            network.map(Member),
            st.just(Member(port=port)),
            (address | network).map(lambda a: Member(a, protocol, port, mark=mark)),
            st.tuples(network, network).map(lambda t: Member(t[0], other=t[1])),
            st.tuples(address, address | network).map(
                lambda t: Member(t[0], protocol, port, t[1])
            ),
        )
    )
    return found


# --- messages about few objects, so that they meet each other

SETS: Final = (
    IpSet("ip", SetKind.ADDRESS, IPV4),
    IpSet("ip6", SetKind.ADDRESS, IPV6, timeout_s=600),
    IpSet("net", SetKind.NETWORK, IPV4),
    IpSet("net6", SetKind.NETWORK, IPV6),
    IpSet("ip,port", SetKind.ADDRESS_PORT, IPV4, max_members=3),
    IpSet("ip,port6", SetKind.ADDRESS_PORT, IPV6),
    IpSet("ip,port,ip", SetKind.ADDRESS_PORT_ADDRESS, IPV4, timeout_s=0),
    IpSet("ip,port,ip6", SetKind.ADDRESS_PORT_ADDRESS, IPV6),
    IpSet("ip,port,net", SetKind.ADDRESS_PORT_NETWORK, IPV4),
    IpSet("ip,port,net6", SetKind.ADDRESS_PORT_NETWORK, IPV6, max_members=2),
    IpSet("port", SetKind.PORT, None),
    IpSet("port-timeout", SetKind.PORT, None, timeout_s=600),
    IpSet("marks", SetKind.ADDRESS_PORT, IPV4, has_marks=True),
    IpSet("net,port", NETWORK_PORT, IPV4, has_marks=True),
    IpSet("net,port6", NETWORK_PORT, IPV6),
)
_TWINS: Final = (
    IpSet("ip", SetKind.ADDRESS, IPV6),
    IpSet("ip", SetKind.ADDRESS, IPV4, timeout_s=5),
    IpSet("ip", SetKind.ADDRESS, IPV4, max_members=7),
    IpSet("ip", SetKind.ADDRESS_PORT, IPV4),
    IpSet("port", SetKind.PORT, None, timeout_s=5),
    IpSet("other", SetKind.ADDRESS, IPV4),
    IpSet("marks", SetKind.ADDRESS_PORT, IPV4),
    IpSet("other6", SetKind.ADDRESS_PORT, IPV6),
)
_HOSTS: Final[dict[Family, tuple[str, ...]]] = {
    IPV4: ("10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4"),
    IPV6: ("2001:db8::1", "2001:db8::2", "::ffff:10.0.0.1"),
}
_NETWORKS: Final[dict[Family, tuple[str, ...]]] = {
    IPV4: ("10.0.0.0/8", "10.0.0.0/16", "10.0.0.1/32", "0.0.0.0/0"),
    IPV6: ("2001:db8::/32", "2001:db8::1/128", "::/0"),
}


def _fitting(held: IpSet) -> list[Member]:
    """Members that a set of this kind can have, and some of their kind that it refuses."""
    if held.family is None:
        return [Member(port=port) for port in (0, 80, 65535)]
    hosts, ranges = _HOSTS[held.family], _NETWORKS[held.family]
    if held.kind == NETWORK_PORT or held.has_marks:
        return _marked(ranges if held.kind == NETWORK_PORT else hosts[:2])
    return _plain(held, hosts, ranges)


def _marked(places: tuple[str, ...]) -> list[Member]:
    return [Member(each, 6, 80, mark=mark) for each in places for mark in (None, 0, 7)]


def _plain(held: IpSet, hosts: tuple[str, ...], ranges: tuple[str, ...]) -> list[Member]:
    match SetKind(held.kind):
        case SetKind.ADDRESS:
            zero = "0.0.0.0" if held.family == IPV4 else "::"
            return [Member(host) for host in (*hosts, zero)]
        case SetKind.NETWORK:
            return [Member(network) for network in ranges]
        case SetKind.ADDRESS_PORT:
            return [Member(host, number, 80) for host in hosts[:2] for number in (6, 17, 132)]
        case SetKind.ADDRESS_PORT_ADDRESS:
            return [Member(hosts[0], 6, 80, host) for host in hosts]
        case _:
            return [Member(hosts[0], 17, 53, network) for network in ranges]


_NAMES: Final = (*[each.name for each in SETS], "other", "other6", "missing")
# of the other family, or of another kind: refused
_STRANGE: Final = (
    ("ip", Member("2001:db8::1")),
    ("ip6", Member("10.0.0.1")),
    ("ip,port", Member("10.0.0.1")),
    ("ip,port,ip", Member("10.0.0.1", 6, 80)),
    ("ip,port,ip", Member("10.0.0.1", 6, 80, "2001:db8::1")),
    ("net6", Member("10.0.0.0/8")),
    ("port", Member("10.0.0.1")),
    ("missing", Member("10.0.0.1")),
)
MESSAGES: Final[tuple[Request, ...]] = (
    *[
        message
        for each in SETS
        for member in _fitting(each)
        for message in (
            ipset_messages.add(each.name, member),
            ipset_messages.add(each.name, member),
            ipset_messages.add(each.name, member, 300),
            ipset_messages.delete(each.name, member),
        )
    ],
    *[ipset_messages.add(name, member) for name, member in _STRANGE],
    *[ipset_messages.delete(name, member) for name, member in _STRANGE],
    *[ipset_messages.create(each) for each in (*SETS, *_TWINS)],
    *[build(name) for name in _NAMES for build in (ipset_messages.destroy, ipset_messages.flush)],
    *[
        ipset_messages.swap(one, other)
        for one, other in (
            ("ip", "other"),
            ("ip,port6", "other6"),
            ("net", "net6"),
            ("ip", "net"),
            ("ip", "missing"),
            ("missing", "ip"),
            ("port", "port-timeout"),
            ("ip,port,net", "ip,port,ip"),
        )
    ],
)
