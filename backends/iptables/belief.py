"""What we believe is in the kernel, and which ServicePort occupies what. Pure.

Belief is changed in three ways only: a step the kernel confirmed is folded in, single objects are corrected by what was read
back, or everything is read anew and a new belief begins.
"""

from collections.abc import Collection, Iterable
from typing import Final

from backends.iptables.model import ChainState as State
from backends.iptables.model import (
    Facts,
    IptablesPlan,
    Jump,
    NodePart,
    Rendered,
    SetStep,
    Step,
    Table,
    TableStep,
    TreeName,
)
from backends.iptables.sets import fixed_sets, is_misshapen
from backends.iptables.tree import ROOTS, Tree, tree_of
from backends.kernel.ipset_objects import IpSet, Member
from proxy.model import Family, PortKey


class Observed:
    """Belief about everything we own, and which ServicePort occupies what.

    `trees` hold the frontends that the chains of trees have rules for, whoever wrote them. `references` counts how many
    ServicePorts need a member of a set, `owners` says whose a chain or a set is, `asking` who tells pods from others.
    `damaged` are chains of trees that somebody else has changed: they are written again with the next plan.
    `leaving` is what nothing leads to any more. `node` is what is there for the node itself, None as long as nothing
    is known of it; `layout` identifies the fixed rules by which all that ask for pods were planned.
    Tables in `unread` could not be read when last tried. With `is_tree_unknown` trees may lead to more than is believed, so all
    of them is to be written at once.
    """

    def __init__(self, facts: dict[Family, Facts]) -> None:
        self.facts: Final = facts
        self.trees: Final[dict[tuple[Family, TreeName], Tree]] = {
            (family, name): Tree(family, name) for family in facts for name in ROOTS
        }
        self.rendered: dict[PortKey, Rendered] = {}
        self.references: dict[tuple[str, Member], int] = {}
        self.owners: dict[tuple[Family, str], PortKey] = {}
        self.asking: dict[PortKey, None] = {}
        self.damaged: dict[Family, set[str]] = {family: set() for family in facts}
        self.leaving_chains: dict[Family, set[str]] = {family: set() for family in facts}
        self.leaving_sets: dict[Family, set[str]] = {family: set() for family in facts}
        self.misshapen: dict[Family, set[str]] = {
            family: {name for name, each in known.sets.items() if is_misshapen(each)}
            for family, known in facts.items()
        }
        self.node: NodePart | None = None
        self.layout: object = None
        self.unread: set[tuple[Family, Table]] = set()
        self.is_tree_unknown = False

    @property
    def is_rebuild_due(self) -> bool:
        """Whether a set is of a shape that cannot be put right while rules ask it, or trees are there that nobody can read."""
        return self.is_tree_unknown or any(self.misshapen.values())

    @property
    def worth_a_commit(self) -> int:
        """How many endpoints make a commit worth it, by the number of chains that nat has.

        Legacy tables are copied whole by each, and those of the nft flavour looked through by the kernel.
        """
        return 4 * max([len(facts.chains["nat"]) for facts in self.facts.values()], default=0)

    @property
    def is_sweep_due(self) -> bool:
        """Whether anything is left that nothing leads to."""
        return any(self.leaving_chains.values()) or any(self.leaving_sets.values())

    def fold(self, step: Step, refused: Collection[int] = ()) -> None:
        """Take in a step, or a part of one, that the kernel has confirmed; but for the messages that were refused."""
        if isinstance(step, SetStep):
            self._fold_sets(step, refused)
        else:
            self._fold_table(step)

    def _fold_sets(self, step: SetStep, refused: Collection[int]) -> None:
        facts = self.facts[step.family]
        for index, change in enumerate(step.changes):
            if index in refused:
                if change.verb == "destroy" and change.name not in fixed_sets(step.family):
                    self.leaving_sets[step.family].add(change.name)
                continue
            match change.item:
                case IpSet():
                    facts.sets[change.name] = change.item
                case Member():
                    members = facts.members.setdefault(change.name, set())
                    if change.verb == "add":
                        members.add(change.item)
                    else:
                        members.discard(change.item)
                case None:
                    self._forget_set(step.family, change.name)

    def _forget_set(self, family: Family, name: str) -> None:
        self.facts[family].sets.pop(name, None)
        self.facts[family].members.pop(name, None)
        self.leaving_sets[family].discard(name)
        self.misshapen[family].discard(name)

    def _fold_table(self, step: TableStep) -> None:
        family, facts = step.family, self.facts[step.family]
        chains, jumps = facts.chains[step.table], facts.jumps[step.table]
        for jump in step.gone_jumps:
            jumps.pop((jump.chain, jump.mark), None)
        for chain, _ in step.writes:
            chains[chain.name] = chain.state
        for name in step.removes:
            chains.pop(name, None)
        for jump in step.jumps:
            jumps[jump.chain, jump.mark] = jump
        if step.table == "nat":
            written = [write.chain.name for write in step.writes]
            self.damaged[family].difference_update(written)
            self.leaving_chains[family].difference_update([*step.removes, *written])
        for lead in step.leads:
            tree = self.trees[family, lead.tree]
            if lead.target is None:
                tree.remove(lead.front)
            else:
                tree.put(lead.front, lead.target)
            tree.settle()

    def begin(self, plan: IptablesPlan) -> None:
        """Note what ServicePorts occupy now that the first of a plan's steps has taken effect: old and new."""
        for key, rendered in plan.rendered.items():
            old = self.rendered.get(key)
            if rendered is not None:
                self._occupy(key, rendered if old is None else old.joined(rendered))

    def occupy(self, plan: IptablesPlan) -> None:
        """Note what ServicePorts and the node occupy now that a plan has taken effect."""
        self.is_tree_unknown = False
        for key, rendered in plan.rendered.items():
            self._occupy(key, rendered)
        if plan.node is not None:
            self.node = plan.node
        if plan.layout is not None:
            self.layout = plan.layout
        for family, leaving in plan.leaving.items():
            self.leaving_chains[family] |= leaving.chains
            self.leaving_chains[family] -= leaving.staying
            self.leaving_sets[family] |= leaving.sets
            self.damaged[family] -= leaving.mended

    def _occupy(self, key: PortKey, rendered: Rendered | None) -> None:
        old, new = self.rendered.pop(key, None) or _NOTHING, rendered or _NOTHING
        for reference in new.members - old.members:
            self.references[reference] = self.references.get(reference, 0) + 1
        for reference in old.members - new.members:
            self.references[reference] -= 1
            if not self.references[reference]:
                del self.references[reference]
        for name in (old.chains | old.sets) - new.chains - new.sets:
            self.owners.pop((key.family, name), None)
        for name in new.chains | new.sets:
            self.owners[key.family, name] = key
        self.leaving_chains[key.family] -= new.chains
        self.leaving_sets[key.family] -= new.sets
        if rendered is not None:
            self.rendered[key] = rendered
        if new.asks_for_pods:
            self.asking[key] = None
        else:
            self.asking.pop(key, None)

    def doubt(self, family: Family, written: Iterable[str]) -> None:
        """Chains of nat were written in a step whose rest was refused: what trees have is otherwise, or not there at all."""
        for name in written:
            tree = tree_of(name)
            if tree is not None:
                is_needed = self.trees[family, tree].node(name) is not None
                (self.damaged if is_needed else self.leaving_chains)[family].add(name)

    # --- what was read back

    def correct_chain(self, family: Family, table: Table, name: str, state: State | None) -> None:
        """Replace what is believed of a chain by what was read; None: it is not there."""
        chains = self.facts[family].chains[table]
        if state is None:
            chains.pop(name, None)
        else:
            chains[name] = state
        tree = tree_of(name)
        if table == "nat" and tree and self.trees[family, tree].node(name) is not None:
            self.damaged[family].add(name)

    def correct_jump(
        self, family: Family, table: Table, place: tuple[str, str], jump: Jump | None
    ) -> None:
        """Replace what is believed of a jump, by built-in chain and mark, by what was read."""
        if jump is None:
            self.facts[family].jumps[table].pop(place, None)
        else:
            self.facts[family].jumps[table][place] = jump

    def correct_set(self, family: Family, name: str, found: IpSet | None) -> None:
        """Replace what is believed of a set by what was read. Its members are to be corrected as well.

        One of a wrong shape is not replaced before all was read anew: a plan for a few would remove what it does not name.
        """
        if found is None:
            self._forget_set(family, name)
        else:
            self.facts[family].sets[name] = found

    def correct_members(
        self, family: Family, name: str, there: Iterable[Member] = (), gone: Iterable[Member] = ()
    ) -> None:
        """Replace what is believed of some members of a set by what was read."""
        members = self.facts[family].members.setdefault(name, set())
        members.update(there)
        members.difference_update(gone)


_NOTHING: Final = Rendered()
