"""Virtual servers and destinations, made at random: any that can be sent, and few enough that they meet each other."""

import ipaddress
import random
from typing import Final

from hypothesis import strategies as st

from backends.kernel import ipvs_messages
from backends.kernel.ipvs_objects import (
    Destination,
    Forwarding,
    ServerId,
    VirtualServer,
    marked,
)
from proxy.addresses import unpack_ip
from proxy.model import FAMILIES, IPV4, IPV6, PROTOCOLS, Family

_MAPPED = ipaddress.ip_network("::ffff:0:0/96")
_U32 = st.integers(0, 2**32 - 1)
# of the flags the kernel's own is not ours to send
_FLAGS = st.integers(0, 2**32 - 1).map(lambda number: number & ~2)
_NAMES = st.text("abcdefghijklmnopqrstuvwxyz", min_size=1, max_size=15)
_PORTS = st.integers(0, 65535)


def addresses(family: Family) -> st.SearchStrategy[str]:
    """Any address of a family, in canonical text."""
    if family == IPV4:
        return st.binary(min_size=4, max_size=4).map(lambda packed: unpack_ip(packed).text)
    packed = st.ip_addresses(v=6).filter(lambda address: address not in _MAPPED)
    return packed.map(lambda address: unpack_ip(address.packed).text)


@st.composite
def server_ids(draw: st.DrawFn) -> ServerId:
    """Any identity of a virtual server."""
    family = draw(st.sampled_from(FAMILIES))
    if draw(st.booleans()):
        return marked(family, draw(st.integers(1, 2**32 - 1)))
    protocol = draw(st.sampled_from(PROTOCOLS))
    return ServerId(family, protocol, draw(addresses(family)), draw(_PORTS))


@st.composite
def servers(draw: st.DrawFn) -> VirtualServer:
    """Any virtual server that can be packed."""
    identity = draw(server_ids())
    host_bits = draw(st.integers(0, 32 if identity.family == IPV4 else 128))
    engine = draw(st.just("") | _NAMES)
    return VirtualServer(identity, draw(_NAMES), draw(_FLAGS), draw(_U32), host_bits, engine)


@st.composite
def destinations(draw: st.DrawFn, family: Family) -> Destination:
    """Any destination that can be packed."""
    return Destination(
        draw(addresses(family)),
        draw(_PORTS),
        draw(_U32),
        draw(st.sampled_from(list(Forwarding))),
        draw(_U32),
        draw(_U32),
    )


# --- messages about few objects, so that they meet each other

_VIPS: Final[dict[Family, str]] = {IPV4: "10.96.0.1", IPV6: "2001:db8::1"}
# those that no packet can be sent to are refused
_PODS: Final[dict[Family, tuple[str, ...]]] = {
    IPV4: ("10.0.0.1", "10.0.0.2", "127.0.0.1", "0.0.0.0", "224.0.0.1", "255.255.255.255"),
    IPV6: ("2001:db8:1::1", "2001:db8:1::2", "::1", "::", "fe80::1", "ff02::1"),
}
IDS: Final = (
    *[ServerId(family, p, _VIPS[family], 80) for family in FAMILIES for p in PROTOCOLS],
    *[marked(family, mark) for family in FAMILIES for mark in (1, 0x4000)],
)


def _message(chance: random.Random) -> bytes:
    """Return a message that is refused by chance: for where it meets the others, or for what it says."""
    server = chance.choice(IDS)
    whole = VirtualServer(
        server,
        chance.choice(["rr", "rr", "wlc", "sh", "missing"]),
        chance.choice([0, 1, 4, 0x18, 0x3D]),
        chance.choice([0, 300, 86400]),
        chance.choice([0, 0, 8, 32 if server.family == IPV4 else 128]),
    )
    destination = Destination(
        chance.choice(_PODS[server.family]),
        chance.choice([0, 8080]),
        chance.choice([0, 1, 1, 100, 2**31 - 1, 2**31, 2**32 - 1]),
        chance.choice(list(Forwarding)),
        chance.choice([0, 0, 1, 2, 2**31 - 1, 2**31]),
        chance.choice([0, 0, 0, 1, 2, 2**31 - 1, 2**31]),
    )
    return chance.choice(
        [
            *[ipvs_messages.new_server(whole)] * 3,
            ipvs_messages.set_server(whole),
            ipvs_messages.del_server(server),
            *[ipvs_messages.new_destination(server, destination)] * 4,
            ipvs_messages.set_destination(server, destination),
            ipvs_messages.del_destination(server, destination.address, destination.port),
        ]
    )


# Made once: drawing each would take far longer than having two kernels carry it out.
MESSAGES: Final = tuple([_message(random.Random(seed)) for seed in range(1000)])
