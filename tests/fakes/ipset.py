"""The sets of one network namespace: netlink requests in, replies out.

It stands behind `tests.fakes.netlink.FakeKernel`, the operating system's end of a socket, so everything above the
system call is the code of production. It refuses what the kernel refuses, with the same error;
e2e/test_kernel_ipset.py has it and the kernel carry out the same random messages, and compares.

Packets do not pass here, and no time: members stay until they are deleted.
"""

import errno
from collections.abc import Callable
from typing import Final

from backends.kernel.ipset_messages import Command, kind_of
from proxy.netlink import codec
from proxy.netlink.codec import Message
from tests.fakes.netlink import Reply, Subsystem, done, reply

KINDS: Final = frozenset(
    [
        *("hash:ip", "hash:net", "hash:ip,port", "hash:ip,port,ip", "hash:ip,port,net"),
        *("hash:net,port", "hash:net,net", "bitmap:port"),
    ]
)
PROTOCOL, NO_KIND, BUSY, NO_SECOND, DIFFERENT = 4097, 4098, 4100, 4101, 4102
NOT_THERE, BAD_PREFIX, BAD_FAMILY, NO_TIMEOUT, FULL, ZERO = 4103, 4104, 4106, 4107, 4352, 4353
NO_MARKS = 4114

_NAME, _TYPE, _REVISION, _FAMILY, _FLAGS, _DATA, _MEMBERS = range(2, 9)
_ADDRESS, _PREFIX, _PORT, _TIMEOUT, _NUMBER, _OTHER, _OTHER_PREFIX = 1, 3, 4, 6, 7, 20, 21
_MAX_MEMBERS, _COUNT, _REFERENCES = 19, 24, 25
_OPTIONS, _MARK = 8, 27
_WITH_MARKS: Final = 1 << 6
_NET_BYTEORDER: Final = 0x4000
_IPV4: Final = 2
_AT_ONCE: Final = 100
_NETWORKS: Final = {
    "hash:net": (_PREFIX,),
    "hash:net,port": (_PREFIX,),
    "hash:ip,port,net": (_OTHER_PREFIX,),
    "hash:net,net": (_PREFIX, _OTHER_PREFIX),
}

Attrs = dict[int, bytes]
Key = tuple[tuple[int, bytes], ...]
"""By what a member is found: its attributes."""


class _RefusalError(Exception):
    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class _Set:
    def __init__(self, kind: str, family: int, revision: int, settings: Attrs) -> None:
        self.kind = kind
        self.family = family
        self.revision = revision
        self.timeout = settings.get(_TIMEOUT)
        self.max_members = settings.get(_MAX_MEMBERS)
        self.options = int.from_bytes(settings.get(_OPTIONS, b""), "big")
        self.members: dict[Key, bytes | None] = {}
        """With the mark of each, None for one without."""

    def is_like(self, other: "_Set") -> bool:
        """Whether the kernel takes it for the same; it does not look at the family."""
        return (self.kind, self.timeout, self.max_members, self.options) == (
            other.kind,
            other.timeout,
            other.max_members,
            other.options,
        )


class IpsetKernel(Subsystem):
    """All sets. A test may take away `kinds`, and let rules name a set (`references`).

    `tells_missing`: whether destroying a set that is not there is refused, as by kernels before 5.12.
    """

    protocol = codec.NETLINK_NETFILTER

    def __init__(self) -> None:
        self.kinds = set(KINDS)
        self.references: dict[str, int] = {}
        self.tells_missing = False
        self._sets: dict[str, _Set] = {}
        self._actions: dict[int, Callable[[dict[int, memoryview]], None]] = {
            kind_of(Command.CREATE): self._create,
            kind_of(Command.DESTROY): self._destroy,
            kind_of(Command.FLUSH): self._flush,
            kind_of(Command.SWAP): self._swap,
            kind_of(Command.ADD): self._add,
            kind_of(Command.DEL): self._delete,
            kind_of(Command.TEST): self._test,
        }

    def has(self, name: str) -> bool:
        """Whether there is a set of that name, as rules that name one ask."""
        return name in self._sets

    def _answer(self, sent: list[Message]) -> list[Reply]:
        return [datagram for message in sent for datagram in self._reply(message)]

    def _reply(self, message: Message) -> list[Reply]:
        attrs = codec.parse_attrs(message.payload, 4)
        assert bytes(attrs[1]) == b"\x06", "every message tells the version"
        try:
            if message.kind == kind_of(Command.LIST):
                return self._list(message.seq, attrs)
            self._actions[message.kind](attrs)
        except _RefusalError as refusal:
            return [reply(message.seq, refusal.number)]
        return [reply(message.seq)] if message.flags & codec.NLM_F_ACK else []

    def _find(self, attrs: dict[int, memoryview], kind: int = _NAME) -> _Set:
        found = self._sets.get(codec.read_string(attrs[kind]))
        if found is None:
            raise _RefusalError(errno.ENOENT if kind == _NAME else NO_SECOND)
        return found

    def _create(self, attrs: dict[int, memoryview]) -> None:
        name, kind = codec.read_string(attrs[_NAME]), codec.read_string(attrs[_TYPE])
        if kind not in self.kinds:
            raise _RefusalError(NO_KIND)
        family = attrs[_FAMILY][0]
        if kind != "bitmap:port" and family not in {2, 10}:
            raise _RefusalError(BAD_FAMILY)
        made = _Set(kind, family, attrs[_REVISION][0], _plain(attrs[_DATA]))
        clash = self._sets.setdefault(name, made)
        if not clash.is_like(made):
            raise _RefusalError(errno.EEXIST)

    def _destroy(self, attrs: dict[int, memoryview]) -> None:
        name = codec.read_string(attrs[_NAME])
        if name not in self._sets:
            if self.tells_missing:
                raise _RefusalError(errno.ENOENT)
            return
        if self.references.get(name):
            raise _RefusalError(BUSY)
        del self._sets[name]

    def _flush(self, attrs: dict[int, memoryview]) -> None:
        self._find(attrs).members.clear()

    def _swap(self, attrs: dict[int, memoryview]) -> None:
        one, other = self._find(attrs), self._find(attrs, _TYPE)
        if (one.kind, one.family) != (other.kind, other.family):
            raise _RefusalError(DIFFERENT)
        names = codec.read_string(attrs[_NAME]), codec.read_string(attrs[_TYPE])
        self._sets[names[0]], self._sets[names[1]] = other, one

    def _add(self, attrs: dict[int, memoryview]) -> None:
        held, data = self._find(attrs), _plain(attrs[_DATA])
        key = _key(held, data)
        most = int.from_bytes(held.max_members, "big") if held.max_members else 65536
        if key not in held.members and len(held.members) >= most:
            raise _RefusalError(FULL)
        held.members[key] = data.get(_MARK)

    def _delete(self, attrs: dict[int, memoryview]) -> None:
        held = self._find(attrs)
        held.members.pop(_key(held, _plain(attrs[_DATA])), None)

    def _test(self, attrs: dict[int, memoryview]) -> None:
        held = self._find(attrs)
        if _key(held, _plain(attrs[_DATA])) not in held.members:
            raise _RefusalError(NOT_THERE)

    def _list(self, seq: int, attrs: dict[int, memoryview]) -> list[Reply]:
        if _NAME in attrs:
            self._find(attrs)
        names = [codec.read_string(attrs[_NAME])] if _NAME in attrs else list(self._sets)
        is_header = _FLAGS in attrs
        answers: list[Reply] = []
        for name in names:
            members = [] if is_header else list(self._sets[name].members.items())
            parts = [members[i : i + _AT_ONCE] for i in range(0, len(members), _AT_ONCE)] or [[]]
            for part in parts:
                content = self._header(name, self._sets[name])
                if not is_header:
                    content += codec.nested(_MEMBERS, *[_listed(*each) for each in part])
                answers.append(
                    codec.message(kind_of(Command.LIST), codec.NLM_F_MULTI, seq, content)
                )
        return [*answers, done(seq)]

    def _header(self, name: str, held: _Set) -> bytes:
        references = self.references.get(name, 0)
        settings = [
            codec.attr(kind | _NET_BYTEORDER, value)
            for kind, value in ((_MAX_MEMBERS, held.max_members), (_TIMEOUT, held.timeout))
            if value is not None
        ]
        if held.options:
            settings.append(codec.attr(_OPTIONS | _NET_BYTEORDER, held.options.to_bytes(4, "big")))
        return (
            b"\x02\0\0\0"
            + codec.attr(1, b"\x06")
            + codec.attr_string(_NAME, name)
            + codec.attr_string(_TYPE, held.kind)
            + codec.attr(_FAMILY, bytes([held.family]))
            + codec.attr(_REVISION, bytes([held.revision]))
            + codec.nested(
                _DATA,
                *settings,
                codec.attr(_COUNT | _NET_BYTEORDER, len(held.members).to_bytes(4, "big")),
                codec.attr(_REFERENCES | _NET_BYTEORDER, references.to_bytes(4, "big")),
            )
        )


def _plain(data: memoryview) -> Attrs:
    return {kind: bytes(value) for kind, value in codec.parse_attrs(data).items()}


def _key(held: _Set, data: Attrs) -> Key:
    """Return by what a member is found, or refuse what a set of this kind cannot have."""
    parts = {"bitmap:port": ["port"]}.get(held.kind, held.kind.removeprefix("hash:").split(","))
    wanted = {_ADDRESS} if parts[0] != "port" else set()
    wanted |= {_PORT, _NUMBER} if "port" in parts[1:] else set()
    wanted |= {_PORT} if parts[0] == "port" else set()
    wanted |= {_OTHER} if parts[-1] in {"ip", "net"} and len(parts) > 1 else set()
    if not wanted <= data.keys():
        raise _RefusalError(PROTOCOL)
    for kind in {_ADDRESS, _OTHER} & wanted:
        if (_address(data[kind])[0] == 1) != (held.family == _IPV4):
            raise _RefusalError(PROTOCOL)
    if _TIMEOUT in data and held.timeout is None:
        raise _RefusalError(NO_TIMEOUT)
    if _MARK in data and not held.options & _WITH_MARKS:
        raise _RefusalError(NO_MARKS)
    if held.kind == "hash:ip" and not any(_address(data[_ADDRESS])[1]):
        raise _RefusalError(ZERO)
    if held.kind in _NETWORKS:
        for prefix in _NETWORKS[held.kind]:
            if data.setdefault(prefix, bytes([32 if held.family == _IPV4 else 128])) == b"\0":
                raise _RefusalError(BAD_PREFIX)
            wanted.add(prefix)
    return tuple([(kind, data[kind]) for kind in sorted(wanted)])


def _address(data: bytes) -> tuple[int, bytes]:
    ((kind, value),) = codec.iter_attrs(data)
    return kind, bytes(value)


def _listed(key: Key, mark: bytes | None) -> bytes:
    parts = [
        codec.nested(kind, value)
        if kind in {_ADDRESS, _OTHER}
        else codec.attr(kind | (_NET_BYTEORDER if kind == _PORT else 0), value)
        for kind, value in key
    ]
    if mark is not None:
        parts.append(codec.attr(_MARK | _NET_BYTEORDER, mark))
    return codec.nested(_DATA, *parts)
