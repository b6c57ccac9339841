"""IPVS of one network namespace: generic netlink requests in, replies out.

It stands behind `tests.fakes.netlink.FakeKernel`, the operating system's end of a socket, so everything above the
system call is the code of production. It refuses what the kernel refuses, with the same error;
e2e/test_kernel_ipvs.py has it and the kernel carry out the same random messages, and compares.

Packets do not pass here: connections are what a test says they are (`count`).
"""

import errno
import ipaddress
import struct
from collections.abc import Callable
from typing import Final

from backends.kernel.ipvs_messages import Command
from backends.kernel.ipvs_objects import Load, ServerId
from proxy.addresses import parse_ip
from proxy.model import IPV4
from proxy.netlink import codec, generic
from proxy.netlink.codec import Message
from tests.fakes.netlink import Reply, Subsystem, done, reply

# what Debian's kernel 6.1 has
SCHEDULERS: Final = frozenset(
    ["rr", "wrr", "lc", "wlc", "lblc", "lblcr", "sh", "dh", "sed", "nq", "fo", "ovf", "mh"]
)
NUMBER: Final = 0x23
LONGEST_S: Final = (2**31 - 1) // 250
"""The longest timeout: the kernel counts in ticks, of which Debian's has 250 in a second."""

_AF_INET: Final = 2
_AF_INET6: Final = 10
_HASHED: Final = 0x2
_TUNNEL: Final = 2
_FORWARDING_MASK: Final = 7
_PIECE: Final = 32 << 10
_NAME_LENGTH: Final = 16
_STATS: Final = codec.nested(10) + codec.nested(12)

Attrs = dict[int, bytes]
Key = tuple[bytes, ...]
"""By what a virtual server is found: family and mark, or family, protocol, address and port."""


class _RefusalError(Exception):
    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class _Server:
    """A virtual server: what it was made with, and its destinations, each by address and port."""

    def __init__(self, identity: Attrs) -> None:
        self.identity = identity
        self.settings: Attrs = {}
        self.flags = 0
        self.destinations: dict[Key, Attrs] = {}


class IpvsKernel(Subsystem):
    """All virtual servers. `names` are the schedulers it has; a test may add and remove some."""

    protocol = codec.NETLINK_GENERIC

    def __init__(self) -> None:
        self.schedulers = set(SCHEDULERS)
        self.has_module = True
        self._servers: dict[Key, _Server] = {}
        self._loads: dict[tuple[Key, Key], Load] = {}
        self._timeouts = {4: 900, 5: 120, 6: 300}
        self._actions: dict[int, Callable[[dict[int, memoryview]], None]] = {
            Command.NEW_SERVER: self._new_server,
            Command.SET_SERVER: self._set_server,
            Command.DEL_SERVER: self._del_server,
            Command.NEW_DESTINATION: self._new_destination,
            Command.SET_DESTINATION: self._set_destination,
            Command.DEL_DESTINATION: self._del_destination,
            Command.SET_CONFIG: self._set_timeouts,
        }

    def count(self, server: ServerId, address: str, port: int, load: Load) -> None:
        """Let a destination have so many connections, whether it is there or comes later."""
        self._loads[_key_of(server), _place_of(address, port)] = load

    def _answer(self, sent: list[Message]) -> list[Reply]:
        return [datagram for message in sent for datagram in self._reply(message)]

    def _reply(self, message: Message) -> list[Reply]:
        try:
            if message.kind == NUMBER:
                return self._carry_out(message)
            return [self._family(message)]
        except _RefusalError as refusal:
            return [reply(message.seq, refusal.number)]

    def _family(self, message: Message) -> bytes:
        command, attrs = generic.parse(message.payload)
        assert (message.kind, command) == (16, 3), "only families are asked for besides"
        if bytes(attrs[2]) != b"IPVS\0" or not self.has_module:
            raise _RefusalError(errno.ENOENT)
        content = generic.header(1) + codec.attr(2, b"IPVS\0") + codec.attr_u16(1, NUMBER)
        return codec.message(16, 0, message.seq, content)

    def _carry_out(self, message: Message) -> list[Reply]:
        command, attrs = generic.parse(message.payload)
        if command in self._actions:
            self._actions[command](attrs)
            return [reply(message.seq)] if message.flags & codec.NLM_F_ACK else []
        if message.flags & codec.NLM_F_DUMP:
            return self._dump(message.seq, command, attrs)
        answer = codec.message(NUMBER, 0, message.seq, self._get(command, attrs))
        return [answer]

    # --- virtual servers

    def _new_server(self, attrs: dict[int, memoryview]) -> None:
        given = _server_attrs(attrs)
        key, flags = _key(given), self._checked_flags(given, 0)
        if key in self._servers:
            raise _RefusalError(errno.EEXIST)
        server = _Server({kind: given[kind] for kind in (1, 5, 2, 3, 4) if kind in given})
        self._adopt(server, given, flags)
        self._servers[key] = server

    def _set_server(self, attrs: dict[int, memoryview]) -> None:
        given = _server_attrs(attrs)
        server = self._servers.get(_key(given))
        flags = self._checked_flags(given, 0 if server is None else server.flags)
        if server is None:
            raise _RefusalError(errno.ESRCH)
        self._adopt(server, given, flags)

    def _del_server(self, attrs: dict[int, memoryview]) -> None:
        key, _ = self._find(attrs)
        del self._servers[key]

    def _checked_flags(self, given: Attrs, present: int) -> int:
        if any(kind not in given for kind in (6, 7, 8, 9)):
            raise _RefusalError(errno.EINVAL)
        flags, mask = struct.unpack("=II", given[7])
        return int(present & ~mask | flags & mask)

    def _adopt(self, server: _Server, given: Attrs, flags: int) -> None:
        """Take over what a virtual server can be told, if there is nothing wrong about it."""
        if codec.read_string(given[6]) not in self.schedulers or given.get(11, b"\0") != b"\0":
            raise _RefusalError(errno.ENOENT)
        prefix = int.from_bytes(given[9], "little")
        if server.identity[1] == _u16(_AF_INET6) and not 1 <= prefix <= 128:
            raise _RefusalError(errno.EINVAL)
        server.settings = {kind: given[kind] for kind in (6, 8, 9)}
        server.flags = flags

    def _find(self, attrs: dict[int, memoryview]) -> tuple[Key, _Server]:
        key = _key(_server_attrs(attrs))
        if key not in self._servers:
            raise _RefusalError(errno.ESRCH)
        return key, self._servers[key]

    # --- destinations

    def _new_destination(self, attrs: dict[int, memoryview]) -> None:
        server, place, given = self._whole_destination(attrs)
        if place in server.destinations:
            raise _RefusalError(errno.EEXIST)
        if not _can_be_sent_to(server, given):
            raise _RefusalError(errno.EINVAL)
        # the kernel puts it in front of the others
        server.destinations = {place: given, **server.destinations}

    def _set_destination(self, attrs: dict[int, memoryview]) -> None:
        server, place, given = self._whole_destination(attrs)
        if place not in server.destinations:
            raise _RefusalError(errno.ENOENT)
        server.destinations[place] = given

    def _del_destination(self, attrs: dict[int, memoryview]) -> None:
        _, server = self._find(attrs)
        place, _ = _destination_attrs(attrs)
        if place not in server.destinations:
            raise _RefusalError(errno.ENOENT)
        del server.destinations[place]

    def _whole_destination(self, attrs: dict[int, memoryview]) -> tuple[_Server, Key, Attrs]:
        _, server = self._find(attrs)
        place, given = _destination_attrs(attrs)
        if any(kind not in given for kind in (3, 4, 5, 6)):
            raise _RefusalError(errno.EINVAL)
        forwarding = _number(given[3]) & _FORWARDING_MASK
        given[3] = forwarding.to_bytes(4, "little")
        family = _number(given.get(11, b"\0\0")) or _number(server.identity[1])
        if family not in {_AF_INET, _AF_INET6}:
            raise _RefusalError(errno.EAFNOSUPPORT)
        given[11] = _u16(family)
        if given[11] != server.identity[1] and forwarding != _TUNNEL:
            raise _RefusalError(errno.EINVAL)
        if _number(given[4]) >= 2**31 or _number(given[6]) > _number(given[5]):
            raise _RefusalError(errno.ERANGE)
        if _number(given[5]) >= 2**31:  # seen on Debian's 6.1.192
            raise _RefusalError(errno.EINVAL)
        return server, place, given

    # --- settings and lists

    def _set_timeouts(self, attrs: dict[int, memoryview]) -> None:
        wanted = {kind: _number(bytes(value)) for kind, value in attrs.items()}
        if any(value > LONGEST_S for value in wanted.values()):
            raise _RefusalError(errno.EINVAL)
        self._timeouts.update({kind: value for kind, value in wanted.items() if value})

    def _get(self, command: int, attrs: dict[int, memoryview]) -> bytes:
        if command == Command.GET_SERVER:
            return generic.header(Command.NEW_SERVER) + _pack_server(self._find(attrs)[1])
        if command == Command.GET_CONFIG:
            numbers = [codec.attr_u32(kind, value) for kind, value in self._timeouts.items()]
            return generic.header(Command.SET_CONFIG) + b"".join(numbers)
        assert command == Command.GET_INFO
        version = codec.attr_u32(1, 0x010201) + codec.attr_u32(2, 4096)
        return generic.header(Command.SET_INFO) + version

    def _dump(self, seq: int, command: int, attrs: dict[int, memoryview]) -> list[Reply]:
        if command == Command.GET_SERVER:
            head = generic.header(Command.NEW_SERVER)
            found = [head + _pack_server(server) for server in self._servers.values()]
        else:
            found = self._destinations(attrs)
        pieces, piece = list[Reply](), b""
        for payload in found:
            message = codec.message(NUMBER, codec.NLM_F_MULTI, seq, payload)
            if len(piece) + len(message) > _PIECE:
                pieces.append(piece)
                piece = b""
            piece += message
        return [*pieces, piece, done(seq)] if piece else [done(seq)]

    def _destinations(self, attrs: dict[int, memoryview]) -> list[bytes]:
        try:
            key, server = self._find(attrs)
        except _RefusalError:
            return []
        head = generic.header(Command.NEW_DESTINATION)
        return [
            head + _pack_destination(given, self._loads.get((key, place), Load(0, 0, 0)))
            for place, given in server.destinations.items()
        ]


def _server_attrs(attrs: dict[int, memoryview]) -> Attrs:
    """Return the attributes that say which virtual server is meant, and perhaps how it is to be."""
    if 1 not in attrs:
        raise _RefusalError(errno.EINVAL)
    given = {kind: bytes(value) for kind, value in codec.parse_attrs(attrs[1]).items()}
    if 1 not in given or not (5 in given or given.keys() >= {2, 3, 4}):
        raise _RefusalError(errno.EINVAL)
    if len(given.get(6, b"")) > _NAME_LENGTH or len(given.get(11, b"")) > _NAME_LENGTH:
        raise _RefusalError(errno.EINVAL)
    if _number(given[1]) not in {_AF_INET, _AF_INET6}:
        raise _RefusalError(errno.EAFNOSUPPORT)
    return given


def _key(given: Attrs) -> Key:
    kinds = (1, 5) if 5 in given else (1, 2, 3, 4)
    return tuple([given[kind] for kind in kinds])


def _destination_attrs(attrs: dict[int, memoryview]) -> tuple[Key, Attrs]:
    if 2 not in attrs:
        raise _RefusalError(errno.EINVAL)
    given = {kind: bytes(value) for kind, value in codec.parse_attrs(attrs[2]).items()}
    if 1 not in given or 2 not in given:
        raise _RefusalError(errno.EINVAL)
    return (given[1], given[2]), given


def _can_be_sent_to(server: _Server, given: Attrs) -> bool:
    """Whether the kernel takes it for an address of a single host, as it asks of a new destination (ip_vs_new_dest)."""
    if _number(given[11]) == _AF_INET:
        four = ipaddress.IPv4Address(given[1][:4])
        return not (four.is_multicast or four.packed in {bytes(4), b"\xff" * 4})
    six = ipaddress.IPv6Address(given[1])
    return not (six.is_multicast or six.is_link_local or six.is_unspecified)


def _pack_server(server: _Server) -> bytes:
    identity = [codec.attr(kind, value) for kind, value in server.identity.items()]
    scheduler, timeout, netmask = (codec.attr(k, server.settings[k]) for k in (6, 8, 9))
    flags = codec.attr(7, struct.pack("=II", server.flags | _HASHED, 0xFFFFFFFF))
    return codec.nested(1, *identity, scheduler, flags, timeout, netmask, _STATS)


def _pack_destination(given: Attrs, load: Load) -> bytes:
    settings = [codec.attr(kind, given[kind]) for kind in (1, 2, 3, 4, 5, 6)]
    counts = [codec.attr_u32(kind, count) for kind, count in zip((7, 8, 9), load, strict=True)]
    return codec.nested(2, *settings, *counts, codec.attr(11, given[11]), _STATS)


def _key_of(server: ServerId) -> Key:
    family = _u16(_AF_INET if server.family == IPV4 else _AF_INET6)
    if server.protocol is None:
        return family, server.mark.to_bytes(4, "little")
    protocol = {"TCP": 6, "UDP": 17, "SCTP": 132}[server.protocol]
    return (family, _u16(protocol), *_place_of(server.address, server.port))


def _place_of(address: str, port: int) -> Key:
    parsed = parse_ip(address)
    assert parsed is not None
    return parsed.packed.ljust(16, b"\0"), port.to_bytes(2, "big")


def _u16(number: int) -> bytes:
    return number.to_bytes(2, "little")


def _number(packed: bytes) -> int:
    return int.from_bytes(packed, "little")
