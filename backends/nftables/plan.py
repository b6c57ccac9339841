"""From belief and desire to transactions. Pure.

A plan first works out the value each concerned element should have, then compares it with belief: whatever
differs becomes an operation, whatever does not costs nothing. Moving a frontend from one service to another
in one plan is therefore the same as changing it. `order` puts the operations in order.

- Endpoints keep their slots. New ones fill holes, then extend the pool; when a pool shrinks, its last
  endpoints move into the holes. So one replaced endpoint is one changed slot.
- The verdict names a capacity, a power of two, not a count: it changes only when a pool crosses one. That
  matters because the kernel looks at every verdict of a map again when one changes.
"""

from collections.abc import Collection

from msgspec import structs

from backends.kernel.nft_node import plan_node
from backends.nftables.affinity import SERVICES_AT_MOST
from backends.nftables.belief import Observed
from backends.nftables.draft import Draft
from backends.nftables.layout import Layout
from backends.nftables.model import Rendered
from backends.nftables.planned import NftPlan
from backends.nftables.render import RenderedPort, render_port
from backends.nftables.sticky import Numbering, plan_sticky, withdraw_sticky
from proxy.desired import Desired, DesiredPort
from proxy.model import PortKey


def plan(
    desired: Desired, observed: Observed, changed: Collection[PortKey], tables: Layout
) -> NftPlan:
    """Return what brings the ServicePorts in `changed`, and the node's own part, from belief to desire.

    A plan for no ServicePort also removes what earlier ones left in place for packets on their way.
    """
    layout = tables.for_node(desired.node)
    draft = Draft(observed, layout)
    if observed.layout is not layout:  # an earlier process may have had another mark
        refresh(draft)
    if not changed:
        draft.sweep()
    rendered: dict[PortKey, Rendered | None] = {}
    wanted: list[tuple[PortKey, RenderedPort, int | None]] = []
    refused: dict[PortKey, str] = {}
    numbering = Numbering(draft, observed)
    for key in changed:
        if key.family not in layout.families:
            continue  # this host does not have the family; the backend has said so
        old = observed.rendered.get(key)
        described = desired.ports.get(key)
        port, service = None, None
        if described is not None:
            port, service = _render(numbering, described, refused)
            wanted.append((key, port, service))
        if port is not None or old is not None:
            rendered[key] = _replace(draft, key, old, port, service)
    for key, port, service in wanted:
        for frontend in port.frontends:
            draft.put(key, frontend, service)
    is_settled = observed.node is not None and observed.node.is_settled
    node = plan_node(
        draft.values, layout.families, observed.node, desired.node, is_settled=is_settled
    )
    return draft.plan(rendered, node, refused=refused, next_services=numbering.following)


def _render(
    numbering: Numbering, port: DesiredPort, refused: dict[PortKey, str]
) -> tuple[RenderedPort, int | None]:
    """Render a ServicePort, and number it for session affinity, without which it is served if all numbers are taken."""
    rendered = render_port(port)
    if rendered.affinity is None:
        return rendered, None
    service = numbering.number(port.key, [frontend.target for frontend in rendered.frontends])
    if service is None:
        refused[port.key] = (
            f"{SERVICES_AT_MOST} others have session affinity: it is served without"
        )
        rendered = render_port(structs.replace(port, affinity_timeout_s=None))
    return rendered, service


def _replace(
    draft: Draft,
    key: PortKey,
    old: Rendered | None,
    port: RenderedPort | None,
    service: int | None,
) -> Rendered | None:
    """Ask for what a ServicePort needs but its frontends, and withdraw those it no longer has; return what it occupies."""
    frontends = port.frontends if port is not None else ()
    shared = port.shared if port is not None else frozenset()
    draft.share(key, old.shared if old else frozenset(), shared)
    sticky = None
    if old:
        draft.withdraw(key, old.targets, frontends)
        sticky = old.sticky
    if port is not None and service is not None:
        sticky = plan_sticky(draft, key, port, service, sticky)
    elif sticky is not None:
        withdraw_sticky(draft, key, sticky)
        sticky = None
    if port is None:
        return None
    targets = tuple([frontend.target for frontend in frontends])
    return Rendered(targets=targets, sticky=sticky, shared=shared)


def refresh(draft: Draft) -> None:
    """Make anew all chains that depend on the node, which hardly ever changes."""
    for family in draft.layout.families:
        draft.refresh(family)
