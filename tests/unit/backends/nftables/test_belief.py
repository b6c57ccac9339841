"""How belief follows what the kernel has confirmed, and who occupies what."""

from collections.abc import Collection, Mapping

from backends.kernel.nft_table import ChainSpec, Data, TableFacts
from backends.kernel.nft_transaction import Transaction
from backends.nftables.belief import Observed
from backends.nftables.model import Rendered, Target
from backends.nftables.planned import NftPlan
from proxy.model import Family, PortKey
from tests.unit.backends.belief_laws import BeliefLaws, Occupied


class TestBelief(BeliefLaws[Observed]):
    def believe(self, tables: dict[Family, TableFacts], generation: int = 0) -> Observed:
        return Observed(tables, generation)

    def fold(self, observed: Observed, transaction: Transaction) -> None:
        observed.fold(transaction)

    def correct(
        self,
        observed: Observed,
        set_name: str,
        keys: Collection[bytes],
        actual: Mapping[bytes, Data],
    ) -> None:
        observed.correct("IPv4", set_name, keys, actual)

    def occupy(self, observed: Observed, rendered: Mapping[PortKey, Occupied | None]) -> None:
        described = {
            key: _rendered(each) if each is not None else None for key, each in rendered.items()
        }
        observed.occupy(NftPlan((), described))

    def test_chains_and_sets_that_are_gone_are_no_longer_believed(self) -> None:
        observed = self.believe_in(refused={b"key": None})
        stranger = ChainSpec("stranger", None, ())
        observed.fold(Transaction(chains=(("IPv4", stranger),)))

        observed.fold(
            Transaction(gone_chains=(("IPv4", "stranger"),), gone_sets=(("IPv4", "refused"),))
        )

        facts = observed.tables["IPv4"]
        assert facts.chains == {}
        assert "refused" not in facts.sets
        assert "refused" not in facts.elements


def _rendered(occupied: Occupied) -> Rendered:
    targets = [Target("cluster-ip", key, key, "TCP", 1) for key in occupied.frontends]
    return Rendered(targets=tuple(targets), shared=frozenset(occupied.shared))
