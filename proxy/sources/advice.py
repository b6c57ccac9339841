"""What to write instead: findings for objects that were right once, or that articles get wrong.

Pure. An API server refuses or converts these; a manifest read from a directory meets no API server, so whoever
wrote it learns it here. Kinds that have nothing to do with a proxy (Deployment, ConfigMap, …) are no finding.
"""

from collections.abc import Mapping
from typing import Final, NamedTuple

SLICE_VERSION: Final = "discovery.k8s.io/v1"
SERVICE_CIDR_VERSION: Final = "networking.k8s.io/v1"

SLICE_SPEC: Final = (
    "EndpointSlice has no spec: move addressType, endpoints and ports to the top level"
)
FQDN: Final = "FQDN slices serve no proxy: write a slice of addressType IPv4 or IPv6"
TOPOLOGY: Final = (
    "a v1beta1 field that is ignored: write nodeName and zone on the endpoint instead"
)
TOPOLOGY_KEYS: Final = (
    "ignored, removed in Kubernetes 1.22: write spec.trafficDistribution, which makes the cluster"
    " set hints; in manifests of your own write hints.forZones on the endpoints"
)
SLICE_PROXYING: Final = "no such setting: EndpointSlices are always used, remove it"
_ENDPOINTS: Final = (
    f"v1 Endpoints are not read: write a {SLICE_VERSION} EndpointSlice with the label"
    " kubernetes.io/service-name"
)
_CONFIGURATION: Final = "the proxy's configuration is not a manifest: pass the file with --config"
_NESTED_LIST: Final = "a list inside a list is not read: move its items one level up"
_NO_KIND: Final = "missing: write Service, EndpointSlice or Node"

_OURS: Final = {
    "service": "Service",
    "endpointslice": "EndpointSlice",
    "node": "Node",
    "servicecidr": "ServiceCIDR",
}


class Advice(NamedTuple):
    """A finding: the field it is about and what is wrong with it."""

    field: str
    reason: str


def on_kind(kind: str, document: Mapping[object, object]) -> list[Advice]:
    """Return what there is to say of an object of a kind that no proxy reads; usually nothing."""
    version = document.get("apiVersion")
    if not kind:
        return [Advice("kind", _NO_KIND)]
    if kind == "Endpoints" and version in ("v1", None):
        return [Advice("", _ENDPOINTS)]
    if kind == "KubeProxyConfiguration":
        obsolete = [Advice("endpointSliceProxying", SLICE_PROXYING)]
        return [Advice("", _CONFIGURATION)] + obsolete * ("endpointSliceProxying" in document)
    if kind == "List":
        return [Advice("kind", _NESTED_LIST)]
    if kind.lower() in _OURS:
        return [Advice("kind", f"kinds are case-sensitive: write {_OURS[kind.lower()]}")]
    return []


class Verdict(NamedTuple):
    """Whether an object of some apiVersion is one of ours and can be read, and the finding if there is one."""

    is_ours: bool
    is_readable: bool
    advice: Advice | None


def on_version(kind: str, version: str, right: str) -> Verdict:
    """Judge an object of our `kind` whose apiVersion is not the `right` one.

    Other APIs have kinds of the same names (a Knative Service): those are simply not ours. Old versions of our
    own group have the fields we read, so they are read.
    """
    group = version.rpartition("/")[0]
    right_group = right.rpartition("/")[0]
    if group and group == right_group:
        reason = f"{version} is no longer served by Kubernetes: write {right} (it is read as that)"
        return Verdict(is_ours=True, is_readable=True, advice=Advice("apiVersion", reason))
    if group:
        return Verdict(is_ours=False, is_readable=False, advice=None)
    reason = f"{kind} is not part of {version}: write {right}"
    return Verdict(is_ours=True, is_readable=False, advice=Advice("apiVersion", reason))
