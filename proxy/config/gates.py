"""Feature gates: the one that changes something here, those that are settled, and the advice for the rest.

Most gates a cluster still carries in its files were removed from Kubernetes long ago or are locked to their default. None of them is an
error here, since kube-proxy's own list changes with each release; each is a warning that says what is true instead.
"""

from collections.abc import Iterator, Mapping
from typing import Final

DEFAULTS: Final[dict[str, bool]] = {
    "AllowServiceExternalIPs": True,
}
"""The gates that are read, with kube-proxy's defaults."""

MEANINGS: Final[dict[str, str]] = {
    "AllowServiceExternalIPs": "serve spec.externalIPs of Services",
}

_ALWAYS_SLICES: Final = "EndpointSlices are always used"
_HINTS: Final = "hints in EndpointSlices are always honoured"
_DUAL_STACK: Final = "both address families are always served"
_NO_PAGES: Final = "the page does not exist here; see /debug/state"
_LOGGING: Final = "there are no such logging options here"

SETTLED: Final[dict[str, str]] = {
    "AllAlpha": "there are no alpha features here",
    "AllBeta": "there are no beta features here",
    "ComponentFlagz": _NO_PAGES,
    "ComponentStatusz": _NO_PAGES,
    "ContextualLogging": _LOGGING,
    "EndpointSlice": _ALWAYS_SLICES,
    "EndpointSliceNodeName": _ALWAYS_SLICES,
    "EndpointSliceProxying": _ALWAYS_SLICES,
    "EndpointSliceTerminatingCondition": "the conditions serving and terminating are always read",
    "ExternalPolicyForExternalIP": "externalTrafficPolicy always covers external IPs",
    "IPTablesOwnershipCleanup": "rules without our mark are never touched",
    "IPv6DualStack": _DUAL_STACK,
    "KubeProxyDrainingTerminatingNodes": "/healthz always reports a node that is being deleted",
    "LoadBalancerIPMode": "status.loadBalancer.ingress[].ipMode is always honoured",
    "LoggingAlphaOptions": _LOGGING,
    "LoggingBetaOptions": _LOGGING,
    "MinimizeIPTablesRestore": "only what changed is ever written",
    "MixedProtocolLBService": "load balancers with several protocols are always served",
    "MultiCIDRServiceAllocator": "Kubernetes has locked it on",
    "NFTablesProxyMode": "mode nftables needs no gate",
    "PreferSameTrafficDistribution": _HINTS,
    "ProxyTerminatingEndpoints": "terminating endpoints always serve as the last resort",
    "SCTPSupport": "SCTP is always served",
    "ServiceAppProtocol": "appProtocol does not concern a service proxy",
    "ServiceInternalTrafficPolicy": "spec.internalTrafficPolicy is always honoured",
    "ServiceLBNodePortControl": "a load balancer without node ports is always served",
    "ServiceTopology": "topologyKeys are gone from Kubernetes; set spec.trafficDistribution on the Service",
    "ServiceTrafficDistribution": _HINTS,
    "SupportIPVSProxyMode": "mode ipvs needs no gate",
    "TopologyAwareHints": _HINTS + "; set spec.trafficDistribution on the Service",
    "WinDSR": "this program runs on Linux only",
    "WinOverlay": "this program runs on Linux only",
    "WindowsEndpointSliceProxying": "this program runs on Linux only",
}
"""Gates that decide nothing any more, or nothing here, and what is true instead."""

_BY_LOWER_CASE: Final = {name.lower(): name for name in (*DEFAULTS, *SETTLED)}


def warnings(gates: Mapping[str, bool]) -> Iterator[tuple[str, str]]:
    """Yield name and advice of every gate that has no effect."""
    for name in sorted(gates):
        known = _BY_LOWER_CASE.get(name.lower(), "")
        if known in SETTLED:
            yield name, f"has no effect: {SETTLED[known]}; delete the gate"
        elif not known:
            yield name, "unknown feature gate, ignored; delete it"
        elif known != name:
            yield name, f"unknown feature gate, ignored; did you mean {known}?"
