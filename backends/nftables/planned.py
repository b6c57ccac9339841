"""What a plan is: transactions, what becomes of ServicePorts by them, and how to say it. Pure."""

from collections.abc import Mapping, Sequence

from backends.kernel.nft_node import NodePart
from backends.kernel.nft_transaction import Transaction
from backends.nftables.model import TABLE, Keys, Rendered
from backends.nftables.words import element_words
from proxy.model import Family, PortKey


class NftPlan:
    """Transactions in order, and what ServicePorts and the node occupy once they are committed.

    Once the first of several is, they occupy what they did before as well. Elements that are `leaving` are not needed
    any more and stay for a while; those that are `staying` may have been leaving. `is_sweep`: while there is anything
    that leaves, whatever was left for a while goes. `is_pruned`: nothing is left of an earlier process. `refused` are ServicePorts that are not served as asked for, and why;
    `next_services` the numbers that new ones with session affinity get next.
    """

    def __init__(
        self,
        transactions: tuple[Transaction, ...],
        rendered: dict[PortKey, Rendered | None],
        node: NodePart | None = None,
        layout: object = None,
        *,
        leaving: Sequence[Keys] = (),
        staying: Sequence[Keys] = (),
        is_sweep: bool = False,
        is_pruned: bool = False,
        refused: Mapping[PortKey, str] | None = None,
        next_services: Mapping[Family, int] | None = None,
    ) -> None:
        self.transactions = transactions
        self.rendered = rendered
        self.node = node
        self.layout = layout
        self.leaving = leaving
        self.staying = staying
        self.is_sweep = is_sweep
        self.is_pruned = is_pruned
        self.refused = dict(refused or {})
        self.next_services = dict(next_services or {})

    def __bool__(self) -> bool:
        return bool(self.transactions or self.leaving or self.is_sweep)

    def describe(self) -> list[str]:
        """Return one line for each operation, in the order in which they are carried out."""
        lines: list[str] = []
        for number, transaction in enumerate(self.transactions, start=1):
            lines += [f"{number} {line}" for line in transaction.describe(TABLE, element_words)]
        return lines
