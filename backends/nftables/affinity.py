"""Session affinity: the numbers of ServicePorts and endpoints by which clients come back to the endpoint they had. Pure.

A client's address and the ServicePort's number lead to the number of an endpoint, that to the endpoint. Numbers travel
from rule to rule as the packet's priority: the ServicePort's in its upper half, the endpoint's in the lower. A removed
endpoint loses its number's element, and who remembers it finds out with its next connection. All frontends of the
ServicePort share the clients, and so do the cluster list and the local list.
"""

from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from backends.kernel import nft_phrases as say
from backends.kernel.nft_table import Data
from proxy.desired import DesiredPort

FIRST_SERVICE: Final = 0x1000
LAST_SERVICE: Final = 0x7FFF
"""Numbers of ServicePorts. Queueing disciplines take a packet's priority for one of their classes if the upper half is
theirs; smaller ones are what administrators give them, larger ones what the kernel does."""
SERVICES_AT_MOST: Final = LAST_SERVICE - FIRST_SERVICE + 1
LAST_ENDPOINT: Final = 0xFFFF


class Affinity(NamedTuple):
    """How a ServicePort remembers its clients, and which of its lists its frontends use."""

    timeout_s: int
    uses_cluster: bool
    uses_local: bool


def affinity_of(port: DesiredPort) -> Affinity | None:
    """Return what a ServicePort with session affinity needs, None for one without."""
    if port.affinity_timeout_s is None or not port.frontends:
        return None
    kinds = {frontend.kind for frontend in port.frontends}
    is_outer = bool(kinds - {"ClusterIP"})
    return Affinity(
        timeout_s=port.affinity_timeout_s,
        uses_cluster=is_outer or not port.internal_local,
        uses_local=(port.internal_local and "ClusterIP" in kinds)
        or (port.external_local and is_outer),
    )


def pack_service(service: int) -> bytes:
    """Return the number of a ServicePort as a packet's priority: its slots' keys begin so."""
    return say.word(service << 16)


def parse_service(word: Data | None) -> int | None:
    """Return the number of a ServicePort; None for what cannot be one."""
    if not isinstance(word, bytes) or len(word) != 4:
        return None
    priority = say.read_word(word)
    service = priority >> 16
    is_one = FIRST_SERVICE <= service <= LAST_SERVICE and not priority & 0xFFFF
    return service if is_one else None


def next_service(after: int) -> int:
    """Return the number that follows. The last one is followed by the first."""
    return FIRST_SERVICE if after >= LAST_SERVICE else after + 1


def pack_endpoint(service: int, endpoint: int) -> bytes:
    """Return the number of an endpoint as a packet's priority.

    Its lower half is turned so that the lowest four bits stay zero for as long as possible: to queueing disciplines that
    look at these alone, that is best effort.
    """
    return say.word(service << 16 | (endpoint & 0xFFF) << 4 | endpoint >> 12)


def parse_endpoint(service: int, word: bytes) -> int | None:
    """Return the number of an endpoint; None for what is none of this ServicePort."""
    priority = say.read_word(word) if len(word) == 4 else 0
    if priority >> 16 != service or not priority & 0xFFFF:
        return None
    return (priority & 0xF) << 12 | (priority & 0xFFFF) >> 4


def number_endpoints(
    service: int,
    wanted: Iterable[bytes],
    known: Mapping[bytes, bytes],
    taken: Sequence[Container[bytes]],
    first: int,
) -> tuple[dict[bytes, bytes], int]:
    """Return the number of each endpoint, and the next number to give. Endpoints beyond the last number are left out.

    `known` are the numbers of endpoints, `taken` whatever has a meaning besides. An endpoint keeps the number it has. A number
    that became free is given again last: a client that still remembers it would belong to the newcomer.
    """
    distinct = dict.fromkeys(wanted)
    owners = {known[endpoint]: endpoint for endpoint in distinct if endpoint in known}
    numbers = {endpoint: number for number, endpoint in owners.items()}
    candidate, tried = (first - 1) % LAST_ENDPOINT, 0
    for endpoint in distinct:
        if endpoint in numbers:
            continue
        while tried < LAST_ENDPOINT:
            word = pack_endpoint(service, candidate + 1)
            candidate, tried = (candidate + 1) % LAST_ENDPOINT, tried + 1
            if word not in owners and not any(word in each for each in taken):
                numbers[endpoint] = word
                break
    return numbers, candidate + 1
