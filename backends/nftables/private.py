"""What planning does about chains and sets that are there for one ServicePort alone: source ranges. Pure."""

from backends.kernel.nft_table import ChainSpec, SetSpec
from backends.nftables.draft import Draft
from backends.nftables.firewall import Firewall, firewall_chain, firewall_set
from backends.nftables.model import NOTHING_PRIVATE, Private


def plan_private(draft: Draft, firewall: Firewall | None, old: Private) -> Private:
    """Ask for what a ServicePort needs for itself. What it needs no more stays for a while: see `belief`."""
    if firewall is None:
        return NOTHING_PRIVATE
    new = old
    if firewall != old.shape:
        sets, chains = private_specs(firewall)
        draft.need(firewall.key.family, sets, chains)
        new = Private(
            chains=tuple([spec.name for spec in chains]),
            sets=tuple([spec.name for spec in sets]),
            shape=firewall,
        )
    draft.fill(firewall.key, firewall.set_name, dict.fromkeys(firewall.bounds))
    return new._replace(members=((firewall.set_name, firewall.bounds),))


def private_specs(firewall: Firewall | None) -> tuple[list[SetSpec], list[ChainSpec]]:
    """Return the sets and the chains."""
    if firewall is None:
        return [], []
    return [firewall_set(firewall)], [firewall_chain(firewall)]
