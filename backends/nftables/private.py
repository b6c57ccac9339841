"""What planning does about chains and sets that are there for one ServicePort alone: affinity and source ranges. Pure."""

from backends.nftables.affinity import (
    Affinity,
    affinity_chains,
    affinity_sets,
    number_endpoints,
)
from backends.nftables.draft import Draft
from backends.nftables.firewall import (
    Firewall,
    firewall_chain,
    firewall_set,
    interval_keys,
)
from backends.nftables.layout import Layout
from backends.nftables.model import LOCAL_FROM, NOTHING_PRIVATE, ChainSpec, Private, Row, SetSpec
from backends.nftables.render import Pool, RenderedPort
from backends.nftables.slots import believed_slots, changed_slots, slot_key
from proxy.model import PortKey


def plan_private(draft: Draft, owner: PortKey, port: RenderedPort | None, old: Private) -> Private:
    """Ask for what a ServicePort needs for itself. What it needs no more stays for a while: see `belief`."""
    affinity, firewall = (port.affinity, port.firewall) if port is not None else (None, None)
    shape = (affinity, firewall)
    if shape == (None, None):
        return NOTHING_PRIVATE
    new = old
    if shape != old.shape:
        sets, chains = private_specs(draft.layout, affinity, firewall)
        draft.need(owner.family, sets, chains)
        new = Private(
            chains=tuple([spec.name for spec in chains]),
            sets=tuple([spec.name for spec in sets]),
            shape=shape,
            next_id=old.next_id,
        )
    new = new._replace(members=(), rows=())
    if firewall is not None:
        new = _fill_ranges(draft, firewall, new)
    if affinity is not None and port is not None:
        new = _fill_affinity(draft, affinity, port, old, new)
    return new


def private_specs(
    layout: Layout, affinity: Affinity | None, firewall: Firewall | None
) -> tuple[list[SetSpec], list[ChainSpec]]:
    """Return the sets, and the chains, every chain before those that refer to it."""
    sets: list[SetSpec] = []
    chains: list[ChainSpec] = []
    if firewall is not None:
        sets.append(firewall_set(firewall))
        chains.append(firewall_chain(firewall))
    if affinity is not None:
        sets += affinity_sets(affinity)
        chains += affinity_chains(affinity, layout.marking(affinity.key.family))
    return sets, chains


def _fill_ranges(draft: Draft, firewall: Firewall, new: Private) -> Private:
    keys = interval_keys(firewall.key.family, firewall.ranges)
    draft.fill(firewall.key, firewall.set_name, dict.fromkeys(keys))
    return new._replace(members=(*new.members, (firewall.set_name, tuple(keys))))


def _fill_affinity(
    draft: Draft, affinity: Affinity, port: RenderedPort, old: Private, new: Private
) -> Private:
    """Number the endpoints, and put the numbers into slots. What can stay stays."""
    owner, family = affinity.key, affinity.key.family
    lists = [
        (is_local, port.local if is_local else port.cluster) for is_local, _ in affinity.lists
    ]
    names = [affinity.endpoints(is_local=is_local) for is_local in (False, True)]
    numbers, next_id = number_endpoints(
        [endpoint for _, pool in lists for endpoint in pool],
        [draft.believed(family, name) for name in names],
        old.next_id,
    )
    slots: dict[bytes, bytes] = {}
    members, rows = [*new.members], [*new.rows]
    for is_local, pool in lists:
        name = affinity.endpoints(is_local=is_local)
        content = {numbers[endpoint]: endpoint for endpoint in pool}
        draft.fill(owner, name, content)
        members.append((name, tuple(content)))
        row = Row(affinity.slots, b"", LOCAL_FROM if is_local else 0, len(pool))
        rows.append(row)
        slots |= _slots(draft, affinity, row, tuple([numbers[endpoint] for endpoint in pool]))
    is_late = isinstance(old.shape, tuple) and old.shape[0] != affinity
    draft.fill(owner, affinity.slots, slots, is_late=is_late and _drops_a_list(old, affinity))
    return new._replace(members=tuple(members), rows=tuple(rows), next_id=next_id)


def _drops_a_list(old: Private, affinity: Affinity) -> bool:
    before = old.shape[0] if isinstance(old.shape, tuple) else None
    return isinstance(before, Affinity) and not (
        {is_local for is_local, _ in before.lists} <= {is_local for is_local, _ in affinity.lists}
    )


def _slots(draft: Draft, affinity: Affinity, row: Row, wanted: Pool) -> dict[bytes, bytes]:
    believed = draft.believed(affinity.key.family, affinity.slots)
    old = believed_slots(believed, row)
    content = dict(enumerate(old[: len(wanted)])) | changed_slots(old, wanted)
    return {slot_key(b"", row.first + number): data for number, data in content.items()}
