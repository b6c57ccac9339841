"""From belief and desire to steps. Pure.

A plan first works out what each concerned chain, member and rule of a tree should be, then compares that with belief: whatever
differs becomes an operation, whatever does not costs nothing. Moving a frontend from one service to another in one plan is
therefore the same as changing it. `order` puts the operations in order.

Chains that nothing leads to any more stay until they are swept, since the kernel refuses to delete one in use; so do the sets
that only their rules ask.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence

from backends.iptables import sets
from backends.iptables.belief import Observed
from backends.iptables.draft import Draft
from backends.iptables.layout import Layout
from backends.iptables.model import IptablesPlan, NodePart, Rendered, Step
from backends.iptables.order import in_order, rebuild, sweep
from backends.iptables.render import render_port
from backends.kernel.ipset_objects import Member
from proxy.addresses import parse_cidr
from proxy.desired import Desired
from proxy.desired_node import DesiredNode
from proxy.model import Family, PortKey


def plan(
    desired: Desired, observed: Observed, changed: Collection[PortKey], settled: Layout
) -> IptablesPlan:
    """Return what brings the ServicePorts in `changed`, and the node's own part, from belief to desire.

    A plan for no ServicePort also removes what earlier ones left behind. Where pods are told from others by other means than
    before, it writes the chains that do so anew: it alone, so that no other is refused because of them.
    """
    layout = settled.for_node(desired.node)
    drafts = make_drafts(observed, layout, _concerned(desired.node, observed, changed, layout))
    rendered: dict[PortKey, Rendered | None] = {}
    refused: dict[PortKey, str] = {}
    is_new = not changed and observed.layout is not layout
    for key in dict.fromkeys([*changed, *(observed.asking if is_new else ())]):
        if key.family not in drafts:
            continue  # this host does not have the family; the backend has said so
        described, known = desired.ports.get(key), observed.rendered.get(key)
        if described is None and known is None:
            continue
        port = render_port(described, layout) if described is not None else None
        if not changed and (port is None or port.rendered != known):
            continue  # more than that has changed, or was refused: whoever changed it has it planned
        stranger = drafts[key.family].stranger(key, port) if port is not None else None
        if stranger is not None:
            refused[key] = f"its chains would have the names of those of {stranger}"
            continue
        drafts[key.family].replace(key, port)
        rendered[key] = port.rendered if port is not None else None
    is_settled = observed.node is not None and observed.node.is_settled
    node = plan_node(drafts, observed, desired.node, is_settled=is_settled)
    seen_to = layout if is_new or observed.layout is None else None
    planned = finish(drafts, observed, seen_to, rendered, node, is_for_nobody=not changed)
    planned.refused.update(refused)
    return planned


def _concerned(
    node: DesiredNode, observed: Observed, changed: Collection[PortKey], layout: Layout
) -> Sequence[Family]:
    """Return the families of what has changed; all of them for nobody, and until what is there for all is as it should be."""
    is_known = observed.node is not None and observed.node.described is node
    if not changed or not is_known or observed.layout is not layout:
        return layout.families
    of = {key.family for key in changed}
    return [family for family in layout.families if family in of]


def make_drafts(
    observed: Observed, layout: Layout, families: Iterable[Family]
) -> dict[Family, Draft]:
    return {
        family: Draft(family, observed, layout, is_rebuild=bool(observed.misshapen[family]))
        for family in families
    }


def finish(
    drafts: Mapping[Family, Draft],
    observed: Observed,
    layout: Layout | None,
    rendered: Mapping[PortKey, Rendered | None],
    node: NodePart | None,
    *,
    is_for_nobody: bool = False,
) -> IptablesPlan:
    """Return the plan that drafts amount to. In one for nobody, what was left behind earlier goes."""
    steps: list[Step] = []
    swept: list[Step] = []
    for family, draft in drafts.items():
        draft.plant()
        if draft.is_rebuild:
            steps += rebuild(family, observed)
        steps += in_order(draft)
        if is_for_nobody and not draft.is_rebuild:
            chains = sorted(filter(draft.is_unneeded, observed.leaving_chains[family]))
            swept += sweep(family, chains, sorted(observed.leaving_sets[family]))
    return IptablesPlan(
        (*steps, *swept),
        rendered,
        node=node,
        layout=layout,
        is_for_nobody=is_for_nobody,
        leaving={family: draft.leaving() for family, draft in drafts.items()},
    )


def plan_node(
    drafts: Mapping[Family, Draft], observed: Observed, node: DesiredNode, *, is_settled: bool
) -> NodePart | None:
    """Ask for what is there for the node itself; None if that is as it was.

    Addresses that no service has are dropped only once all services are there.
    """
    old = observed.node
    is_same = old is not None and old.described is node and old.is_settled == is_settled
    if old is not None and is_same:
        members = old.members
    else:
        members = node_members(node, drafts, is_settled=is_settled)
    for family, name, member in old.members - members if old is not None else ():
        drafts[family].put_member(name, member, is_wanted=False)
    for family, name, member in members:
        if family in drafts:
            drafts[family].put_member(name, member, is_wanted=True)
    return None if is_same else NodePart(node, is_settled, members)


def node_members(
    node: DesiredNode, families: Collection[Family], *, is_settled: bool
) -> frozenset[tuple[Family, str, Member]]:
    """Return the members of sets that are there for the node itself."""
    members: set[tuple[Family, str, Member]] = set()
    for family in families:
        for address in node.node_port_addresses.get(family) or ():
            members.add((family, sets.set_name(family, sets.NODEPORT_IPS), Member(address)))
        for cidr in map(parse_cidr, node.service_cidrs) if is_settled else ():
            if cidr is not None and cidr.family == family and cidr.prefix_length:
                name = sets.set_name(family, sets.SERVICE_CIDRS)
                members.add((family, name, Member(cidr.text)))
    return frozenset(members)
