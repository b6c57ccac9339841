"""What planning does about session affinity: a ServicePort's number, its endpoints' numbers, and slots of those. Pure."""

import itertools
from collections.abc import Iterable, Mapping, Sequence

from backends.kernel.nft_table import Data
from backends.nftables.affinity import (
    SERVICES_AT_MOST,
    Affinity,
    next_service,
    number_endpoints,
    pack_service,
    parse_endpoint,
    parse_service,
)
from backends.nftables.belief import Observed
from backends.nftables.draft import Draft
from backends.nftables.model import (
    AFFINITY_ENDPOINTS,
    AFFINITY_ENDPOINTS_LOCAL,
    AFFINITY_SLOTS,
    LOCAL_FROM,
    PLACES,
    Row,
    Sticky,
    Target,
)
from backends.nftables.render import Pool, RenderedPort
from backends.nftables.slots import believed_slots, slot_key, slot_keys
from proxy.model import Family, PortKey

LISTS = ((AFFINITY_ENDPOINTS, 0), (AFFINITY_ENDPOINTS_LOCAL, LOCAL_FROM))
"""The map of a list's endpoints, and the number of its first slot."""


class Numbering:
    """Gives ServicePorts with session affinity their numbers, within one plan. `following` are those to give next."""

    def __init__(self, draft: Draft, observed: Observed) -> None:
        self.following: dict[Family, int] = {}
        self._draft = draft
        self._observed = observed
        self._given: set[tuple[Family, int]] = set()
        self._exhausted: set[Family] = set()

    def number(self, owner: PortKey, targets: Iterable[Target]) -> int | None:
        """Return the number of a ServicePort with such frontends; None if all are taken.

        It keeps the one it has, also across a restart: its frontends' elements tell.
        """
        family, old = owner.family, self._observed.rendered.get(owner)
        if old is not None and old.sticky is not None:
            return old.sticky.service
        for target in targets:
            believed = self._draft.believed(family, PLACES[target.kind].affinity)
            found = parse_service(believed.get(target.key))
            if found is not None and not self._is_owned(family, found):
                self._given.add((family, found))
                return found
        if family in self._exhausted:
            return None
        candidate = self.following.get(family) or self._observed.next_service(family)
        for _ in range(SERVICES_AT_MOST):
            service, candidate = candidate, next_service(candidate)
            if not self._is_taken(family, service):
                self._given.add((family, service))
                self.following[family] = candidate
                return service
        self._exhausted.add(family)
        return None

    def _is_owned(self, family: Family, service: int) -> bool:
        return (family, service) in self._observed.services or (family, service) in self._given

    def _is_taken(self, family: Family, service: int) -> bool:
        """Whether a number is somebody's, or its slots are still there for packets on their way."""
        slots, word = self._draft.believed(family, AFFINITY_SLOTS), pack_service(service)
        return (
            self._is_owned(family, service)
            or service in self._observed.services_found.get(family, ())
            or any(slot_key(word, first) in slots for _, first in LISTS)
        )


def plan_sticky(
    draft: Draft, owner: PortKey, port: RenderedPort, service: int, old: Sticky | None
) -> Sticky:
    """Number the endpoints of a ServicePort with session affinity, and put the numbers into slots. What can stay stays."""
    affinity = port.affinity
    if affinity is None:
        raise ValueError(f"{owner} has no session affinity")
    pools = _pools(affinity, port)
    slots = draft.believed(owner.family, AFFINITY_SLOTS)
    believed = believed_rows(slots, service, [len(pool or ()) for pool in pools])
    known, surplus = _known(draft, owner.family, service, believed, old)
    taken = [draft.believed(owner.family, name) for name, _ in LISTS]
    next_number = old.next_number if old is not None else 1 + _highest(service, known)
    numbers, next_number = number_endpoints(
        service, [endpoint for pool in pools for endpoint in pool or ()], known, taken, next_number
    )
    members: list[tuple[str, Sequence[bytes]]] = []
    rows: list[Row] = []
    for (name, first), pool in zip(LISTS, pools, strict=True):
        content = {numbers[e]: e for e in pool or () if e in numbers}
        row = Row(AFFINITY_SLOTS, pack_service(service), first, len(content))
        gone = [number for number in surplus[name] if number not in content]
        if pool is None:
            draft.leave(owner, name, gone)
            draft.leave(owner, row.set, slot_keys(row._replace(length=len(believed[first]))))
            continue
        draft.put_members(owner, name, content, gone)
        draft.put_slots(owner, row, tuple(content))
        members.append((name, tuple(content)))
        rows.append(row)
    return Sticky(service, (affinity.timeout_s,), tuple(members), tuple(rows), next_number)


def withdraw_sticky(draft: Draft, owner: PortKey, old: Sticky) -> None:
    """Leave all of it for a while, for packets on their way."""
    for name, keys in old.members:
        draft.leave(owner, name, keys)
    for row in old.rows:
        draft.leave(owner, row.set, slot_keys(row))


def believed_rows(
    slots: Mapping[bytes, Data], service: int, lengths: Sequence[int] = (1, 1)
) -> dict[int, list[bytes]]:
    """Return the numbers in the slots of each list, by its first slot. `lengths` are how many to expect."""
    prefix = pack_service(service)
    return {
        first: believed_slots(slots, Row(AFFINITY_SLOTS, prefix, first, length))
        for (_, first), length in zip(LISTS, lengths, strict=True)
    }


def _pools(affinity: Affinity, port: RenderedPort) -> tuple[Pool | None, Pool | None]:
    return (
        port.cluster if affinity.uses_cluster else None,
        port.local if affinity.uses_local else None,
    )


def _known(
    draft: Draft,
    family: Family,
    service: int,
    believed: dict[int, list[bytes]],
    old: Sticky | None,
) -> tuple[dict[bytes, bytes], dict[str, list[bytes]]]:
    """Return the numbers endpoints have, and all numbers in each map: after a restart only slots lead there."""
    known: dict[bytes, bytes] = {}
    there: dict[str, list[bytes]] = {}
    for name, first in LISTS:
        elements = draft.believed(family, name)
        there[name] = []
        held = [keys for place, keys in old.members if place == name] if old is not None else []
        for number in dict.fromkeys(itertools.chain(*held, believed[first])):
            endpoint = elements.get(number)
            if isinstance(endpoint, bytes) and parse_endpoint(service, number) is not None:
                there[name].append(number)
                known.setdefault(endpoint, number)
    return known, there


def _highest(service: int, known: dict[bytes, bytes]) -> int:
    return max([parse_endpoint(service, number) or 0 for number in known.values()], default=0)
