"""Beliefs of a small world, plans for it, and what they write. Shared by the tests of planning."""

from collections.abc import Sequence

from backends.kernel.nft_table import Data, TableFacts
from backends.kernel.nft_transaction import Transaction
from backends.nftables.belief import Observed
from backends.nftables.layout import Layout, NftSettings
from backends.nftables.plan import plan
from backends.nftables.planned import NftPlan
from backends.nftables.prune import prune
from backends.nftables.slots import slot_key
from proxy.desired import DesiredPort
from tests.desired_strategies import desired_state, make_desired, whole
from tests.model_builders import make_endpoint, make_key

LAYOUT = Layout(NftSettings(families=("IPv4",)))
ENDPOINTS = "endpoints-tcp"
WEB = make_key("default/web")
FRONTEND = bytes([10, 96, 0, 10, 6, 0, 0, 0, 0, 80, 0, 0])
PREFIX = bytes([10, 96, 0, 10, 0, 80, 0, 0])

Written = dict[str, dict[bytes, Data]]
"""What is written to each set: the new data of each key. What is only deleted is DELETED, what stays for a while LEFT."""
DELETED, LEFT = "deleted", "left"


def believing(*ports: DesiredPort) -> Observed:
    """A belief in which these have been programmed."""
    observed = Observed({"IPv4": TableFacts()})
    desired = desired_state(*ports)
    carry_out(plan(whole(desired), observed, list(desired), LAYOUT), observed)
    carry_out(prune(whole({}), observed, LAYOUT), observed)
    return observed


def carry_out(planned: NftPlan, observed: Observed) -> None:
    for transaction in planned.transactions:
        observed.fold(transaction)
    observed.occupy(planned)


def plan_for(observed: Observed, *ports: DesiredPort, gone: Sequence[str] = ()) -> NftPlan:
    """Plan these as they are now, and those of the services in `gone`, which are no more."""
    desired = desired_state(*ports)
    return plan(whole(desired), observed, [*desired, *map(make_key, gone)], LAYOUT)


def written(planned: NftPlan) -> Written:
    """Return the elements a plan changes or leaves for a while.

    It must be one transaction of nothing else but chains, perhaps with chains laid before it.
    """
    *before, transaction = planned.transactions or [Transaction()]
    assert all(each.size == len(each.chains) for each in before)
    assert (transaction.rebuild, transaction.tables, transaction.sets) == ((), (), ())
    found: Written = {name: dict.fromkeys(keys, LEFT) for _, name, keys in planned.leaving}
    for batch in transaction.deletes:
        found.setdefault(batch.set, {}).update({e.key: DELETED for e in batch.elements})
    for batch in transaction.adds:
        found.setdefault(batch.set, {}).update({e.key: e.data for e in batch.elements})
    return found


def steps(planned: NftPlan) -> list[dict[str, int]]:
    """Return how many elements each transaction writes to each set: what is deleted, added or changed counts once.

    A transaction without elements is no step.
    """
    found = []
    for transaction in planned.transactions:
        keys: dict[str, set[bytes]] = {}
        for batch in (*transaction.deletes, *transaction.adds):
            keys.setdefault(batch.set, set()).update([e.key for e in batch.elements])
        found.append({name: len(of_set) for name, of_set in keys.items()})
    return [each for each in found if each]


def left(planned: NftPlan) -> dict[str, int]:
    """Return how many elements of each set are left for a while."""
    return {name: len(keys) for _, name, keys in planned.leaving}


def slot(number: int) -> bytes:
    return slot_key(PREFIX, number)


def data(address: str) -> bytes:
    return make_endpoint(address).packed


def web(*endpoints: str, is_any_usable: bool | None = None) -> DesiredPort:
    return make_desired("default/web", *endpoints, is_any_usable=is_any_usable)


A, B, C, D, E, F = (f"10.1.0.{number}:80" for number in range(1, 7))
