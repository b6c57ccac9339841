"""What the nftables backend knows of its tables: chains, sets and elements as plain values. Pure.

One table of our own in each family, `ip sliceproxy` and `ip6 sliceproxy`. README.md shows the layout.
Not compared with the kernel: rule handles, counters, and load-balancing chains no service needs any more
(they are shared, hold no state, and stay until cleanup).
"""

from typing import Final, NamedTuple

from backends.kernel.nft_messages import BaseChain
from backends.kernel.nft_userdata import Declared
from proxy.model import Family, PortKey, Protocol, Value

TABLE: Final = "sliceproxy"
PROBE_TABLE: Final = "sliceproxy-probe"
SERVICES: Final = "services"
REFUSED: Final = "refused"
CLUSTER_IPS: Final = "cluster-ips"
HAIRPIN: Final = "hairpin"
ENDPOINTS: Final[dict[Protocol, str]] = {
    "TCP": "endpoints-tcp",
    "UDP": "endpoints-udp",
    "SCTP": "endpoints-sctp",
}
REFUSE: Final = "refuse"
CLUSTER_IP: Final = "cluster-ip"

Data = bytes | str | None
"""What an element maps to: raw bytes, a verdict in the stock tool's words (`goto pick-tcp-4`), or None for a
member of a plain set."""


class Element(NamedTuple):
    """An element of one of our sets or maps, and the ServicePort it is there for (None: nobody's)."""

    key: bytes
    data: Data
    owner: PortKey | None


class Batch(NamedTuple):
    """Elements of one set."""

    family: Family
    set: str
    elements: tuple[Element, ...]


SharedMember = tuple[str, bytes]
"""A member of a plain set that several ServicePorts may need: the set's name and the key."""


class RuleSpec(NamedTuple):
    """A rule: its packed expressions and a comment, which ends in a digest of them.

    The kernel gives the comment back as it was, so equal comments mean equal rules.
    """

    expressions: bytes
    comment: str


class ChainFacts(NamedTuple):
    """What identifies the content of a chain, the same whether rendered or read back."""

    base: BaseChain | None
    comments: tuple[str, ...]


class ChainSpec(NamedTuple):
    """A chain as we want it."""

    name: str
    base: BaseChain | None
    rules: tuple[RuleSpec, ...]

    @property
    def facts(self) -> ChainFacts:
        return ChainFacts(self.base, tuple([rule.comment for rule in self.rules]))


class SetFacts(NamedTuple):
    """What identifies a set or map: the kernel's numbers for key and data. Ours have no limit (`size` 0)."""

    flags: int
    key_type: int
    key_length: int
    data_type: int | None
    data_length: int
    size: int = 0


class SetSpec(NamedTuple):
    """A set or map as we want it: its declaration, and what of it can be compared with the kernel."""

    name: str
    key: Declared
    data: Declared | None
    facts: SetFacts


class Target(NamedTuple):
    """One frontend as rendered: the address part of its keys, its protocol, and how many slots it has."""

    services_key: bytes
    slots_prefix: bytes
    protocol: Protocol
    slots: int


class Rendered(Value, frozen=True, kw_only=True):
    """What a ServicePort occupies in its table: its frontends and the set members it shares with others."""

    targets: tuple[Target, ...] = ()
    shared: frozenset[SharedMember] = frozenset()


class Transaction(NamedTuple):
    """What is committed at once. In order: tables, sets, chains, deletes, adds, then what nothing refers to.

    `rebuild` names families whose table is unusable as it stands and is made anew in this transaction.
    """

    rebuild: tuple[Family, ...] = ()
    tables: tuple[Family, ...] = ()
    sets: tuple[tuple[Family, SetSpec], ...] = ()
    chains: tuple[tuple[Family, ChainSpec], ...] = ()
    deletes: tuple[Batch, ...] = ()
    adds: tuple[Batch, ...] = ()
    gone_chains: tuple[tuple[Family, str], ...] = ()
    gone_sets: tuple[tuple[Family, str], ...] = ()

    @property
    def size(self) -> int:
        """The number of objects written."""
        elements = sum(len(batch.elements) for batch in (*self.deletes, *self.adds))
        return elements + sum(
            map(
                len,
                (
                    self.rebuild,
                    self.tables,
                    self.sets,
                    self.chains,
                    self.gone_chains,
                    self.gone_sets,
                ),
            )
        )


class NftPlan:
    """Transactions in order, and what ServicePorts occupy once the first of them is committed."""

    def __init__(
        self,
        transactions: tuple[Transaction, ...],
        rendered: dict[PortKey, Rendered | None],
        references: dict[tuple[Family, str, bytes], int],
    ) -> None:
        self.transactions = transactions
        self.rendered = rendered
        self.references = references

    def __bool__(self) -> bool:
        return bool(self.transactions)

    def describe(self) -> list[str]:
        """Return one line for each operation, in the order in which they are carried out."""
        lines: list[str] = []
        for number, transaction in enumerate(self.transactions, start=1):
            lines += [f"{number} {line}" for line in _describe(transaction)]
        return lines


def _describe(transaction: Transaction) -> list[str]:
    nft = {"IPv4": "ip", "IPv6": "ip6"}
    lines = [f"delete table {nft[family]} {TABLE}" for family in transaction.rebuild]
    lines += [f"add table {nft[family]} {TABLE}" for family in transaction.tables]
    lines += [f"add set {nft[family]} {TABLE} {spec.name}" for family, spec in transaction.sets]
    lines += [
        f"write chain {nft[family]} {TABLE} {spec.name}" for family, spec in transaction.chains
    ]
    for verb, batches in (("delete", transaction.deletes), ("add", transaction.adds)):
        for batch in batches:
            lines += [
                f"{verb} element {nft[batch.family]} {TABLE} {batch.set} {_text(element)}"
                for element in batch.elements
            ]
    lines += [
        f"delete chain {nft[family]} {TABLE} {name}" for family, name in transaction.gone_chains
    ]
    lines += [f"delete set {nft[family]} {TABLE} {name}" for family, name in transaction.gone_sets]
    return lines


def _text(element: Element) -> str:
    data = element.data.hex() if isinstance(element.data, bytes) else element.data
    value = f" : {data}" if data is not None else ""
    return f"{element.key.hex()}{value}" + (f"  # {element.owner}" if element.owner else "")
