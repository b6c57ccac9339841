"""The side rules in chains of iptables and sets of ipset: the side for kernels without nftables. Shell.

Rules are written when there is none yet, or somebody has changed them; all else is members of sets, over netlink, each by itself. What
nftables would do at once is done in an order in which no frontend is lost: what is added comes before what goes, and what lets a
packet through before what stops it.

The kernel counts no generations here. What changes when somebody writes to a table, and how many members our sets have, takes their
place: a member that somebody changes in place is left to the periodic comparison.
"""

import errno
import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Final, NamedTuple, Protocol

from backends.ipvs.layout import IpvsSettings, Layout, fixed_sets
from backends.ipvs.model import MARKING
from backends.ipvs.xt_chains import lines, read, removal
from backends.ipvs.xt_layout import CHAINS, SETS, TABLES, XtLayout, set_name, split_name
from backends.ipvs.xt_members import elements_of, ip_set, members_of
from backends.ipvs.xt_probing import probe
from backends.ipvs.xt_writes import RANGES, Counts, Message, additions, counted, removals
from backends.kernel import ipset_messages, xtables_flavour
from backends.kernel.ipset import Ipset, Refusal
from backends.kernel.ipset_objects import Member, SetState
from backends.kernel.nft_owned import RefusedElements
from backends.kernel.nft_table import ChainSpec, Data, SetFacts, TableFacts
from backends.kernel.nft_transaction import Transaction
from backends.kernel.xtables import Incompatible, Xtables
from backends.kernel.xtables_flavour import Choice
from backends.kernel.xtables_numbers import TableNumbers
from backends.kernel.xtables_text import Flavour
from proxy.errors import KernelError, Unsupported
from proxy.model import FAMILIES, Family, PortKey

log = logging.getLogger(__name__)

_MISSHAPEN: Final = SetFacts(0, 0, 0, None, 0)
_NO_IPSET: Final = (errno.EINVAL, errno.EOPNOTSUPP, errno.EPROTONOSUPPORT)
_INLINE_MESSAGES: Final = 1000
_CHAINS: Final = XtLayout(IpvsSettings(families=FAMILIES)).chain_facts
"""Our chains, which have the same names whatever the settings."""


class Numbers(Protocol):
    """What `TableNumbers` tells."""

    def look(self) -> object: ...

    def close(self) -> None: ...


class Tools(NamedTuple):
    """How this host is reached. All of them may block."""

    find: Callable[[Sequence[Family]], Choice] = lambda families: xtables_flavour.find(
        families, CHAINS, is_loud=False
    )
    open_ipset: Callable[[], Ipset] = Ipset
    open_numbers: Callable[[Flavour, Iterable[Family]], Numbers] = lambda flavour, families: (
        TableNumbers(flavour, families, TABLES)
    )
    probe: Callable[[Choice, Layout], None] = probe


class _Seen(NamedTuple):
    """What changes with our tables, and each of our sets with the number of its members."""

    tables: object
    sets: Counts


class RefusedMembers(RefusedElements):
    """The kernel refused members; others of the same commit are there."""

    def __init__(self, refusals: Sequence[Refusal], owners: frozenset[PortKey]) -> None:
        KernelError.__init__(self, "ipset", refusals[0].errno, str(refusals[0]))
        self.owners = owners


class XtSide:
    """Chains of one flavour, which is chosen at the first use, and sets."""

    objects = "chains, rules and sets of iptables"
    layout_of = XtLayout

    def __init__(self, families: Sequence[Family], tools: Tools) -> None:
        self._families = tuple(families)
        self._tools = tools
        self._ipset = tools.open_ipset()
        self._found: Choice | None = None
        self._numbers: Numbers | None = None
        self._seen: _Seen | None = None
        self._generation = 0

    @property
    def words(self) -> str:
        flavour = f" ({self._found.flavour})" if self._found is not None else ""
        return f"iptables{flavour} and ipset"

    @property
    def _choice(self) -> Choice:
        if self._found is None:
            self._found = self._tools.find(self._families)
        return self._found

    def generation(self) -> int:
        found = self._look()
        if found != self._seen:
            self._seen = found
            self._generation += 1
        return self._generation

    def _look(self) -> _Seen:
        if self._numbers is None and self._door(self._families[0]) is not None:
            self._numbers = self._tools.open_numbers(self._choice.flavour, self._families)
        counts = {s.set.name: (s.members, s.set) for s in self._states() if _is_ours(s)}
        return _Seen(self._numbers.look() if self._numbers is not None else None, counts)

    def _states(self) -> list[SetState]:
        return self._ipset.list_sets()

    def is_slow(self, step: Transaction) -> bool:
        return bool(step.chains or step.rebuild or step.size > _INLINE_MESSAGES)

    # --- writing

    def commit(self, step: Transaction) -> None:
        expected = self._expected(step)
        surplus = {family: self._make_way(family) for family in step.rebuild}
        self._carry_out([Message(ipset_messages.create(ip_set(f, s.name))) for f, s in step.sets])
        self._carry_out(additions(step))
        self._carry_out(removals(step, self._members))
        for family in dict.fromkeys([family for family, _ in step.chains]):
            chains = [spec for of, spec in step.chains if of == family]
            self._write(family, chains, is_all=family in step.rebuild)
        for names in surplus.values():  # a rule of somebody else's may ask one: then it stays
            self._ipset.carry_out([ipset_messages.destroy(name) for name in names])
        self._seen = expected or self._look()
        self._generation += 1

    def _expected(self, step: Transaction) -> _Seen | None:
        """Return what will be seen after a commit; None where that is not known beforehand."""
        if self._seen is None:
            return None
        after = counted(step, self._seen.sets)
        return None if after is None else self._seen._replace(sets=after)

    def _make_way(self, family: Family) -> list[str]:
        """Have every set in the right shape; return those that nobody asks for, which go last.

        One of another kind cannot be replaced while rules ask it: then there are none of ours for a moment.
        """
        wanted = {set_name(family, s.name): ip_set(family, s.name) for s in fixed_sets(family)}
        found = {s.set.name: s for s in self._states() if s.set.name.startswith(SETS[family])}
        wrong = [
            name for name, made in wanted.items() if name in found and found[name].set != made
        ]
        if any(
            (found[n].set.kind, found[n].set.family) != (wanted[n].kind, family) for n in wrong
        ):
            self._remove_rules({family: self._choice.tables[family]})
            self._remove_rules(self._choice.left)
            self._carry_out([Message(ipset_messages.destroy(name)) for name in wrong])
        else:
            spare = SETS[family] + "new"
            for name in wrong:
                new = wanted[name]._replace(name=spare)
                # what the old one says goes on until the new one is filled
                self._carry_out(
                    [
                        Message(ipset_messages.destroy(spare)),
                        Message(ipset_messages.create(new)),
                        *[
                            Message(ipset_messages.add(spare, member))
                            for member in self._members(name)
                            if found[name].set.has_marks == new.has_marks
                        ],
                        Message(ipset_messages.swap(spare, name)),
                        Message(ipset_messages.destroy(spare)),
                    ]
                )
        return [name for name in found if name not in wanted]

    def _carry_out(self, messages: Sequence[Message]) -> None:
        if not messages:
            return
        refusals = self._ipset.carry_out([message.request for message in messages])
        if not refusals:
            return
        owners = {messages[refusal.index].owner for refusal in refusals}
        blamed = frozenset([owner for owner in owners if owner is not None])
        if None in owners:
            raise KernelError("ipset", refusals[0].errno, str(refusals[0]))
        raise RefusedMembers(refusals, blamed)

    def _write(self, family: Family, chains: Sequence[ChainSpec], *, is_all: bool) -> None:
        door = self._choice.tables[family]
        known = {spec.name for spec in chains}
        for table in TABLES:
            if not is_all and not any(split_name(name)[0] == table for name in known):
                continue
            saved = door.save(table)
            found = read(table, saved, known)
            surplus = [split_name(full)[1] for full in found if is_all and full not in known]
            door.restore(table, lines(table, chains, saved, surplus))
        door.close()  # it may be long until the next rule is written

    # --- reading

    def read_tables(self, families: Iterable[Family]) -> tuple[dict[Family, TableFacts], int]:
        generation = self.generation()
        tables: dict[Family, TableFacts] = {}
        for family in families:
            facts = tables[family] = self.read_structure(family)
            for name, shape in facts.sets.items():
                if shape is not _MISSHAPEN:
                    there = self._members(set_name(family, name))
                    facts.elements[name] = elements_of(family, name, there)
        return tables, generation

    def read_structure(self, family: Family) -> TableFacts:
        facts = TableFacts()
        known = {spec.name: spec.facts for spec in fixed_sets(family)}
        prefix = SETS[family]
        for state in self._states():
            name = state.set.name.removeprefix(prefix)
            # one that is not of this version, and that rules ask, goes once none of ours does
            if state.set.name.startswith(prefix) and (name in known or not state.references):
                is_right = name in known and state.set == ip_set(family, name)
                facts.sets[name] = known[name] if is_right else _MISSHAPEN
        door = self._door(family)
        if door is not None:
            for table in TABLES:
                facts.chains |= read(table, door.save(table), _CHAINS[family])
        facts.is_present = bool(facts.sets or facts.chains)
        return facts

    def _door(self, family: Family) -> Xtables | None:
        """Return the door to the tables; none without programs, and then nobody can have written rules."""
        try:
            return self._choice.tables[family]
        except Unsupported:
            return None

    def read_elements(
        self, family: Family, name: str, keys: Collection[bytes]
    ) -> dict[bytes, Data]:
        whole = set_name(family, name)
        if name not in (*RANGES, *MARKING):
            places = [(whole, m) for key in keys for m in members_of(family, name, key, None)]
            there = self._ipset.has(places)
            members = [member for (_, member), is_in in zip(places, there, strict=True) if is_in]
        elif name in MARKING and not self._has_any(family, name, keys):
            members = []
        else:
            members = self._members(whole)
        found = elements_of(family, name, members)
        return {key: found[key] for key in keys if key in found}

    def _has_any(self, family: Family, name: str, keys: Iterable[bytes]) -> bool:
        """Whether it is worth the while to list a map: marks are only told so."""
        whole = set_name(family, name)
        return any(
            self._ipset.has([(whole, m) for k in keys for m in members_of(family, name, k, None)])
        )

    def _members(self, name: str) -> list[Member]:
        try:
            return [member for piece in self._ipset.members(name) for member in piece]
        except KernelError as error:
            if error.errno == errno.ENOENT:
                return []
            raise

    # --- trying, and removing

    def try_out(self, layout: Layout) -> None:
        if self._choice.is_proven:
            return
        self._tools.probe(self._choice, layout)

    def is_there(self) -> bool:
        try:
            return any(_is_ours(state) for state in self._states())
        except KernelError as error:
            if error.errno in _NO_IPSET:
                return False
            raise

    def sweep(self) -> int:
        count = self._remove_rules(self._choice.left)
        if count:
            log.info("moved from the other flavour: %d rules of ours removed there", count)
        self._found = self._choice._replace(left={})
        return count

    def delete(self) -> int:
        """Rules go first, then the sets they ask."""
        count = 0
        if self._door(self._families[0]) is not None:
            count += self._remove_rules(self._choice.tables)
            count += self._remove_rules(self._choice.left)
        if not self.is_there():
            return count
        names = [state.set.name for state in self._states() if _is_ours(state)]
        self._carry_out([Message(ipset_messages.destroy(name)) for name in names])
        return count + len(names)

    def _remove_rules(self, doors: Mapping[Family, Xtables]) -> int:
        count = 0
        for door in doors.values():
            for table in reversed(TABLES):
                try:
                    going = removal(door.save(table))
                except Incompatible as error:
                    log.warning("left as it is: %s", error)
                    continue
                door.restore(table, going)
                count += len([line for line in going if not line.startswith(":")])
            door.close()
        return count

    def close(self) -> None:
        self._ipset.close()
        if self._numbers is not None:
            self._numbers.close()


def _is_ours(state: SetState) -> bool:
    return state.set.name.startswith(tuple(SETS.values()))
