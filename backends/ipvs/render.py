"""What a DesiredPort looks like in the kernel: elements, virtual servers and their destinations. Pure.

A cluster IP is a virtual server at its address and port. All external frontends share virtual servers that are found by
firewall mark: one for the list that policy gives the world outside, and with policy Local one for pods here and the node.
"""

import struct
from collections.abc import Iterable
from typing import Final, NamedTuple

from backends.ipvs.layout import IpvsSettings
from backends.ipvs.model import (
    BOUND,
    ELSEWHERE,
    HAIRPIN,
    HEALTH_PORTS,
    PLACES,
    Frontend,
    Rendered,
    SharedMember,
    WantedServer,
)
from backends.kernel.ipvs_marks import Marks, Role
from backends.kernel.ipvs_objects import Destination, ServerFlag, ServerId, VirtualServer, marked
from backends.kernel.nft_phrases import PROTOCOL_NUMBERS, word
from backends.kernel.nft_ranges import merged_ranges
from backends.kernel.nft_table import Data
from proxy import desired
from proxy.addresses import pack_ip
from proxy.desired import DesiredPort
from proxy.model import LOCAL, Endpoint, Protocol

STICKY_SCHEDULER: Final = "mh"
"""With session affinity, for what is found by mark: persistence would leave the port untranslated (ip_vs_sched_persist)."""
_FLAGS: Final = {
    "mh": ServerFlag.SCHEDULER_1 | ServerFlag.SCHEDULER_2,
    "sh": ServerFlag.SCHEDULER_1,
}
"""The first: whoever is hashed to a destination of weight 0 comes to another one. The second: the client's port counts too."""


class RenderedPort(NamedTuple):
    """A DesiredPort ready to be planned: what it occupies, the elements of its frontends, and its virtual servers."""

    rendered: Rendered
    elements: dict[Frontend, dict[str, Data]]
    servers: dict[ServerId, WantedServer]


def render_port(
    port: DesiredPort,
    settings: IpvsSettings,
    marks: Marks,
    elsewhere: frozenset[str],
    number: int | None,
) -> RenderedPort:
    """Render a ServicePort. `number` stands for it in marks; only one without external frontends needs none."""
    return _Renderer(port, settings, marks, elsewhere, number).render()


class _Renderer:
    def __init__(
        self,
        port: DesiredPort,
        settings: IpvsSettings,
        marks: Marks,
        elsewhere: frozenset[str],
        number: int | None,
    ) -> None:
        self._port = port
        self._settings = settings
        self._marks = marks
        self._elsewhere = elsewhere
        self._number = number
        self._servers: dict[ServerId, WantedServer] = {}

    def render(self) -> RenderedPort:
        elements: dict[Frontend, dict[str, Data]] = {}
        for frontend in self._port.frontends:
            rendered = self._frontend(frontend)
            if frontend.kind == "ClusterIP":
                elements[rendered] = self._internal(rendered)
            else:
                elements[rendered] = self._external(rendered)
        number, family = self._number, self._port.key.family
        occupied = Rendered(
            frontends=tuple(elements),
            number=number,
            marked=self._marks.servers(family, number) if number is not None else (),
            shared=self._shared(),
        )
        return RenderedPort(occupied, elements, self._servers)

    def _frontend(self, frontend: desired.Frontend) -> Frontend:
        port, key = self._port, self._port.key
        rest = _port_key(key.name.protocol, frontend.port)
        if frontend.address is None:
            return Frontend("node-port", rest, None)
        packed = pack_ip(frontend.address)
        server = ServerId(key.family, key.name.protocol, frontend.address, frontend.port)
        allowed: frozenset[bytes] = frozenset()
        if frontend.kind == "LoadBalancer" and port.source_ranges:
            own = [f"{frontend.address}/{8 * len(packed)}"] if port.allows_own_vips else []
            ranges = merged_ranges(key.family, (*port.source_ranges, *own))
            to = packed + rest
            allowed = frozenset([first + to + last + to for first, last in ranges])
        return Frontend("address", packed + rest, server, allowed)

    def _internal(self, frontend: Frontend) -> dict[str, Data]:
        if frontend.server is None:
            raise ValueError("a cluster IP without an address")
        flags = _FLAGS.get(self._settings.scheduler, ServerFlag(0))
        timeout_s = self._port.affinity_timeout_s
        if timeout_s is not None:
            flags |= ServerFlag.PERSISTENT
        server = VirtualServer(
            frontend.server, self._settings.scheduler, int(flags), timeout_s or 0
        )
        if self._serve(server, self._port.internal):
            return {PLACES["address"].services: None}
        return self._nothing(frontend)

    def _external(self, frontend: Frontend) -> dict[str, Data]:
        port, places = self._port, PLACES[frontend.kind]
        role: Role = "local" if port.external_local else "cluster"
        outside = self._marked(role, (port.local if port.external_local else port.cluster) or ())
        elements = self._nothing(frontend)
        if outside is not None:
            elements = {places.externals: outside}
        if port.external_local:
            here = self._marked("here", port.cluster or ())
            if here is not None:
                elements[places.shortcuts] = here
        if frontend.allowed:
            elements[places.guarded] = None
        return elements

    def _nothing(self, frontend: Frontend) -> dict[str, Data]:
        places = PLACES[frontend.kind]
        return {places.dropped if self._port.is_any_usable else places.refused: None}

    def _marked(self, role: Role, pool: tuple[Endpoint, ...]) -> bytes | None:
        """Ask for the virtual server of one role; return its mark, None if it would have no destination."""
        if self._number is None:
            raise ValueError("an external frontend without a number for its marks")
        mark = self._marks.mark(self._number, role)
        identity = marked(self._port.key.family, mark)
        scheduler = self._settings.scheduler
        flags = _FLAGS.get(scheduler, ServerFlag(0))
        if self._port.affinity_timeout_s is not None:
            scheduler, flags = STICKY_SCHEDULER, ServerFlag.SCHEDULER_1
        if self._serve(VirtualServer(identity, scheduler, int(flags)), pool):
            return word(mark)
        return None

    def _serve(self, server: VirtualServer, pool: tuple[Endpoint, ...]) -> bool:
        if pool and server.id not in self._servers:
            at = self._settings.offset % len(pool)
            destinations = [
                Destination(endpoint.ip, endpoint.port) for endpoint in (*pool[at:], *pool[:at])
            ]
            self._servers[server.id] = WantedServer(
                server, {(each.address, each.port): each for each in destinations}
            )
        return bool(pool)

    def _shared(self) -> frozenset[SharedMember]:
        """Render what several ServicePorts may share.

        An address of another interface is not put on our device. A pod that reaches itself through a service must be
        masqueraded, or it would answer itself directly; manifests may not say on which node an endpoint is.
        """
        members: set[SharedMember] = set()
        for frontend in self._port.frontends:
            if frontend.address is not None:
                is_ours = frontend.kind == "ClusterIP" or frontend.address not in self._elsewhere
                members.add((BOUND if is_ours else ELSEWHERE, pack_ip(frontend.address)))
        for endpoint in self._port.reachable:
            if endpoint.flags & LOCAL or endpoint.node_name is None:
                address = endpoint.packed[:-4]
                members.add((HAIRPIN, address + address))
        if self._port.health_check_node_port:
            members.add((HEALTH_PORTS, _port_key("TCP", self._port.health_check_node_port)))
        return frozenset(members)


def needs_number(port: DesiredPort) -> bool:
    """Whether a ServicePort has frontends that are found by mark."""
    return any(frontend.kind != "ClusterIP" for frontend in port.frontends)


def mark_keys(port: DesiredPort) -> Iterable[tuple[str, bytes]]:
    """Yield where marks of a ServicePort may be found: map and key."""
    for frontend in port.frontends:
        if frontend.kind == "ClusterIP":
            continue
        places = PLACES["node-port" if frontend.address is None else "address"]
        address = b"" if frontend.address is None else pack_ip(frontend.address)
        key = address + _port_key(port.key.name.protocol, frontend.port)
        yield places.externals, key
        yield places.shortcuts, key


def read_mark(data: bytes) -> int:
    """Return a mark from what a map holds."""
    return int(struct.unpack("=I", data)[0])


def _port_key(protocol: Protocol, port: int) -> bytes:
    """Return the key that a port has in sets: each part fills whole registers of four bytes."""
    return PROTOCOL_NUMBERS[protocol].to_bytes(1) + b"\0\0\0" + port.to_bytes(2) + b"\0\0"
