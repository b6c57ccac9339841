import pytest

from backends.kernel.ipvs_objects import Destination, Forwarding, ServerId, marked
from proxy.model import IPV4, IPV6


@pytest.mark.parametrize(
    ("server", "words"),
    [
        (ServerId(IPV4, "TCP", "10.96.0.1", 80), "TCP 10.96.0.1:80"),
        (ServerId(IPV6, "SCTP", "2001:db8::1", 443), "SCTP [2001:db8::1]:443"),
        (marked(IPV4, 0x4000), "mark 0x4000 (IPv4)"),
        (marked(IPV6, 0x4000), "mark 0x4000 (IPv6)"),
    ],
)
def test_a_virtual_server_is_named_by_what_the_kernel_knows_it_by(
    server: ServerId, words: str
) -> None:
    assert str(server) == words


def test_virtual_servers_of_one_mark_are_two_if_of_two_families() -> None:
    assert marked(IPV4, 1) != marked(IPV6, 1)


def test_a_destination_is_named_by_address_and_port() -> None:
    assert str(Destination("10.0.0.1", 8080)) == "10.0.0.1:8080"
    assert str(Destination("2001:db8::1", 8080)) == "[2001:db8::1]:8080"


def test_unless_said_otherwise_a_destination_is_masqueraded_and_takes_connections() -> None:
    destination = Destination("10.0.0.1", 8080)

    assert (destination.forwarding, destination.weight) == (Forwarding.MASQUERADE, 1)
