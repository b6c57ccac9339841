"""What a plan is made of: what there should be, collected and compared with belief. Pure.

`order` puts the differences in order.
"""

from collections.abc import Iterator
from typing import Final

from backends.iptables.belief import Observed
from backends.iptables.layout import JUMPS, Layout
from backends.iptables.model import (
    Chain,
    ChainWrite,
    Facts,
    Jump,
    Lead,
    Leaving,
    Rendered,
    SetChange,
    SharedMember,
    Table,
    TreeName,
    make_chain,
)
from backends.iptables.render import RenderedPort
from backends.iptables.sets import fixed_sets
from backends.iptables.tree import ROOTS, Tree
from backends.kernel.ipset_objects import IpSet, Member
from proxy.model import Family, PortKey

_NOTHING: Final = Rendered()


class Draft:
    """What there should be of one family. With `is_rebuild` nothing of what is there is kept but jumps."""

    def __init__(
        self, family: Family, observed: Observed, layout: Layout, *, is_rebuild: bool = False
    ) -> None:
        self.family: Final[Family] = family
        self.is_rebuild: Final = is_rebuild
        self.keys: dict[PortKey, None] = {}
        self.facts: Final = Facts() if is_rebuild else observed.facts[family]
        if is_rebuild:
            self.facts.jumps |= observed.facts[family].jumps
        self.trees: Final = {
            name: Tree(
                family, name, Tree(family, name) if is_rebuild else observed.trees[family, name]
            )
            for name in ROOTS
        }
        self._observed: Final = observed
        self._layout: Final = layout
        self._counts: dict[SharedMember, int] = {}
        self._members: dict[SharedMember, tuple[bool, PortKey | None]] = {}
        self._chains: dict[str, ChainWrite] = {}
        self._sets: dict[str, tuple[IpSet, PortKey]] = {}
        self._unneeded_chains: set[str] = set()
        self._unneeded_sets: set[str] = set()
        self._puts: list[tuple[PortKey, tuple[Lead, ...], bool]] = []
        self._damaged: Final = frozenset(observed.damaged[family])
        for name in self._damaged:
            for tree in self.trees.values():
                if tree.node(name) is not None:
                    tree.dirty.add(name)
        for tree in self.trees.values():
            if observed.layout is not layout or tree.root not in self.facts.chains["nat"]:
                tree.dirty.add(tree.root)

    # --- what is asked for

    def replace(self, key: PortKey, port: RenderedPort | None) -> None:
        """Ask for what a ServicePort needs, and for nothing else that it has had."""
        self.keys[key] = None
        known = None if self.is_rebuild else self._observed.rendered.get(key)
        old, new = known or _NOTHING, port.rendered if port is not None else _NOTHING
        self._share(key, old, new)
        self._unneeded_chains |= old.chains - new.chains
        self._unneeded_sets |= old.sets - new.sets
        kept = {(lead.tree, lead.front) for lead in new.leads}
        for lead in old.leads:
            is_ours = self.trees[lead.tree].target(lead.front) in old.chains
            if is_ours and (lead.tree, lead.front) not in kept:
                self.trees[lead.tree].remove(lead.front)
        if port is None:
            return
        is_new = known is None
        for chain in port.chains:
            is_new = is_new or chain.name not in self.facts.chains["nat"]
            self._chains[chain.name] = ChainWrite(chain, key)
        for each in port.sets:
            self._sets[each.name] = (each, key)
        self._puts.append((key, new.leads, is_new))

    def stranger(self, key: PortKey, port: RenderedPort) -> PortKey | None:
        """Return whose a chain is that this ServicePort would have for its own; None, but for equal hashes.

        Each set has a chain of the same name.
        """
        owners = {} if self.is_rebuild else self._observed.owners
        for name in port.rendered.chains:
            write = self._chains.get(name)
            owner = write.owner if write is not None else owners.get((self.family, name))
            if owner not in {None, key}:
                return owner
        return None

    def _share(self, key: PortKey, old: Rendered, new: Rendered) -> None:
        """Count a ServicePort's references to members; the last one to leave removes a member."""
        for change, members in ((1, new.members - old.members), (-1, old.members - new.members)):
            for member in members:
                self._counts[member] = self._counts.get(member, 0) + change
        references = {} if self.is_rebuild else self._observed.references
        for member in old.members | new.members:
            total = references.get(member, 0) + self._counts.get(member, 0)
            self._members[member] = (total > 0, key)

    def put_member(self, name: str, member: Member, *, is_wanted: bool) -> None:
        """Ask for a member that is no ServicePort's, or that it be not there."""
        self._members[name, member] = (is_wanted, None)

    def plant(self) -> None:
        """Have trees lead to what was asked for: after all that goes, so that who gets what another one had keeps it.

        Where the chains were not there before, rules may have been left out that lead to them.
        """
        for _, leads, is_new in self._puts:
            for lead in leads:
                tree = self.trees[lead.tree]
                if lead.target is not None and tree.target(lead.front) != lead.target:
                    tree.put(lead.front, lead.target)
                if is_new:
                    tree.touch(lead.front)
        self._puts.clear()

    # --- what differs from belief

    def changed_sets(self) -> Iterator[SetChange]:
        """Yield messages that make what is missing."""
        for name, made in fixed_sets(self.family).items():
            if name not in self.facts.sets:
                yield SetChange("create", name, made)
        for name, (made, owner) in self._sets.items():
            if name not in self.facts.sets:
                yield SetChange("create", name, made, owner)

    def changed_members(self) -> Iterator[SetChange]:
        """Yield messages that add and delete members."""
        for (name, member), (is_wanted, owner) in self._members.items():
            if is_wanted != (member in self.facts.members.get(name, ())):
                yield SetChange("add" if is_wanted else "delete", name, member, owner)

    def changed_chains(self, table: Table) -> Iterator[ChainWrite]:
        """Yield chains that are not as they should be, each after those it leads to."""
        believed = self.facts.chains[table]
        for write in (*self._chains.values(), *self._grown()) if table == "nat" else ():
            if believed.get(write.chain.name) != write.chain.state:
                yield write
        for chain in self._layout.chains(self.family, table):
            if believed.get(chain.name) != chain.state:
                yield ChainWrite(chain)

    def missing_jumps(self, table: Table) -> Iterator[Jump]:
        """Yield jumps that are not there."""
        for jump in JUMPS[table]:
            if (jump.chain, jump.mark) not in self.facts.jumps[table]:
                yield jump

    def changed_leads(self) -> Iterator[Lead]:
        """Yield what trees hold that they did not, and the other way round."""
        for name, tree in self.trees.items():
            for front, target in tree.changes():
                yield Lead(name, front, target)

    def leaving(self) -> Leaving:
        """Return what nothing leads to any more, as far as it is there, and what of trees does stay."""
        gone = set().union(*[tree.gone for tree in self.trees.values()])
        staying = set().union(*[tree.dirty for tree in self.trees.values()])
        there = self.facts.chains["nat"]
        return Leaving(
            frozenset([name for name in self._unneeded_chains | gone if name in there]),
            frozenset([name for name in self._unneeded_sets if name in self.facts.sets]),
            frozenset(staying),
            frozenset(staying & self._damaged),
        )

    def is_unneeded(self, chain: str) -> bool:
        """Whether a chain of nat that was left behind is nobody's still."""
        return (self.family, chain) not in self._observed.owners and not any(
            tree.node(chain) for tree in self.trees.values()
        )

    def _grown(self) -> Iterator[ChainWrite]:
        """Yield the chains of trees that were looked at, each after those it leads to."""
        for name, tree in self.trees.items():
            pending = list(tree.dirty)
            while pending:
                node = tree.node(pending.pop())
                for child in node.branches if node is not None else ():
                    if child not in tree.dirty and child not in self.facts.chains["nat"]:
                        tree.dirty.add(child)
                        pending.append(child)
            for chain in sorted(tree.dirty, key=lambda each: (-self._depth(tree, each), each)):
                yield ChainWrite(self._tree_chain(name, tree, chain))

    def _depth(self, tree: Tree, chain: str) -> int:
        node = tree.node(chain)
        return node.depth if node is not None else 0

    def _tree_chain(self, name: TreeName, tree: Tree, chain: str) -> Chain:
        prelude = self._layout.prelude(self.family, name) if chain == tree.root else ()
        return make_chain(chain, [*prelude, *tree.rules(chain, self._is_there)])

    def _is_there(self, target: str) -> bool:
        """Whether a rule may lead to a chain: others that are not there will come with their own ServicePort."""
        return target in self._chains or target in self.facts.chains["nat"]
