"""From belief and desire to steps. Pure.

A plan first works out the value each concerned object should have, then compares it with belief: whatever differs becomes
an operation, whatever does not costs nothing. Moving a frontend from one service to another in one plan is therefore the
same as changing it.
"""

import itertools
from collections.abc import Collection

from backends.ipvs.belief import Observed
from backends.ipvs.draft import Draft
from backends.ipvs.layout import Layout
from backends.ipvs.model import Rendered
from backends.ipvs.numbers import choose_number, is_chosen
from backends.ipvs.order import in_order
from backends.ipvs.planned import IpvsPlan
from backends.ipvs.render import (
    RenderedPort,
    mark_keys,
    needs_number,
    read_mark,
    render_port,
)
from backends.kernel.nft_node import NodePart, plan_node
from proxy.desired import Desired, DesiredPort
from proxy.model import PortKey

_NOTHING = Rendered()


def plan(
    desired: Desired, observed: Observed, changed: Collection[PortKey], layout: Layout
) -> IpvsPlan:
    """Return what brings the ServicePorts in `changed`, and the node's own part, from belief to desire.

    A plan for no ServicePort also looks after what drains.
    """
    layout = layout.for_node(desired.node)
    draft = Draft(observed, layout)
    rendered: dict[PortKey, Rendered | None] = {}
    wanted: list[tuple[PortKey, RenderedPort]] = []
    for key in changed:
        if key.family not in layout.families:
            continue  # this host does not have the family; the backend has said so
        old = observed.rendered.get(key)
        described = desired.ports.get(key)
        port = _render(draft, described) if described is not None else None
        if port is None and old is None:
            continue
        if port is not None:
            wanted.append((key, port))
        _replace(draft, key, old or _NOTHING, port)
        rendered[key] = port.rendered if port is not None else None
    for key, port in wanted:
        for frontend, elements in port.elements.items():
            draft.put(key, frontend, elements)
        for server in port.rendered.marked:
            draft.put_server(key, server, None)
        for server, each in port.servers.items():
            draft.put_server(key, server, each)
    is_settled = observed.node is not None and observed.node.is_settled
    node = plan_node(
        draft.values, layout.families, observed.node, desired.node, is_settled=is_settled
    )
    return finish(draft, rendered, node, reaps=not changed and bool(observed.draining))


def finish(
    draft: Draft,
    rendered: dict[PortKey, Rendered | None],
    node: NodePart | None,
    *,
    reaps: bool = False,
) -> IpvsPlan:
    """Return the plan a draft amounts to."""
    steps = in_order(draft)
    return IpvsPlan(
        steps,
        rendered,
        drains=tuple(draft.drains),
        reaps=reaps,
        node=node,
        layout=draft.layout,
    )


def _render(draft: Draft, port: DesiredPort) -> RenderedPort:
    observed, layout = draft.observed, draft.layout
    number = _number(draft, port) if needs_number(port) else None
    return render_port(port, layout.settings, layout.marks, observed.elsewhere, number)


def _number(draft: Draft, port: DesiredPort) -> int:
    """Return the number that stands for a ServicePort in marks: what it had, what the kernel has, or a free one."""
    key, observed = port.key, draft.observed
    old = observed.rendered.get(key)
    if old is not None and old.number is not None:
        return old.number
    number = None
    for tables, (name, element) in itertools.product(
        (observed.tables, *observed.left), mark_keys(port)
    ):
        data = tables[key.family].elements.get(name, {}).get(element)
        if isinstance(data, bytes):
            number = draft.layout.marks.number(read_mark(data))
            is_own = number is not None and is_chosen(key, number)
            if is_own and not draft.is_number_taken((key.family, number or 0), key):
                break
            number = None
    if number is None:
        number = choose_number(key, lambda candidate: draft.is_number_free(key, candidate))
    draft.take_number(key, number)
    return number


def _replace(draft: Draft, key: PortKey, old: Rendered, port: RenderedPort | None) -> None:
    """Withdraw what a ServicePort no longer has, and ask for what it shares with others."""
    new = port.rendered if port is not None else _NOTHING
    draft.share(key, old.shared, new.shared)
    kept = [frontend.key for frontend in new.frontends]
    draft.withdraw(key, old.frontends, kept, is_gone=port is None)
    for server in old.marked:
        draft.put_server(key, server, None, is_graceful=port is not None)
