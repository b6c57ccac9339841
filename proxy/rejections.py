"""What is wrong with objects, in few words: classes of reasons that can be counted. Pure.

A reason is free text that quotes the object; a metric needs a vocabulary that no author of objects can extend.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Final

from proxy.cache import Cache
from proxy.model import Rejected

_OTHER: Final = "other"
_KINDS: Final = frozenset(
    {"Service", "EndpointSlice", "Node", "ServiceCIDR", "File", "Stream", "Watch"}
)
_INDEX: Final = re.compile(r"\[\d+\]")
_BY_FIELD: Final = {
    "metadata.name": "identity",
    "metadata.namespace": "identity",
    "metadata.labels": "owner",
    "kind": "version",
    "apiVersion": "version",
    "addressType": "family",
    "spec": "misplaced",
    "endpoints.topology": "obsolete",
    "spec.topologyKeys": "obsolete",
    "spec.endpointSliceProxying": "obsolete",
    "spec.sessionAffinityConfig.clientIP.timeoutSeconds": "value",
    "status.loadBalancer.ingress.ipMode": "value",
}
_BY_NAME: Final = {
    "addresses": "address",
    "address": "address",
    "clusterIP": "address",
    "clusterIPs": "address",
    "externalIPs": "address",
    "ip": "address",
    "ipFamilies": "family",
    "loadBalancerSourceRanges": "range",
    "podCIDR": "range",
    "podCIDRs": "range",
    "ports": "port",
    "port": "port",
    "name": "port",
    "nodePort": "port",
    "healthCheckNodePort": "port",
    "protocol": "protocol",
    "type": "value",
    "sessionAffinity": "value",
    "internalTrafficPolicy": "value",
    "externalTrafficPolicy": "value",
}
_UNREADABLE: Final = frozenset({"File", "Stream", "Watch", "Document"})
CLASSES: Final = frozenset({*_BY_FIELD.values(), *_BY_NAME.values(), "type", "unreadable", _OTHER})
"""Every class there is. `type`: a value of the wrong JSON type. `unreadable`: no object at all."""


def classify(rejected: Rejected) -> str:
    """Return the class of a reason: one of CLASSES."""
    if rejected.kind in _UNREADABLE:
        return "unreadable"
    if rejected.reason.startswith("expected "):
        return "type"
    field = _INDEX.sub("", rejected.field)
    return _BY_FIELD.get(field) or _BY_NAME.get(field.rpartition(".")[2], _OTHER)


def words(subject: str, problem: Rejected) -> str:
    """Return what is wrong with an object; what has no name of its own is found by the file it is in."""
    is_in_file = subject.startswith("File ") and problem.kind != "File"
    return f"{subject}: {problem}" if is_in_file else str(problem)


def warnings(cache: Cache) -> Iterator[str]:
    """Yield all that is wrong with what was read, for whoever reads it once."""
    for subject, problems in cache.problems.items():
        yield from (words(subject, problem) for problem in problems)
    if not cache.node.is_known:
        yield f"no Node object named {cache.node.name}: its zone is unknown"


def count(problems: Iterable[Iterable[Rejected]]) -> Counter[tuple[str, str]]:
    """Return how many objects have something rejected, by kind and class, given what is rejected of each object."""
    found: Counter[tuple[str, str]] = Counter()
    for of_object in problems:
        found.update({(_kind(each), classify(each)) for each in of_object})
    return found


def _kind(rejected: Rejected) -> str:
    return rejected.kind if rejected.kind in _KINDS else _OTHER
