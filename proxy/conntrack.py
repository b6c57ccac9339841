"""Which tracked UDP flows lead to where nothing serves any more. Pure.

The kernel translates a flow once, by its first packet. A UDP client that keeps its port keeps its endpoint too, and that
for as long as it goes on sending: also after the endpoint has gone. Such entries have to be deleted; the next packet then
is a new flow. TCP and SCTP notice by themselves and are never touched.

An entry is stale if it was made by sending to a frontend of ours and its answers come from elsewhere than a serving
endpoint of that ServicePort. Policies, topology and terminating do not count, as in kube-proxy. What was sent while there
were no endpoints was not translated: its answers would come from the frontend itself, so it is stale as soon as there
are some. Left alone are:

- ServicePorts without serving endpoints: there is nowhere to go, and somebody else may forward for them;
- addresses that no ServicePort owns any more: when another comes to own one, its flows are looked through as all others;
- node ports on addresses that are not ours, where kube-proxy goes by the port alone;
- untranslated flows where listeners of this process answer: at 127.0.0.0/8, if not rules do, and in mode userspace everywhere.

What should be decides, not what happened: a sweep compares entries with the endpoints of now. What is believed of
earlier times only tells where looking is worth while, and now and then everything is looked through.
"""

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Final

from proxy.addresses import parse_ip
from proxy.cache import Merged
from proxy.desired import DesiredPort, Frontend
from proxy.desired_node import DesiredNode, family_of, is_loopback
from proxy.model import FAMILIES, Endpoint, Family, PortKey, SlicePort, Value
from proxy.netlink.conntrack import Entry, Filter

MOST_EXACT: Final = 2
"""So many flows are looked up one by one. More cost less in one walk that returns all with what they have in common."""
MOST_FRESH: Final = 8
"""So many frontends are looked up one by one where untranslated flows count too: those may be all there are."""

_PORT_LENGTH: Final = 2
_IPV4_LENGTH: Final = 4 + _PORT_LENGTH
_LOOPBACK_NETWORK: Final = 127

Ends = frozenset[bytes]
"""Endpoints as entries have them: an address followed by its port, in network byte order."""


class Belief(Value, frozen=True):
    """What is known of a ServicePort's flows.

    `frontends`: those through which no untranslated flow goes. `bound`: the endpoints flows may be bound to. `lingering`:
    those of them that no new flow is sent to.
    """

    frontends: frozenset[Frontend] = frozenset()
    bound: Ends = frozenset()
    lingering: Ends = frozenset()


class Task(Value, frozen=True):
    """A ServicePort some of whose flows may be stale.

    `bound` are the endpoints flows may be bound to, `reachable` those that new flows are sent to. `fresh` are the
    frontends through which untranslated flows may go.
    """

    key: PortKey
    frontends: frozenset[Frontend]
    serving: Ends
    reachable: Ends
    bound: Ends
    fresh: frozenset[Frontend]

    @property
    def gone(self) -> Ends:
        """The endpoints that no longer serve."""
        return self.bound - self.serving

    @property
    def is_worth_a_sweep(self) -> bool:
        """Whether there may be stale flows, and somewhere to go for them."""
        return bool(self.serving and self.frontends and (self.fresh or self.gone))


def serving(key: PortKey, merged: Mapping[tuple[Family, SlicePort], Merged]) -> Ends:
    """Return the endpoints of a ServicePort that serve, wherever they are and whatever the policies."""
    found = merged.get((key.family, SlicePort(key.name.port, key.name.protocol)))
    return ends(each for each in found.endpoints if each.serving) if found else frozenset()


def ends(endpoints: Iterable[Endpoint]) -> Ends:
    """Return endpoints as entries have them."""
    return frozenset([each.packed[:-2] for each in endpoints])  # without the padding


def look(
    port: DesiredPort, serving: Ends, belief: Belief, programmed: Ends, *, is_suspect: bool
) -> Task:
    """Return what there is to look for.

    `programmed` are the endpoints that new flows were sent to at any time since the last look. `is_suspect`: untranslated
    flows may go through any frontend.
    """
    frontends, reachable = frozenset(port.frontends), ends(port.reachable)
    return Task(
        key=port.key,
        frontends=frontends,
        serving=serving,
        reachable=reachable,
        bound=belief.bound | programmed | reachable,
        fresh=frontends if is_suspect else frontends - belief.frontends,
    )


def may_have_gone_by(belief: Belief, port: DesiredPort | None) -> bool:
    """Whether untranslated flows, or those of another, may have gone through any frontend before the next look.

    They do while a ServicePort is gone, has no endpoints, or has lost a frontend to another.
    """
    return port is None or not port.reachable or bool(belief.frontends.difference(port.frontends))


def unswept(task: Task) -> Belief:
    """Return what is known of a ServicePort that needed no sweep, or could have none."""
    frontends = task.frontends if task.serving else frozenset()
    return Belief(frontends, task.bound, task.bound - task.reachable)


def swept(task: Task, kept: Iterable[bytes]) -> Belief:
    """Return what is known of a ServicePort after a sweep that found flows to `kept`."""
    is_whole = task.fresh == task.frontends  # every flow was seen
    bound = frozenset(kept) if is_whole else task.bound & task.serving
    return Belief(task.frontends, bound | task.reachable, bound - task.reachable)


def filters(tasks: Iterable[Task]) -> list[Filter]:
    """Return the dumps that show everything stale, with little else."""
    by_family: dict[Family, list[Task]] = {}
    for task in tasks:
        by_family.setdefault(task.key.family, []).append(task)
    return [each for family in FAMILIES for each in _filters(family, by_family.get(family, ()))]


def _filters(family: Family, tasks: Sequence[Task]) -> list[Filter]:
    if sum(len(task.fresh) for task in tasks) > MOST_FRESH:
        return [Filter(family)]
    fresh = [_exact(family, frontend) for task in tasks for frontend in task.fresh]
    known = [(task.frontends - task.fresh, task.gone) for task in tasks if task.gone]
    count = sum([len(frontends) * len(gone) for frontends, gone in known])
    one = _narrowest(family, [(frontends, gone) for frontends, gone in known if frontends])
    is_sharp = one.destination or len(one.source) > _PORT_LENGTH
    if count > MOST_EXACT or (count > 1 and is_sharp):
        return [*fresh, one]
    return fresh + [
        _exact(family, frontend)._replace(source=source)
        for frontends, gone in known
        for frontend in frontends
        for source in gone
    ]


def _narrowest(family: Family, wanted: Iterable[tuple[frozenset[Frontend], Ends]]) -> Filter:
    """Return the one dump that shows all flows through some frontends to some endpoints, with as little else as can be."""
    pairs = list(wanted)
    frontends = frozenset[Frontend]().union(*[each for each, _ in pairs])
    gone = Ends().union(*[each for _, each in pairs])
    return Filter(
        family,
        destination=_common({_packed(each.address) for each in frontends}),
        port=_common({_port(each) for each in frontends}),
        source=_common(gone) or _common({each[-_PORT_LENGTH:] for each in gone}),
        is_translated=True,
    )


def _common(parts: AbstractSet[bytes]) -> bytes:
    """Return the only one there is; empty if there are several."""
    return next(iter(parts)) if len(parts) == 1 else b""


def _exact(family: Family, frontend: Frontend) -> Filter:
    return Filter(family, _packed(frontend.address), _port(frontend))


def node_addresses(node: DesiredNode, host_addresses: Iterable[str]) -> frozenset[str]:
    """Return the addresses on which NodePorts are served; `host_addresses` are all that this host has."""
    limited = node.node_port_addresses
    found = [
        each
        for each in host_addresses
        if limited.get(family_of(each)) is None and not is_loopback(each)
    ]
    return frozenset(found).union(*[each for each in limited.values() if each is not None])


def may_have_flows(address: str) -> bool:
    """Whether flows to an address may be tracked before this host has it: those of other hosts are forwarded.

    Not so to link-local ones of IPv6 (RFC 4291, 2.5.6), which come and go with the links of pods.
    """
    return not address.startswith("fe80:")


class Table:
    """Who serves where, for some ServicePorts: what a dumped entry is compared with.

    `is_listening`: frontends are served by listeners of this process, not by translation; `is_listening_at_localhost`: those
    at 127.0.0.0/8 are.
    """

    def __init__(
        self,
        node_addresses: Iterable[str],
        *,
        is_listening: bool = False,
        is_listening_at_localhost: bool = False,
    ) -> None:
        self._is_listening = is_listening
        self._is_listening_at_localhost = is_listening_at_localhost
        self._node_addresses = frozenset(map(_packed, node_addresses))
        self._owners: dict[bytes, Task] = {}
        self._node_ports: dict[tuple[Family, bytes], Task] = {}

    def add(self, task: Task) -> None:
        for frontend in task.frontends:
            if frontend.address is None:
                self._node_ports[task.key.family, _port(frontend)] = task
            else:
                self._owners[_packed(frontend.address) + _port(frontend)] = task

    def owner(self, family: Family, destination: bytes) -> Task | None:
        """Return whose frontend an address and port is."""
        owner = self._owners.get(destination)
        if owner is None and (
            destination[:-2] in self._node_addresses or _is_at_localhost(destination)
        ):
            owner = self._node_ports.get((family, destination[-2:]))
        return owner

    def may_end_at_a_listener(self, entry: Entry) -> bool:
        """Whether a flow to a frontend may have reached a listener of this process, as it should."""
        if entry.source != entry.destination:
            return False
        return self._is_listening or (
            self._is_listening_at_localhost and _is_at_localhost(entry.destination)
        )


def is_stale(entry: Entry, owner: Task) -> bool:
    """Whether a flow to a frontend of `owner` leads to where nothing serves, while something does elsewhere."""
    return bool(owner.serving) and entry.source not in owner.serving


def _is_at_localhost(end: bytes) -> bool:
    """Whether an address and port is in 127.0.0.0/8, where mode iptables translates NodePorts."""
    return len(end) == _IPV4_LENGTH and end[0] == _LOOPBACK_NETWORK


def _packed(address: str | None) -> bytes:
    parsed = None if address is None else parse_ip(address)
    return b"" if parsed is None else parsed.packed


def _port(frontend: Frontend) -> bytes:
    return frontend.port.to_bytes(2, "big")
