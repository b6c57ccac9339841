"""Listening sockets, on loopback addresses."""

import errno
import socket

import pytest

from backends.userspace.here import Here
from backends.userspace.model import EVERYBODY, NOBODY, Admission, Place
from backends.userspace.sockets import Sockets, admit, describe, is_alive
from proxy.listeners import Listeners, listener_key
from proxy.model import Protocol
from tests.forwarding import LIMIT_S, free_place

_IP_PKTINFO = 8


def is_let_in(place: Place, source: str) -> bool:
    return _is_answered(place, source, within_s=LIMIT_S)


def is_kept_out(place: Place, source: str) -> bool:
    return not _is_answered(place, source, within_s=0.2)


def _is_answered(place: Place, source: str, within_s: float) -> bool:
    with socket.socket() as client:
        client.settimeout(within_s)
        client.bind((source, 0))
        try:
            client.connect((place.address, place.port))
        except TimeoutError:
            return False
        return True


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("protocol", ["TCP", "UDP"])
def test_a_socket_listens_where_it_is_asked_to(protocol: Protocol, host: str) -> None:
    place = free_place(protocol, host)

    with Sockets().open(place, EVERYBODY, Here()) as opened:
        assert opened.getsockname()[:2] == (place.address, place.port)
        assert not opened.getblocking()
        assert is_alive(opened)


def test_an_address_that_is_not_here_yet_is_no_obstacle() -> None:
    for host in ("192.0.2.99", "2001:db8::99"):
        place = free_place(host="::1" if ":" in host else "127.0.0.1")._replace(address=host)
        with Sockets().open(place, EVERYBODY, Here()) as opened:
            assert opened.getsockname()[0] == host


def test_what_is_accepted_sends_small_answers_at_once() -> None:
    place = free_place()
    with Sockets().open(place, EVERYBODY, Here()) as opened:
        client = socket.create_connection((place.address, place.port))
        opened.setblocking(True)
        accepted, _ = opened.accept()
        with client, accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)


def test_who_is_not_to_come_in_is_not_answered() -> None:
    place = free_place()
    allowed = Admission(("127.0.0.8/31",))

    with Sockets().open(place, allowed, Here()) as opened:
        assert all(is_kept_out(place, f"127.0.0.{last}") for last in (7, 10))
        assert all(is_let_in(place, f"127.0.0.{last}") for last in (8, 9))
        admit(opened, place, NOBODY, Here())
        assert is_kept_out(place, "127.0.0.8")
        admit(opened, place, EVERYBODY, Here())
        assert is_let_in(place, "127.0.0.7")
        admit(opened, place, EVERYBODY, Here())


def test_the_node_itself_comes_in_where_only_it_and_pods_may() -> None:
    place = free_place()

    with Sockets().open(place, Admission(only_here=True), Here()):
        assert is_let_in(place, "127.0.0.1")


def test_too_many_ranges_let_nobody_in() -> None:
    place = free_place()
    ranges = tuple([f"127.{n >> 8}.{n & 255}.0/24" for n in range(2000)])

    with Sockets().open(place, EVERYBODY, Here()) as opened:
        with pytest.raises(OSError, match="too many source ranges") as caught:
            admit(opened, place, Admission(ranges), Here())
        assert caught.value.errno == errno.EMSGSIZE
        assert is_kept_out(place, "127.0.0.1")


def test_where_somebody_else_listens_is_told_in_words() -> None:
    place = free_place()
    with (
        socket.create_server(("0.0.0.0", place.port)),
        pytest.raises(OSError, match="in use") as e,
    ):
        Sockets().open(place, EVERYBODY, Here())

    assert describe(place, e.value) == (
        f"listen at {place}: another program listens at this port, on this address or on all"
    )


def test_other_reasons_are_those_of_the_kernel() -> None:
    place = free_place()

    assert describe(place, OSError(errno.EACCES, "")) == f"listen at {place}: Permission denied"


def test_a_socket_that_was_passed_on_is_used_and_lets_in_whom_it_should() -> None:
    place = free_place()
    key = listener_key(place.protocol, place.address, place.port)
    before, after = Listeners(), Listeners()
    opened = Sockets(before).open(place, NOBODY, Here())
    after._inherited[key] = before._kept[key]

    with Sockets(after).open(place, EVERYBODY, Here()) as taken:
        assert taken is opened
        assert is_let_in(place, "127.0.0.1")
        assert list(after._kept) == [key]


def test_one_that_listens_no_more_is_opened_anew() -> None:
    place = free_place()
    key = listener_key(place.protocol, place.address, place.port)
    listeners = Listeners()
    dead = socket.socket()
    listeners._inherited[key] = dead

    with Sockets(listeners).open(place, EVERYBODY, Here()) as opened:
        assert opened is not dead
        assert listeners._kept == {key: opened}
    assert dead.fileno() == -1
    assert not is_alive(dead)


def test_one_that_was_passed_on_and_cannot_be_used_is_not_in_the_way_later() -> None:
    place = free_place()
    key = listener_key(place.protocol, place.address, place.port)
    listeners = Listeners()
    listeners._inherited[key] = Sockets().open(place, EVERYBODY, Here())
    too_many = Admission(tuple([f"127.{n >> 8}.{n & 255}.0/24" for n in range(2000)]))

    with pytest.raises(OSError, match="too many source ranges"):
        Sockets(listeners).open(place, too_many, Here())

    assert list(listeners._offered()) == []
    with Sockets(listeners).open(place, EVERYBODY, Here()):
        assert is_let_in(place, "127.0.0.1")


def test_a_place_that_somebody_else_in_this_process_has_stays_that_ones() -> None:
    place = free_place()
    key = listener_key(place.protocol, place.address, place.port)
    listeners = Listeners()
    with socket.create_server((place.address, place.port)) as page:
        listeners.keep(key, page)
        with pytest.raises(OSError, match="in use"):
            Sockets(listeners).open(place, EVERYBODY, Here())
        assert listeners._kept == {key: page}


def test_what_is_closed_is_not_passed_on() -> None:
    place = free_place()
    listeners = Listeners()
    sockets = Sockets(listeners)
    with sockets.open(place, EVERYBODY, Here()):
        sockets.leave(place)

    assert listeners._kept == {}


@pytest.mark.parametrize("protocol", ["TCP", "UDP"])
def test_a_socket_that_was_passed_on_tells_interfaces_if_they_are_asked_for_now(
    protocol: Protocol,
) -> None:
    place = free_place(protocol)
    key = listener_key(protocol, place.address, place.port)
    before, after = Listeners(), Listeners()
    with Sockets(before).open(place, EVERYBODY, Here()):
        after._inherited[key] = before._kept[key]
        taken = Sockets(after, needs_interface=True).open(place, EVERYBODY, Here())
        assert taken.getsockopt(socket.IPPROTO_IP, _IP_PKTINFO) == 1
