"""Beliefs of a small world and plans for it, without a kernel."""

from collections.abc import Sequence

from backends.ipvs.belief import Observed
from backends.ipvs.layout import IpvsSettings, Layout
from backends.ipvs.model import AddressStep
from backends.ipvs.plan import plan
from backends.ipvs.planned import IpvsPlan
from backends.kernel.nft_table import Data, TableFacts
from backends.kernel.nft_transaction import Transaction
from proxy.desired import DesiredPort
from tests.desired_strategies import desired_state, whole
from tests.model_builders import make_key

LAYOUT = Layout(IpvsSettings(families=("IPv4",)))
WEB, API = make_key("default/web"), make_key("default/api")


def make_belief(**elements: dict[bytes, Data]) -> Observed:
    """A belief in our device and a whole table with these elements, by the name of the set with _ for -."""
    facts = TableFacts()
    facts.is_present = True
    facts.chains = dict(LAYOUT.chain_facts["IPv4"])
    for spec in LAYOUT.sets("IPv4"):
        facts.sets[spec.name] = spec.facts
        facts.elements[spec.name] = elements.pop(spec.name.replace("-", "_"), {})
    assert not elements
    return Observed({"IPv4": facts}, generation=7, device=3)


def believing(*ports: DesiredPort) -> Observed:
    """A belief in which these have been programmed."""
    observed = make_belief()
    carry_out(plan_for(observed, *ports), observed)
    return observed


def plan_for(observed: Observed, *ports: DesiredPort, gone: Sequence[str] = ()) -> IpvsPlan:
    """Plan these as they are now, and those of the services in `gone`, which are no more."""
    desired = desired_state(*ports)
    return plan(whole(desired), observed, [*desired, *map(make_key, gone)], LAYOUT)


def carry_out(planned: IpvsPlan, observed: Observed) -> None:
    """Believe that the kernel has confirmed every step."""
    for step in planned.steps:
        if isinstance(step, Transaction):
            observed.fold_nft(step)
        elif isinstance(step, AddressStep):
            observed.fold_addresses(step, ())
        else:
            for operation in step.operations:
                observed.fold_operation(operation, 0.0)
    for server, place in planned.drains:
        observed.drain(server, place, 0.0)
    observed.occupy(planned)
