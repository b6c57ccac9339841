"""What the iptables backend knows of its tables: chains, jumps, sets and steps as plain values. Pure.

Rules of ours stand in chains of our own, `SLICEPROXY-…` in nat and filter of each family, and in one jump from each built-in
chain; sets are `sliceproxy4-…` and `sliceproxy6-…`. README.md shows the layout; it is the same for both flavours.
Not compared with the kernel: counters, where in a built-in chain our jump stands, and the clients that session affinity
remembers.

How a plan is carried out:

- Its steps one after the other. A SetStep is messages, each by itself (`requests`); a TableStep is lines for one table, all or
  nothing (`lines`). A large TableStep may be cut: `parts` are steps of their own, in an order in which each can be committed.
- What the kernel confirmed is folded into belief at once, a step or a part (`Observed.fold`); of a SetStep all but the messages that
  were refused. After the first of several steps `Observed.begin(plan)`, after the last `Observed.occupy(plan)`.
- A refusal ends the plan. Where an empty chain is refused as well (`iptables-restore` may not take its lock), nobody's part is
  to blame, and it is an error. Else it costs the ServicePort whose message or line it is (`owner`); where that is None, or no line was
  named, all of the step's `keys`: the reconciler halves them. A step without keys (the fixed part, what is swept or pruned)
  that is refused is an error. The rest of the plan is not carried out; what was folded stays folded.
- What is refused of a SetStep that only destroys stays `leaving`, and is tried again with the next sweep: the kernel may take a
  moment to notice that no rule names a set any more.
- What `removes` chains may be refused because a rule of somebody else's leads to one of them: that one stays, empty (`keeping`),
  until the next prune.
- When nothing is known of the outcome, everything is observed anew (`adopt.adopt`, which reads saved tables and listed sets).
- While `Observed.is_sweep_due`, a plan for no ServicePorts is due after a while (`Applied.again_s`).

`layout.shaped_by` reads the configuration; whether addresses of loopback may be routed is up to whoever carries plans out.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping
from typing import Final, Literal, NamedTuple

from backends.kernel import ipset_messages
from backends.kernel.ipset_objects import IpSet, Member
from proxy.desired_node import DesiredNode
from proxy.model import Family, PortKey, Protocol, Value
from proxy.netlink.codec import Request

CHAINS: Final = "SLICEPROXY-"
"""What the names of our chains begin with."""
SETS: Final[dict[Family, str]] = {"IPv4": "sliceproxy4-", "IPv6": "sliceproxy6-"}
"""What the names of our sets begin with, in each family."""
CANARY: Final = CHAINS + "CANARY"
"""An empty chain in each of our tables: while it is there, nobody has removed everything."""

Table = Literal["filter", "nat"]
TABLES: Final[tuple[Table, ...]] = ("filter", "nat")

_COMMENT: Final = '-m comment --comment "{}"'
_MARK: Final = re.compile(r"(?:(.*) )?([0-9a-f]{16})").fullmatch
_UNFIT: Final = re.compile(r"[^0-9A-Za-z./:_-]")
_COMMENT_LENGTH: Final = 255
_MARK_LENGTH: Final = 16


class ChainState(NamedTuple):
    """By what a chain of ours is compared: the mark in the comment of its first rule, and how many rules it has.

    The mark is empty where a first rule has none, or there is no rule.
    """

    mark: str
    rules: int


class Chain(NamedTuple):
    """A chain as we write it. Rules are without their `-A NAME`; the first one bears the mark in its comment."""

    name: str
    rules: tuple[str, ...]
    state: ChainState


class Jump(NamedTuple):
    """A rule of ours in a built-in chain. `mark` stands in its comment; a jump is found by it and the chain's name."""

    chain: str
    mark: str
    rule: str

    @property
    def target(self) -> str:
        """Return the chain that it leads to, where we have made it."""
        return self.rule.split()[-1]


class ChainWrite(NamedTuple):
    """A chain to be made, or to be replaced as a whole; the ServicePort it is for, None for what several share."""

    chain: Chain
    owner: PortKey | None = None


class Line(NamedTuple):
    """A line for `iptables-restore`, and the ServicePort it is for."""

    text: str
    owner: PortKey | None = None


TreeName = Literal["C", "X", "N"]
"""The trees in which frontends are found: cluster IPs; external IPs and VIPs; NodePorts."""


class Front(NamedTuple):
    """A frontend as a tree finds it. A NodePort has no address."""

    address: str
    protocol: Protocol
    port: int


class Lead(NamedTuple):
    """A rule in a tree: what it matches, and the chain it leads to; None for a rule that goes."""

    tree: TreeName
    front: Front
    target: str | None


class TableStep(NamedTuple):
    """Lines for one table, in one commit.

    `writes` stand in an order in which each chain comes after those it leads to. `jumps` are put first in their built-in
    chains, `gone_jumps` are deleted by their text as it was saved. `removes` are chains that nothing leads to any more.
    `leads` is what the written chains of trees now hold that they did not.
    """

    family: Family
    table: Table
    writes: tuple[ChainWrite, ...] = ()
    jumps: tuple[Jump, ...] = ()
    gone_jumps: tuple[Jump, ...] = ()
    removes: tuple[str, ...] = ()
    leads: tuple[Lead, ...] = ()
    keys: tuple[PortKey, ...] = ()

    @property
    def size(self) -> int:
        """How many objects are written: chains with their rules, and jumps."""
        rules = sum([len(write.chain.rules) for write in self.writes])
        return rules + sum(map(len, (self.writes, self.jumps, self.gone_jumps, self.removes)))

    def lines(self) -> list[Line]:
        """Return the lines of this step, in order."""
        return [
            *[Line(f"-D {jump.chain} {jump.rule}") for jump in self.gone_jumps],
            *[Line(f":{chain.name} - [0:0]", owner) for chain, owner in self.writes],
            *[Line(f":{name} - [0:0]") for name in self.removes],
            *[
                Line(f"-A {chain.name} {rule}", owner)
                for chain, owner in self.writes
                for rule in chain.rules
            ],
            *[Line(f"-X {name}") for name in self.removes],
            *[Line(f"-I {jump.chain} 1 {jump.rule}") for jump in self.jumps],
        ]

    def keeping(self, index: int | None) -> "TableStep | None":
        """Return this step with the chain that this line would remove left there, empty; None if it is another line."""
        line = self.lines()[index].text if index is not None else ""
        if not line.startswith("-X "):
            return None
        kept = line.removeprefix("-X ")
        return self._replace(
            writes=(*self.writes, ChainWrite(empty_chain(kept))),
            removes=tuple([name for name in self.removes if name != kept]),
        )

    def parts(self, rules_at_most: int) -> "list[TableStep]":
        """Cut this step after so many rules or a little more; what is left but chains comes with the last part.

        Many chains that go are emptied before the first of them is removed, since they lead to each other.
        """
        if len(self.removes) > rules_at_most:
            family, table, names = self.family, self.table, self.removes
            emptied = tuple([ChainWrite(empty_chain(name)) for name in names])
            steps = [self._replace(removes=()), TableStep(family, table, emptied, keys=self.keys)]
            return [
                *[p for s in steps if s.size or s.leads for p in s.parts(rules_at_most)],
                *[
                    TableStep(
                        family, table, removes=names[at : at + rules_at_most], keys=self.keys
                    )
                    for at in range(0, len(names), rules_at_most)
                ],
            ]
        parts: list[TableStep] = []
        writes: list[ChainWrite] = []
        weight = 0
        for write in self.writes:
            if weight >= rules_at_most:
                parts.append(TableStep(self.family, self.table, tuple(writes), keys=self.keys))
                writes, weight = [], 0
            writes.append(write)
            weight += max(len(write.chain.rules), 1)
        return [*parts, self._replace(writes=tuple(writes))]


Verb = Literal["create", "destroy", "add", "delete"]


class SetChange(NamedTuple):
    """A message about a set: the set itself to be made or destroyed, or a member of it to be added or deleted."""

    verb: Verb
    name: str
    item: IpSet | Member | None = None
    owner: PortKey | None = None

    def request(self) -> Request:
        """Return it as a message of netlink."""
        match self.item:
            case IpSet():
                return ipset_messages.create(self.item)
            case Member():
                if self.verb == "add":
                    return ipset_messages.add(self.name, self.item)
                return ipset_messages.delete(self.name, self.item)
            case None:
                return ipset_messages.destroy(self.name)

    def __str__(self) -> str:
        return ipset_messages.describe(self.request())


class SetStep(NamedTuple):
    """Messages about sets of one family, each by itself, in this order."""

    family: Family
    changes: tuple[SetChange, ...]
    keys: tuple[PortKey, ...] = ()

    @property
    def size(self) -> int:
        return len(self.changes)

    def requests(self) -> list[Request]:
        """Return the messages; a refusal's index is that of the change."""
        return [change.request() for change in self.changes]


Step = TableStep | SetStep

SharedMember = tuple[str, Member]
"""A member of a set, and the set's name: several ServicePorts may need the same one."""


class Rendered(Value, frozen=True, kw_only=True):
    """What a ServicePort occupies: rules in trees, chains in nat and sets of its own, and members of the fixed sets.

    `asks_for_pods`: its chains tell pods of this node from others.
    """

    leads: tuple[Lead, ...] = ()
    chains: frozenset[str] = frozenset()
    sets: frozenset[str] = frozenset()
    members: frozenset[SharedMember] = frozenset()
    asks_for_pods: bool = False

    def joined(self, other: "Rendered") -> "Rendered":
        """Return what is occupied between steps that lead from this to the other."""
        return Rendered(
            leads=tuple(dict.fromkeys([*self.leads, *other.leads])),
            chains=self.chains | other.chains,
            sets=self.sets | other.sets,
            members=self.members | other.members,
            asks_for_pods=self.asks_for_pods or other.asks_for_pods,
        )


class NodePart(Value, frozen=True):
    """What of the whole node is programmed: the members of sets that are there for the node, not for a service.

    `described` is the DesiredNode they stand for, `is_settled` whether all services were programmed before.
    """

    described: DesiredNode
    is_settled: bool
    members: frozenset[tuple[Family, str, Member]] = frozenset()


class IptablesPlan:
    """Steps in order, and what ServicePorts and the node occupy once they are done.

    `leaving` are chains of nat and sets that nothing of the plan's outcome leads to: they stay until swept. `layout` identifies
    the fixed rules by which all chains are written then, None if some may be older. Who asked for a plan `is_for_nobody`
    expects no ServicePort to be refused. `refused` are left out, and why: their chains would be those of others, who keep them.
    """

    def __init__(
        self,
        steps: tuple[Step, ...],
        rendered: Mapping[PortKey, Rendered | None],
        *,
        node: NodePart | None = None,
        layout: object = None,
        is_for_nobody: bool = False,
        leaving: Mapping[Family, "Leaving"] | None = None,
    ) -> None:
        self.steps = steps
        self.rendered = dict(rendered)
        self.node = node
        self.layout = layout
        self.is_for_nobody = is_for_nobody
        self.leaving = dict(leaving or {})
        self.refused: dict[PortKey, str] = {}

    def __bool__(self) -> bool:
        return bool(self.steps)

    def describe(self) -> list[str]:
        """Return one line for each operation, in the order in which they are carried out."""
        return [
            f"{number} {step.family} {line}"
            for number, step in enumerate(self.steps, start=1)
            for line in _describe(step)
        ]


class Leaving(NamedTuple):
    """Chains of nat, and sets, of one family that nothing leads to any more; chains of trees that are needed.

    `mended` are those of the latter that somebody had changed when the plan was made.
    """

    chains: frozenset[str] = frozenset()
    sets: frozenset[str] = frozenset()
    staying: frozenset[str] = frozenset()
    mended: frozenset[str] = frozenset()


class Facts:
    """What is in the kernel of one family: chains and jumps by table, sets, and their members but for those of affinity.

    Jumps are found by built-in chain and mark; their text is that which would delete them. `about` says of chains that were adopted
    what stands in their comments.
    """

    def __init__(self) -> None:
        self.chains: dict[Table, dict[str, ChainState]] = {table: {} for table in TABLES}
        self.jumps: dict[Table, dict[tuple[str, str], Jump]] = {table: {} for table in TABLES}
        self.sets: dict[str, IpSet] = {}
        self.members: dict[str, set[Member]] = {}
        self.about: dict[str, str] = {}


def make_chain(name: str, rules: list[str], about: str = "") -> Chain:
    """Make a chain out of the rules' texts. `about` stands in the comment as well, for whoever reads the table.

    Even a chain that does nothing has a rule, since the mark needs one.
    """
    rules = rules or [""]
    mark = content_mark(rules)
    comment = fit_for_comment(about)
    first = _COMMENT.format(f"{comment} {mark}" if comment else mark)
    return Chain(name, (f"{first} {rules[0]}".rstrip(), *rules[1:]), ChainState(mark, len(rules)))


def empty_chain(name: str) -> Chain:
    """Return a chain without a rule, and so without a mark."""
    return Chain(name, (), ChainState("", 0))


def make_jump(chain: str, rule: str) -> Jump:
    """Make a rule that stands in a built-in chain."""
    mark = content_mark([rule])
    return Jump(chain, mark, f"{_COMMENT.format(mark)} {rule}")


def content_mark(rules: list[str]) -> str:
    """Return a hash of rules' texts: 16 hexadecimal digits."""
    return hashlib.blake2b("\n".join(rules).encode(), digest_size=8).hexdigest()


def fit_for_comment(about: str) -> str:
    """Return what stands before the mark."""
    return _UNFIT.sub("_", about)[: _COMMENT_LENGTH - _MARK_LENGTH - 1]


def parse_mark(comment: str) -> str:
    """Return the mark in a rule's comment, empty where there is none."""
    found = _MARK(comment)
    return found[2] if found else ""


def parse_about(comment: str) -> str:
    """Return what stands before the mark, empty where there is none."""
    found = _MARK(comment)
    return (found[1] or "") if found else ""


def _describe(step: Step) -> Iterator[str]:
    if isinstance(step, SetStep):
        for change in step.changes:
            yield f"{change}{_whose(change.owner)}"
        return
    for chain, owner in step.writes:
        count = f"{len(chain.rules)} rule{'s' * (len(chain.rules) != 1)}"
        yield f"{step.table}: write {chain.name}, {count}{_whose(owner)}"
    for verb, jumps in (("insert", step.jumps), ("delete", step.gone_jumps)):
        for jump in jumps:
            yield f"{step.table}: {verb} in {jump.chain}: {jump.rule}"
    for name in step.removes:
        yield f"{step.table}: remove {name}"


def _whose(owner: PortKey | None) -> str:
    return f"  # {owner}" if owner is not None else ""
