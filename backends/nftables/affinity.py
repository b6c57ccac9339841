"""Session affinity: what a ServicePort has to itself so that clients come back to the endpoint they had. Pure.

A client's address leads to the number of an endpoint, the number to the endpoint. The number travels from rule to rule
as the packet's priority. A removed endpoint loses its number's element, and who remembers it finds out with its next
connection. All frontends of the ServicePort share the clients, and so do the cluster list and the local list.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import Final, NamedTuple

from backends.kernel.nft_numbers import SetFlag
from backends.nftables import rules
from backends.nftables.model import REFUSE, ChainSpec, Data, Kind, RuleSpec, SetSpec
from backends.nftables.names import capacity_for, identity
from backends.nftables.picking import Marking, attempts
from backends.nftables.sets import SLOT, address_type, declared, endpoint_type
from proxy.desired import DesiredPort
from proxy.model import Family, PortKey, Protocol

CLIENTS_AT_MOST: Final = 65535
"""Clients of one ServicePort that are remembered at a time; further ones are served without affinity."""
_STEP: Final = 16
_BEST_EFFORT: Final = (
    1 << 16
)  # a priority from here on could name a class of a queueing discipline
NUMBER: Final = "meta priority"


class Affinity(NamedTuple):
    """What the chains depend on.

    `cluster` and `local` are the capacities of the two lists, None for one that no frontend uses.
    """

    key: PortKey
    timeout_s: int
    cluster: int | None
    local: int | None
    is_external: bool
    has_shortcut: bool
    has_node_port: bool

    @property
    def id(self) -> str:
        return identity(self.key)

    def entry(self, *, is_local: bool = False) -> str:
        """Return the chain a verdict leads to."""
        return f"affinity-local-{self.id}" if is_local else f"affinity-{self.id}"

    @property
    def external(self) -> str:
        """The chain in front that marks everything."""
        return f"affinity-external-{self.id}"

    @property
    def shortcut(self) -> str:
        """The chain in front for those whom the external policy does not concern."""
        return f"affinity-shortcut-{self.id}"

    @property
    def clients(self) -> str:
        return f"affinity-{self.id}"

    @property
    def slots(self) -> str:
        return f"affinity-slots-{self.id}"

    def endpoints(self, *, is_local: bool = False) -> str:
        return f"affinity-endpoints{'-local' if is_local else ''}-{self.id}"

    @property
    def lists(self) -> list[tuple[bool, int]]:
        """The lists in use: whether it is the local one, and its capacity."""
        both = ((False, self.cluster), (True, self.local))
        return [(is_local, capacity) for is_local, capacity in both if capacity is not None]

    @property
    def set_names(self) -> tuple[str, ...]:
        return (
            self.clients,
            self.slots,
            *[self.endpoints(is_local=is_local) for is_local, _ in self.lists],
        )

    @property
    def chain_names(self) -> tuple[str, ...]:
        """Every chain before those that refer to it."""
        names = [
            f"affinity-{part}{self.entry(is_local=is_local).removeprefix('affinity-')}"
            for is_local, _ in self.lists
            for part in ("chosen-", "choose-", "known-", "")
        ]
        names += [self.external] if self.is_external else []
        names += [self.shortcut] if self.has_shortcut else []
        return tuple(names)


def affinity_of(port: DesiredPort) -> Affinity | None:
    """Return what a ServicePort with session affinity needs, None for one without."""
    if port.affinity_timeout_s is None or not port.frontends:
        return None
    kinds = {frontend.kind for frontend in port.frontends}
    is_outer = bool(kinds - {"ClusterIP"})
    uses_local = (port.internal_local and "ClusterIP" in kinds) or (
        port.external_local and is_outer
    )
    uses_cluster = is_outer or not port.internal_local
    return Affinity(
        key=port.key,
        timeout_s=port.affinity_timeout_s,
        cluster=capacity_for(len(port.cluster or ())) if uses_cluster else None,
        local=capacity_for(len(port.local or ())) if uses_local else None,
        is_external=is_outer and not port.external_local,
        has_shortcut=is_outer and port.external_local,
        has_node_port="NodePort" in kinds,
    )


def affinity_sets(affinity: Affinity) -> list[SetSpec]:
    key, family = affinity.key, affinity.key.family
    endpoint = endpoint_type(family, key.name.protocol)
    return [
        declared(
            affinity.clients,
            address_type(family),
            "classid",
            flags=SetFlag.EVAL | SetFlag.TIMEOUT,
            size=CLIENTS_AT_MOST,
            owner=key,
        ),
        declared(affinity.slots, SLOT, NUMBER, owner=key),
        *[
            declared(affinity.endpoints(is_local=is_local), NUMBER, endpoint, owner=key)
            for is_local, _ in affinity.lists
        ],
    ]


def affinity_chains(affinity: Affinity, marking: Marking) -> list[ChainSpec]:
    """Return the chains, every chain before those that refer to it."""
    chains: list[tuple[str, Iterable[RuleSpec]]] = []
    for is_local, capacity in affinity.lists:
        chains += _chains_of_list(affinity, capacity, is_local=is_local)
    then = rules.rule([rules.goto(affinity.entry())], "then by client")
    if affinity.is_external:
        chains.append((affinity.external, (marking.everything, then)))
    if affinity.has_shortcut:
        chains.append((affinity.shortcut, (marking.shortcut, then)))
    return [ChainSpec(name, None, tuple(made), affinity.key) for name, made in chains]


def _chains_of_list(
    affinity: Affinity, capacity: int, *, is_local: bool
) -> list[tuple[str, Iterable[RuleSpec]]]:
    family, protocol = affinity.key.family, affinity.key.name.protocol
    entry = affinity.entry(is_local=is_local)
    known, choose, chosen = (
        entry.replace("affinity-", f"affinity-{part}-", 1)
        for part in ("known", "choose", "chosen")
    )
    serving = _serving(family, protocol, affinity, affinity.endpoints(is_local=is_local))
    forget = rules.rule(rules.forget_client(family, affinity.clients), "the endpoint is gone")

    def draw(modulus: int, why: str) -> RuleSpec:
        slot = (
            rules.any_of(modulus, is_local=is_local) if modulus else rules.first(is_local=is_local)
        )
        return rules.rule(rules.remember([slot], affinity.slots, chosen), why)

    half = [draw(capacity // 2, "one of the half that is full")] if capacity > 2 else []
    first = rules.first(is_local=is_local)
    again = [*rules.remember([first], affinity.slots, "")[:-1]]
    by_client = rules.remember(rules.client(family), affinity.clients, known)
    return [
        (
            chosen,
            (*serving, forget, rules.rule(again, "the first endpoint"), *serving, _never()),
        ),
        (
            choose,
            (
                *[draw(capacity, f"one of up to {capacity}")] * attempts(capacity),
                *half,
                *_refusing(family, affinity),
                draw(0, "the first endpoint has just come"),
                _never(),
            ),
        ),
        (known, (*serving, forget, rules.rule([rules.goto(choose)], "another one"))),
        (
            entry,
            (
                rules.rule(by_client, "who was here before"),
                rules.rule([rules.goto(choose)], "who was not"),
            ),
        ),
    ]


def _serving(
    family: Family, protocol: Protocol, affinity: Affinity, endpoints: str
) -> tuple[RuleSpec, RuleSpec]:
    return (
        rules.rule(
            rules.note_client(family, affinity.clients, affinity.timeout_s), "remember the client"
        ),
        rules.rule(rules.translate_remembered(family, protocol, endpoints), "to its endpoint"),
    )


def _refusing(family: Family, affinity: Affinity) -> list[RuleSpec]:
    """Refuse where nothing serves the ServicePort. A NodePort is known by its number alone."""
    kinds: list[Kind] = ["cluster-ip"]
    if affinity.has_node_port:
        kinds.append("node-port")
    return [
        rules.rule([*rules.is_refused(family, kind), rules.goto(REFUSE)], "no endpoint")
        for kind in kinds
    ]


def _never() -> RuleSpec:
    return rules.rule([rules.drop()], "never untranslated")


def number_endpoints(
    wanted: Iterable[bytes], believed: Iterable[Mapping[bytes, Data]], next_id: int
) -> tuple[dict[bytes, bytes], int]:
    """Return the number of each endpoint, and the next number to give.

    An endpoint keeps the number it has. A number that became free is given again last: a client that still remembers
    it would belong to the newcomer.
    """
    known: dict[bytes, bytes] = {}
    used: set[int] = set()
    for elements in believed:
        for key, data in elements.items():
            number = _parse(key)
            if number is not None and isinstance(data, bytes):
                used.add(number)
                known.setdefault(data, key)
    numbers: dict[bytes, bytes] = {}
    candidate = next_id or max(used, default=0) + _STEP
    for endpoint in dict.fromkeys(wanted):
        if endpoint not in known:
            candidate = _free(candidate, used)
            used.add(candidate)
            known[endpoint] = pack_number(candidate)
            candidate += _STEP
        numbers[endpoint] = known[endpoint]
    return numbers, candidate


def _free(candidate: int, used: Collection[int]) -> int:
    if candidate >= _BEST_EFFORT and len(used) < _BEST_EFFORT // _STEP - 1:
        candidate = _STEP
    while candidate in used:
        candidate += _STEP
    return candidate


def pack_number(number: int) -> bytes:
    """Return a number as the kernel holds it in a packet's priority."""
    return rules.host_word(number)


def _parse(key: bytes) -> int | None:
    number = rules.read_host_word(key) if len(key) == len(rules.host_word(0)) else 0
    return number if number and number % _STEP == 0 else None
