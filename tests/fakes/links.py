"""The network interfaces of one namespace and their addresses: rtnetlink requests in, replies out.

It stands behind `tests.fakes.netlink.FakeKernel`, as `tests.fakes.ipvs` does, and refuses what the kernel refuses;
e2e/test_kernel_links.py has both carry out the same random changes, and compares.
"""

import errno
import itertools
from collections.abc import Callable
from typing import Final

from proxy.netlink import codec, route
from proxy.netlink.codec import Message
from proxy.netlink.route import InterfaceAddress, Link
from tests.fakes.netlink import FakeKernel, Reply, Subsystem, done, reply

_ADDRESS_HEAD: Final = 8
_FAMILY: Final = {4: 2, 16: 10}
_GROUP: Final = {4: route.RTNLGRP_IPV4_IFADDR, 16: route.RTNLGRP_IPV6_IFADDR}

Address = tuple[int, bytes, int]
"""The interface's index, the address, the length of its prefix."""


class _RefusalError(Exception):
    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class LinksKernel(Subsystem):
    """Interfaces by index, and addresses. `lo` is there from the start, as in a new network namespace."""

    protocol = codec.NETLINK_ROUTE

    def __init__(self, kinds: tuple[str, ...] = ("dummy",)) -> None:
        self.links: dict[int, Link] = {1: Link(1, "lo", "", bytes(6), "", is_up=True)}
        self._kinds = kinds
        self._addresses: dict[Address, int] = {}
        self._numbers = itertools.count(2)
        self._listening: list[FakeKernel] = []
        self._actions: dict[int, Callable[[Message], None]] = {
            route.RTM_NEWLINK: self._new_link,
            route.RTM_SETLINK: self._set_link,
            route.RTM_DELLINK: self._del_link,
            route.RTM_NEWADDR: self._new_address,
            route.RTM_DELADDR: self._del_address,
        }

    def add(self, name: str, kind: str = "", *addresses: str) -> int:
        """Make somebody else's interface; return its index."""
        index = next(self._numbers)
        self.links[index] = Link(index, name, kind, b"\x02other", "", is_up=True)
        self._announce_link(route.RTM_NEWLINK, self.links[index])
        for text in addresses:
            length = 128 if ":" in text else 32
            message = route.new_address(InterfaceAddress(index, text, length))
            self._new_address(Message(message.kind, message.flags, 0, memoryview(message.payload)))
        return index

    def _open(self) -> FakeKernel:
        endpoint = super()._open()
        self._listening.append(endpoint)
        return endpoint

    def _answer(self, sent: list[Message]) -> list[Reply]:
        return [datagram for message in sent for datagram in self._reply(message)]

    def _reply(self, message: Message) -> list[Reply]:
        try:
            if message.kind == route.RTM_GETADDR:
                return self._list_addresses(message.seq)
            if message.kind == route.RTM_GETLINK:
                link = _pack_link(self._find(message))
                return [codec.message(route.RTM_NEWLINK, 0, message.seq, link)]
            self._actions[message.kind](message)
        except _RefusalError as refusal:
            return [reply(message.seq, refusal.number)]
        return [reply(message.seq)] if message.flags & codec.NLM_F_ACK else []

    # --- interfaces

    def _new_link(self, message: Message) -> None:
        asked = route.parse_link(message.payload)
        assert message.flags & codec.NLM_F_EXCL, "others' interfaces are not changed"
        if any(link.name == asked.name for link in self.links.values()):
            raise _RefusalError(errno.EEXIST)
        if asked.kind not in self._kinds:
            raise _RefusalError(errno.EOPNOTSUPP)
        index = next(self._numbers)
        self.links[index] = asked._replace(ifindex=index)
        self._announce_link(route.RTM_NEWLINK, self.links[index])

    def _set_link(self, message: Message) -> None:
        link = self._find(message)
        asked = route.parse_link(message.payload)
        self.links[link.ifindex] = link._replace(
            alias=asked.alias or link.alias, is_up=asked.is_up or link.is_up
        )
        self._announce_link(route.RTM_NEWLINK, self.links[link.ifindex])

    def _del_link(self, message: Message) -> None:
        index = self._find(message).ifindex
        gone = self.links.pop(index)
        for key in [key for key in self._addresses if key[0] == index]:
            self._announce(route.RTM_DELADDR, key)
            del self._addresses[key]
        self._announce_link(route.RTM_DELLINK, gone)

    def _announce_link(self, kind: int, link: Link) -> None:
        for endpoint in self._listening:
            if route.RTNLGRP_LINK in endpoint.groups:
                endpoint.queue.append(codec.message(kind, 0, 0, _pack_link(link)))

    def _find(self, message: Message) -> Link:
        asked = route.parse_link(message.payload)
        for link in self.links.values():
            if asked.ifindex == link.ifindex or (not asked.ifindex and asked.name == link.name):
                return link
        raise _RefusalError(errno.ENODEV)

    # --- addresses

    def _new_address(self, message: Message) -> None:
        key = self._key(message)
        attrs = codec.parse_attrs(message.payload, _ADDRESS_HEAD)
        if key[0] not in self.links:
            raise _RefusalError(errno.ENODEV)
        if len(key[1]) == 16 and (key[1][0] == 0xFF or not any(key[1])):
            raise _RefusalError(errno.EADDRNOTAVAIL)
        only_ipv6 = route.IFA_F_NODAD if len(key[1]) == 4 else 0
        self._addresses[key] = codec.read_u32(attrs[8]) & ~only_ipv6
        self._announce(route.RTM_NEWADDR, key)

    def _del_address(self, message: Message) -> None:
        key = self._key(message)
        if key[0] not in self.links:
            raise _RefusalError(errno.ENODEV)
        if key not in self._addresses:
            raise _RefusalError(errno.EADDRNOTAVAIL)
        self._announce(route.RTM_DELADDR, key)
        del self._addresses[key]

    def _announce(self, kind: int, key: Address) -> None:
        """Tell those who have joined the group of the family."""
        for endpoint in self._listening:
            if _GROUP[len(key[1])] in endpoint.groups:
                endpoint.queue.append(
                    codec.message(kind, 0, 0, _pack_address(key, self._addresses[key]))
                )

    def _key(self, message: Message) -> Address:
        attrs = codec.parse_attrs(message.payload, _ADDRESS_HEAD)
        index = codec.read_u32(message.payload[4:8])
        return index, bytes(attrs[2]), message.payload[1]

    def _list_addresses(self, seq: int) -> list[Reply]:
        messages: list[Reply] = []
        for key, flags in self._addresses.items():
            content = _pack_address(key, flags)
            messages.append(codec.message(route.RTM_NEWADDR, codec.NLM_F_MULTI, seq, content))
        return [*messages, done(seq)]


def _pack_address(key: Address, flags: int) -> bytes:
    index, packed, length = key
    head = bytes([_FAMILY[len(packed)], length, 0, 0]) + index.to_bytes(4, "little")
    return head + codec.attr(1, packed) + codec.attr(2, packed) + codec.attr_u32(8, flags)


def _pack_link(link: Link) -> bytes:
    head = bytes(4) + link.ifindex.to_bytes(4, "little") + int(link.is_up).to_bytes(8, "little")
    kind = codec.nested(18, codec.attr_string(1, link.kind)) if link.kind else b""
    alias = codec.attr_string(20, link.alias) if link.alias else b""
    name, address = codec.attr_string(3, link.name), codec.attr(1, link.hardware_address)
    return head + name + address + kind + alias
