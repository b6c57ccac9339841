"""The node's own connections on the real kernel: those whose address is gone are ended, and no others."""

import socket
from collections.abc import Iterator

import pytest

from backends.kernel.sockets import Sockets
from e2e import topology
from e2e.topology import Addresses, Host, World

GONE = Addresses("192.0.2.55", "2001:db8::55")
MAPPED = f"::ffff:{GONE.v4}"


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with topology.world(pods=1) as made:
        topology.serve_on(made.pods, "tcp:8080")
        yield made


@pytest.fixture
def node(world: World) -> Iterator[Host]:
    world.node.namespace.ip(f"address add {GONE.v4}/32 dev lo", f"address add {GONE.v6} dev lo")
    yield world.node
    world.node.namespace.ip("address flush dev lo scope global")


def connect(node: Host, pod: Host, source: str) -> socket.socket:
    """A connection to a pod that has been answered once."""
    family = socket.AF_INET6 if ":" in source else socket.AF_INET
    address = pod.addresses.v6 if family == socket.AF_INET6 else pod.addresses.v4
    with node.entered():
        made = socket.socket(family, socket.SOCK_STREAM)
        made.settimeout(5.0)
        made.bind((source, 0))
        made.connect((f"::ffff:{pod.addresses.v4}" if source == MAPPED else address, 8080))
    assert made.recv(100)
    return made


@pytest.mark.parametrize("source", [*GONE, MAPPED])
def test_a_connection_whose_address_is_gone_is_ended_at_once(
    world: World, node: Host, source: str
) -> None:
    with connect(node, world.pods[0], source) as made:
        node.namespace.ip("address flush dev lo scope global")
        with node.entered(), Sockets() as sockets:
            assert sockets.end(set(GONE)) == 1
            assert sockets.end(set(GONE)) == 0

        with pytest.raises(ConnectionAbortedError):
            made.recv(100)


def test_all_others_stay(world: World, node: Host) -> None:
    own = node.addresses
    with node.entered():
        listening = socket.create_server((GONE.v4, 9999))
    with (
        listening,
        connect(node, world.pods[0], own.v4) as v4,
        connect(node, world.pods[0], own.v6) as v6,
    ):
        with node.entered(), Sockets() as sockets:
            assert sockets.end(set(GONE)) == 0

        for made in (v4, v6):
            made.sendall(b"\n")
            assert made.recv(100)
        with node.entered(), socket.create_connection((GONE.v4, 9999)):
            pass
