"""The chains that pick an endpoint, one for each protocol, capacity and class of frontend. Pure.

They exist on demand and are shared by all ServicePorts.
"""

import functools
from collections.abc import Sequence
from typing import Final, NamedTuple

from backends.kernel import nft_phrases as say
from backends.kernel import nft_table
from backends.kernel.nft_expressions import Numgen
from backends.kernel.nft_phrases import Phrase
from backends.kernel.nft_table import ChainSpec, RuleSpec
from backends.nftables import rules
from backends.nftables.model import AFFINITY_ENDPOINTS, AFFINITY_ENDPOINTS_LOCAL, REFUSE, Kind
from backends.nftables.names import Picking, parse_picking
from proxy.model import Family

DRAWS: Final = 12
"""How often a random slot is drawn before the choice is narrowed to the half that is surely full. More than half of
the slots are full, so at most one connection in 2^12 is chosen that way: the spread is uniform but for that."""


class Sources(NamedTuple):
    """What is done about where packets come from: the rule that has them masqueraded, and what is true of pods here.

    The latter is None where nothing tells pods of this node from others.
    """

    masquerade: RuleSpec
    is_pod: Phrase | None


def attempts(capacity: int) -> int:
    """Return how often a slot is drawn from a pool of that capacity."""
    return DRAWS if capacity > 2 else 2


def picking_spec(family: Family, name: str, sources: Sources) -> ChainSpec:
    """Return the chain of that name that picks an endpoint."""
    picking = parse_picking(name)
    match picking.act:
        case "remember":
            written = _remembering(family, picking)
        case "pick":
            written = _picking(family, picking)
        case "split":
            written = _splitting(picking, sources)
        case "external":
            to = say.goto(_everywhere(picking).name)
            written = [sources.masquerade, nft_table.rule([to], "then as all others")]
    return ChainSpec(name, None, tuple(written))


@functools.lru_cache(maxsize=4096)
def leads_to(name: str) -> tuple[str, ...]:
    """Return the other chains that one needs, every chain before those that refer to it.

    In the end there are chains that pick, and what they lead to with session affinity: those that remember clients.
    """
    picking = parse_picking(name)
    needed: list[Picking] = []
    if picking.act == "split":
        needed = [_here(picking), _masqueraded(picking)]
    elif picking.act == "external":
        needed = [_everywhere(picking)]
    elif picking.act == "pick" and picking.timeout_s:
        needed = [picking._replace(act="remember", is_node_port=False, capacity=0)]
    return tuple([chain for each in needed for chain in (*leads_to(each.name), each.name)])


def _everywhere(picking: Picking) -> Picking:
    """Return what picks among the endpoints of the whole cluster."""
    return picking._replace(act="pick", here=0)


def _masqueraded(split: Picking) -> Picking:
    return split._replace(act="external", here=0)


def _here(split: Picking) -> Picking:
    """Return what picks among the endpoints of this node."""
    return split._replace(act="pick", is_local=True, capacity=split.here, here=0)


def _splitting(picking: Picking, sources: Sources) -> Sequence[RuleSpec]:
    """Return the rules that tell apart whom the policy Local concerns: neither pods here nor the node itself.

    They stand behind the verdict, not before it, so that one look-up decides: between two, the policy could change.
    """
    pods = []
    if sources.is_pod is not None:
        anywhere = [*sources.is_pod, say.goto(_everywhere(picking).name)]
        pods.append(nft_table.rule(anywhere, "pods of this node"))
    itself = [*say.source_is_local(), say.goto(_masqueraded(picking).name)]
    return [
        *pods,
        nft_table.rule(itself, "this node itself"),
        nft_table.rule([say.goto(_here(picking).name)], "from outside: endpoints here"),
    ]


def _picking(family: Family, picking: Picking) -> Sequence[RuleSpec]:
    """Return the rules that draw slots.

    Endpoints fill the slots from 0 on (a local list: from 65536 on), and more than half of the capacity. A slot that
    turns out empty is drawn again; so is one that a commit emptied or moved between two look-ups of a packet, which is
    why a pool may grow and shrink in one transaction without a packet noticing. What still has found
    nothing belongs to a service without endpoints, or is dropped: it must never leave untranslated,
    because conntrack would remember that for the whole connection.
    """
    kind: Kind = "node-port" if picking.is_node_port else "cluster-ip"
    capacity, is_local = picking.capacity, picking.is_local

    remember = "".join(leads_to(picking.name))

    def draw(slot: Numgen, why: str) -> RuleSpec:
        if remember:
            return nft_table.rule(rules.draw_number(slot, remember), why)
        return nft_table.rule(rules.translate(family, picking.protocol, slot, kind), why)

    any_slot = rules.any_of(capacity, is_local=is_local)
    written: list[RuleSpec] = []
    if remember:
        written.append(nft_table.rule(rules.note_service(family, kind), "whose affinity"))
        written.append(nft_table.rule(rules.recall(family, remember), "who was here before"))
    written += [draw(any_slot, f"one of up to {capacity}")] * attempts(capacity)
    if capacity > 2:
        half = rules.any_of(capacity // 2, is_local=is_local)
        written.append(draw(half, "one of the half that is full"))
    return [
        *written,
        nft_table.rule([*rules.is_refused(family, kind), say.goto(REFUSE)], "no endpoint"),
        draw(rules.first(is_local=is_local), "the first endpoint has just come"),
        nft_table.rule([say.drop()], "never untranslated"),
    ]


def _remembering(family: Family, picking: Picking) -> Sequence[RuleSpec]:
    """Return the rules that remember a client and lead it to the endpoint whose number was found or drawn.

    They return where that endpoint is gone: then another one is drawn.
    """
    endpoints = AFFINITY_ENDPOINTS_LOCAL if picking.is_local else AFFINITY_ENDPOINTS
    to_endpoint = rules.translate_remembered(family, picking.protocol, endpoints)
    return [
        nft_table.rule(rules.note_client(family, picking.timeout_s), "remember the client"),
        nft_table.rule(to_endpoint, "to its endpoint"),
        nft_table.rule(rules.forget_client(family), "the endpoint is gone"),
        nft_table.rule(rules.forget_number(), "another one"),
    ]
