"""nf_tables of one network namespace, as far as this project uses it: netlink requests in, replies out.

It stands behind `tests.fakes.netlink.FakeKernel`, the operating system's end of a socket, so everything above the
system call is the code of production. It refuses what the kernel refuses, and blames the same byte of the same message;
e2e/test_fake_nft.py has it and the kernel carry out the same random transactions, and compares.

Left out: loops of chains, what a rule may do at which hook, intervals, timeouts. Tests of those need a kernel.
"""

import errno
import itertools
from collections.abc import Callable, Iterator
from typing import Final, TypeVar

from backends.kernel import nft_elements, nft_messages
from backends.kernel.nft_expressions import Dynset, Lookup, Verdict, parse_expressions
from backends.kernel.nft_numbers import REG_VERDICT, MessageKind
from proxy.netlink import codec
from proxy.netlink.codec import Message
from tests.fakes.netlink import Reply, Subsystem, done, offset, piece, reply
from tests.fakes.nft_objects import (
    JUMPS,
    Attrs,
    Chain,
    Element,
    RefusalError,
    Rule,
    Set,
    Table,
    target,
)

K = TypeVar("K")
V = TypeVar("V")

_PIECE: Final = 32 << 10
_ELEMENTS_PER_MESSAGE: Final = 300
_ELEMENT_FLAGS: Final = 3
_INTERVAL_END: Final = 1
_CATCH_ALL: Final = 2
_FILLED_BY_RULES: Final = (
    0xFFFF  # the limit of a set to which a rule adds elements, unless it has another one
)


class NftKernel(Subsystem):
    """All tables. Changes are made in place, and taken back when their transaction is refused."""

    protocol = codec.NETLINK_NETFILTER

    def __init__(self) -> None:
        self.generation = 1
        self._tables: dict[tuple[int, str], Table] = {}
        self._numbers = itertools.count(1)
        self._undo: list[Callable[[], object]] = []
        self._at_commit: list[Callable[[], object]] = []
        self._actions: dict[int, Callable[[Attrs], None]] = {
            MessageKind.NEWTABLE: self._new_table,
            MessageKind.DELTABLE: self._del_table,
            MessageKind.NEWCHAIN: self._new_chain,
            MessageKind.DELCHAIN: self._del_chain,
            MessageKind.NEWRULE: self._new_rule,
            MessageKind.DELRULE: self._flush_chain,
            MessageKind.NEWSET: self._new_set,
            MessageKind.DELSET: self._del_set,
            MessageKind.NEWSETELEM: self._new_elements,
            MessageKind.DELSETELEM: self._del_elements,
        }

    def _answer(self, sent: list[Message]) -> list[Reply]:
        """Return the replies to one datagram."""
        if sent[0].kind == MessageKind.BATCH_BEGIN:
            return self._transact(sent[1:-1])
        return [datagram for message in sent for datagram in self._get(message)]

    def _transact(self, messages: list[Message]) -> list[Reply]:
        """Carry out all, or take everything back. After a refusal the kernel goes on, to find the others."""
        self._undo, self._at_commit = [], []
        for table in self._tables.values():
            table.is_being_changed = table.has_changed_chains = False
        replies: list[Reply] = []
        is_refused = False
        for message in messages:
            try:
                self._actions[message.kind](Attrs(message))
            except RefusalError as refusal:
                is_refused = True
                where = [] if refusal.at is None else [offset(refusal.at)]
                replies.append(reply(message.seq, refusal.number, *where))
            else:
                if message.flags & codec.NLM_F_ACK:
                    replies.append(reply(message.seq))
        if is_refused:
            for undo in reversed(self._undo):
                undo()
        elif self._undo:
            self.generation += 1
            for change in self._at_commit:
                change()
        return replies

    # --- tables, chains and rules

    def _new_table(self, attrs: Attrs) -> None:
        key, flags = (attrs.family, attrs.name(1)), attrs.number(2) if 2 in attrs else 0
        table = self._tables.get(key)
        if table is None:
            self._put(self._tables, key, Table(attrs.content, flags, self._handle(4)))
        elif table.flags != flags:
            # the kernel does this once in a transaction, and not after it has touched hooks
            if table.is_being_changed or table.has_changed_chains:
                raise RefusalError(errno.EINVAL, None)
            table.is_being_changed = True
            self._assign(table, "flags", flags)

    def _del_table(self, attrs: Attrs) -> None:
        self._table(attrs)
        self._remove(self._tables, (attrs.family, attrs.name(1)))

    def _new_chain(self, attrs: Attrs) -> None:
        table, name, handle = self._table(attrs), attrs.name(3), self._handle(2)
        base = nft_messages.parse_chain(attrs.payload + handle).base
        chain = table.chains.get(name)
        if chain is None:
            if base is not None and table.is_being_changed:
                raise RefusalError(errno.EINVAL, None)
            self._put(table.chains, name, Chain(attrs.content, base, handle))
            return
        if base is None:
            self._note(lambda: None)
            table.has_changed_chains = True
            return
        if chain.base is None:
            raise attrs.refuse(errno.EOPNOTSUPP, 5)
        if chain.base.type != base.type:
            raise attrs.refuse(errno.EEXIST, 3)
        if chain.base._replace(policy=base.policy) != base:
            raise RefusalError(errno.EOPNOTSUPP, None)
        self._assign(chain, "base", base)
        table.has_changed_chains = True

    def _del_chain(self, attrs: Attrs) -> None:
        table, name = self._table(attrs), attrs.name(3)
        chain = self._chain(table, attrs, 3)
        if table.is_chain_used(name):
            raise attrs.refuse(errno.EBUSY, 3)
        table.has_changed_chains |= chain.base is not None
        self._remove(table.chains, name)

    def _new_rule(self, attrs: Attrs) -> None:
        table = self._table(attrs)
        chain = self._chain(table, attrs, 2)
        jumps: set[str] = set()
        sets: set[str] = set()
        for position, entry in attrs.entries(4):
            (expression,) = parse_expressions(codec.attr(1, bytes(entry)))
            if isinstance(expression, Verdict) and expression.code in JUMPS:
                _check_target(table, expression.chain, position)
                jumps.add(expression.chain)
            elif isinstance(expression, Lookup):
                _check_lookup(table, expression, position)
                sets.add(expression.set_name)
            elif isinstance(expression, Dynset):
                filled = table.sets.get(expression.set_name)
                if filled is None:
                    raise RefusalError(errno.ENOENT, position)
                if not filled.size:
                    self._assign(filled, "size", _FILLED_BY_RULES)
                sets.add(expression.set_name)
        listed = attrs.content + self._handle(3)
        rule = Rule(listed, frozenset(jumps), frozenset(sets))
        self._assign(chain, "rules", [*chain.rules, rule])

    def _flush_chain(self, attrs: Attrs) -> None:
        chain = self._chain(self._table(attrs), attrs, 2)
        if chain.rules:
            self._assign(chain, "rules", [])

    # --- sets and elements

    def _new_set(self, attrs: Attrs) -> None:
        table, name, handle = self._table(attrs), attrs.name(2), self._handle(16)
        shape = nft_messages.parse_set(attrs.payload + handle)
        old = table.sets.get(name)
        if old is None:
            self._put(table.sets, name, Set(attrs.content, shape, shape.size, handle))
        elif not old.is_like(shape):
            raise attrs.refuse(errno.EEXIST, 2)
        else:  # the limit changes when the transaction is committed
            self._note(lambda: None)
            self._at_commit.append(lambda: setattr(old, "size", shape.size or old.size))

    def _del_set(self, attrs: Attrs) -> None:
        table, name = self._table(attrs), attrs.name(2)
        self._set(table, attrs)
        if table.is_set_used(name):
            raise attrs.refuse(errno.EBUSY, 2)
        self._remove(table.sets, name)

    def _new_elements(self, attrs: Attrs) -> None:
        table = self._table(attrs)
        chosen = self._set(table, attrs)
        for position, entry in attrs.entries(3):
            key = _key(entry, chosen, position)
            data = nft_elements.parse_element(entry).data
            if not chosen.takes(data):
                raise RefusalError(errno.EINVAL, position)
            if name := target(data):
                _check_target(table, name, position)
            old = chosen.elements.get(key)
            if old is not None and old.data != data:
                raise RefusalError(errno.EEXIST, position)
            if old is None:
                if chosen.size and len(chosen.elements) >= chosen.size:
                    raise RefusalError(errno.ENFILE, position)
                listed = codec.nested(1, bytes(entry))
                self._put(chosen.elements, key, Element(listed, data))

    def _del_elements(self, attrs: Attrs) -> None:
        chosen = self._set(self._table(attrs), attrs)
        for position, entry in attrs.entries(3):
            key = _key(entry, chosen, position)
            if key not in chosen.elements:
                raise RefusalError(errno.ENOENT, position)
            self._remove(chosen.elements, key)

    # --- what messages name

    def _table(self, attrs: Attrs) -> Table:
        table = self._tables.get((attrs.family, attrs.name(1)))
        if table is None:
            raise attrs.refuse(errno.ENOENT, 1)
        return table

    def _chain(self, table: Table, attrs: Attrs, kind: int) -> Chain:
        chain = table.chains.get(attrs.name(kind))
        if chain is None:
            raise attrs.refuse(errno.ENOENT, kind)
        return chain

    def _set(self, table: Table, attrs: Attrs) -> Set:
        found = table.sets.get(attrs.name(2))
        if found is None:
            raise attrs.refuse(errno.ENOENT, 2)
        return found

    def _handle(self, kind: int) -> bytes:
        return codec.attr_be64(kind, next(self._numbers))

    # --- changes, and how to take them back

    def _put(self, where: dict[K, V], key: K, value: V) -> None:
        """Add what was not there."""
        self._note(lambda: where.pop(key))
        where[key] = value

    def _remove(self, where: dict[K, V], key: K) -> None:
        value = where.pop(key)
        self._note(lambda: where.update({key: value}))

    def _assign(self, owner: object, name: str, value: object) -> None:
        old = getattr(owner, name)
        self._note(lambda: setattr(owner, name, old))
        setattr(owner, name, value)

    def _note(self, undo: Callable[[], object]) -> None:
        self._undo.append(undo)

    # --- questions

    def _get(self, message: Message) -> list[Reply]:
        attrs = Attrs(message)
        is_dump = message.flags & codec.NLM_F_DUMP == codec.NLM_F_DUMP
        stamp = bytes([attrs.family, 0]) + (self.generation & 0xFFFF).to_bytes(2, "big")
        try:
            found = [stamp + one for one in self._find(message.kind, attrs, is_dump=is_dump)]
        except RefusalError as refusal:
            return [reply(message.seq, refusal.number)]
        if not is_dump:
            return [piece(message.seq, *found)]
        return [*[piece(message.seq, *part) for part in _pieces(found)], done(message.seq)]

    def _find(self, kind: int, attrs: Attrs, *, is_dump: bool) -> list[bytes]:
        """Return what the answers say. Raises RefusalError."""
        tables = self._of_family(attrs) if is_dump else []
        match kind:
            case MessageKind.GETGEN:
                found = [codec.attr_be32(1, self.generation)]
            case MessageKind.GETTABLE:
                found = [table.listed for table in (tables if is_dump else [self._table(attrs)])]
            case MessageKind.GETCHAIN if is_dump:
                found = [chain.listed for table in tables for chain in table.chains.values()]
            case MessageKind.GETCHAIN:
                found = [self._chain(self._table(attrs), attrs, 3).listed]
            case MessageKind.GETRULE:
                found = self._find_rules(attrs)
            case MessageKind.GETSET:
                sets = self._table(attrs).sets.values()
                found = [
                    s.listed for s in (sets if is_dump else [self._set(self._table(attrs), attrs)])
                ]
            case MessageKind.GETSETELEM:
                found = self._find_elements(attrs)
            case _:
                raise NotImplementedError(f"message {kind}")
        return found

    def _of_family(self, attrs: Attrs) -> list[Table]:
        return [table for (family, _), table in self._tables.items() if family == attrs.family]

    def _find_rules(self, attrs: Attrs) -> list[bytes]:
        table = self._tables.get((attrs.family, attrs.name(1)))
        chains = {} if table is None else table.chains
        wanted = attrs.name(2) if 2 in attrs else ""
        return [
            rule.listed
            for name, chain in chains.items()
            for rule in chain.rules
            if wanted in ("", name)
        ]

    def _find_elements(self, attrs: Attrs) -> list[bytes]:
        chosen = self._set(self._table(attrs), attrs)
        found = list(chosen.elements.values())
        if 3 in attrs:
            keys = [_key(entry, chosen, position) for position, entry in attrs.entries(3)]
            if keys[0] not in chosen.elements:
                raise RefusalError(errno.ENOENT, None)
            found = [chosen.elements[keys[0]]]
        names = codec.attr_string(1, attrs.name(1)) + codec.attr_string(2, attrs.name(2))
        return [
            names + codec.nested(3, *[e.listed for e in found[at : at + _ELEMENTS_PER_MESSAGE]])
            for at in range(0, len(found), _ELEMENTS_PER_MESSAGE)
        ]


def _pieces(payloads: list[bytes]) -> Iterator[list[bytes]]:
    """Divide the answers to a dump into datagrams."""
    part: list[bytes] = []
    for payload in payloads:
        if part and sum(map(len, part)) + len(payload) > _PIECE:
            yield part
            part = []
        part.append(payload)
    if part:
        yield part


def _key(entry: memoryview, chosen: Set, position: int) -> bytes:
    """Return the key of an element, empty for the one that stands for all others."""
    attrs = codec.parse_attrs(entry)
    flags = codec.read_be32(attrs[_ELEMENT_FLAGS]) if _ELEMENT_FLAGS in attrs else 0
    key = nft_elements.parse_element(entry).key
    if len(key) != (0 if flags & _CATCH_ALL else chosen.shape.key_length):
        raise RefusalError(errno.EINVAL, position)
    if flags & _INTERVAL_END:
        return key + b"end"
    return key + (nft_elements.parse_element(entry).key_end or b"")


def _check_target(table: Table, name: str, position: int) -> None:
    """Raise RefusalError where nothing may jump to that chain."""
    if name not in table.chains:
        raise RefusalError(errno.ENOENT, position)
    if table.chains[name].base is not None:
        raise RefusalError(errno.EOPNOTSUPP, position)


def _check_lookup(table: Table, lookup: Lookup, position: int) -> None:
    """Raise RefusalError where a rule may not look that up."""
    found = table.sets.get(lookup.set_name)
    if found is None:
        raise RefusalError(errno.ENOENT, position)
    if lookup.data_register is None:
        return
    if found.is_of_verdicts != (lookup.data_register == REG_VERDICT):
        raise RefusalError(errno.EINVAL, position)
