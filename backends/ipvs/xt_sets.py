"""Our sets of ipset: written, read, removed, over netlink. Shell."""

import errno
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Final

from backends.ipvs.layout import fixed_sets
from backends.ipvs.model import MARKING
from backends.ipvs.xt_layout import SETS, set_name
from backends.ipvs.xt_members import elements_of, ip_set, members_of
from backends.ipvs.xt_writes import RANGES, Counts, Message
from backends.kernel import ipset_messages
from backends.kernel.ipset import Ipset, Refusal
from backends.kernel.ipset_objects import Member, SetState
from backends.kernel.netfilter import NOT_THERE
from backends.kernel.nft_owned import RefusedElements
from backends.kernel.nft_table import Data, SetFacts
from proxy.errors import KernelError
from proxy.model import Family, PortKey

MISSHAPEN: Final = SetFacts(0, 0, 0, None, 0)
"""A set that is not one of ours, or has not its shape."""


class RefusedMembers(RefusedElements):
    """The kernel refused members; others of the same commit are there."""

    def __init__(self, refusals: Sequence[Refusal], owners: frozenset[PortKey]) -> None:
        KernelError.__init__(self, "ipset", refusals[0].errno, str(refusals[0]))
        self.owners = owners


class XtSets:
    """Our sets of both families."""

    def __init__(self, ipset: Ipset) -> None:
        self._ipset = ipset
        self.has = ipset.has
        self.close = ipset.close

    def states(self) -> list[SetState]:
        prefixes = tuple(SETS.values())
        return [s for s in self._ipset.list_sets() if s.set.name.startswith(prefixes)]

    def counts(self) -> Counts:
        return {s.set.name: (s.members, s.set) for s in self.states()}

    def are_there(self) -> bool:
        """Whether there is any of ours; not where the kernel has no sets."""
        try:
            return bool(self.states())
        except KernelError as error:
            if error.errno in NOT_THERE:
                return False
            raise

    # --- writing

    def carry_out(self, messages: Sequence[Message]) -> None:
        """Carry out messages. Raises RefusedMembers where those of ServicePorts alone were refused, KernelError."""
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

    def destroy_unasked(self, names: Iterable[str]) -> None:
        """Destroy sets, but for those that rules of somebody else's ask."""
        self._ipset.carry_out([ipset_messages.destroy(name) for name in names])

    def destroy(self, names: Collection[str]) -> None:
        """Destroy sets, which no rule asks any more. Raises KernelError."""
        if refusals := self._ipset.destroy(names):
            raise KernelError("ipset", refusals[0].errno, str(refusals[0]))

    def make_way(self, family: Family, remove_rules: Callable[[], object]) -> list[str]:
        """Have every set in the right shape; return those that nobody asks for, which go last.

        One of another kind cannot be replaced while rules ask it: then there are none of ours for a moment.
        """
        wanted = {set_name(family, s.name): ip_set(family, s.name) for s in fixed_sets(family)}
        found = {s.set.name: s for s in self.states() if s.set.name.startswith(SETS[family])}
        wrong = [
            name for name, made in wanted.items() if name in found and found[name].set != made
        ]
        if any(
            (found[n].set.kind, found[n].set.family) != (wanted[n].kind, family) for n in wrong
        ):
            remove_rules()
            self.destroy(wrong)
        else:
            spare = SETS[family] + "new"
            for name in wrong:
                new = wanted[name]._replace(name=spare)
                # what the old one says goes on until the new one is filled
                self.carry_out(
                    [
                        Message(ipset_messages.destroy(spare)),
                        Message(ipset_messages.create(new)),
                        *[
                            Message(ipset_messages.add(spare, member))
                            for member in self.members(name)
                            if found[name].set.has_marks == new.has_marks
                        ],
                        Message(ipset_messages.swap(spare, name)),
                        Message(ipset_messages.destroy(spare)),
                    ]
                )
        return [name for name in found if name not in wanted]

    # --- reading

    def shapes(self, family: Family) -> dict[str, SetFacts]:
        """Return the sets of a family as we call them, MISSHAPEN where they have to go."""
        known = {spec.name: spec.facts for spec in fixed_sets(family)}
        prefix, found = SETS[family], dict[str, SetFacts]()
        for state in self.states():
            name = state.set.name.removeprefix(prefix)
            # one that is not of this version, and that rules ask, goes once none of ours does
            if state.set.name.startswith(prefix) and (name in known or not state.references):
                is_right = name in known and state.set == ip_set(family, name)
                found[name] = known[name] if is_right else MISSHAPEN
        return found

    def elements(
        self, family: Family, shapes: Mapping[str, SetFacts]
    ) -> dict[str, dict[bytes, Data]]:
        """Read all the elements of sets that are as they should be."""
        return {
            name: elements_of(family, name, self.members(set_name(family, name)))
            for name, shape in shapes.items()
            if shape is not MISSHAPEN
        }

    def read_elements(
        self, family: Family, name: str, keys: Collection[bytes]
    ) -> dict[bytes, Data]:
        whole = set_name(family, name)
        if name not in (*RANGES, *MARKING):
            places = [(whole, m) for key in keys for m in members_of(family, name, key, None)]
            there = self.has(places)
            members = [member for (_, member), is_in in zip(places, there, strict=True) if is_in]
        elif name in MARKING and not self._has_any(family, name, keys):
            members = []
        else:
            members = self.members(whole)
        found = elements_of(family, name, members)
        return {key: found[key] for key in keys if key in found}

    def _has_any(self, family: Family, name: str, keys: Iterable[bytes]) -> bool:
        """Whether it is worth the while to list a map: marks are only told so."""
        whole = set_name(family, name)
        return any(self.has([(whole, m) for k in keys for m in members_of(family, name, k, None)]))

    def members(self, name: str) -> list[Member]:
        """List a set; one that is not there has none."""
        try:
            return [member for piece in self._ipset.members(name) for member in piece]
        except KernelError as error:
            if error.errno == errno.ENOENT:
                return []
            raise
