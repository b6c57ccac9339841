"""Which objects the API server is asked for, and how.

Pure. One `Resource` for each kind, with the selectors that leave out what no proxy serves: the same ones as
kube-proxy's, so that the server sends as little as possible. What stops matching arrives as deleted.
"""

from typing import Final, NamedTuple
from urllib.parse import urlencode

from proxy.model import Value
from proxy.sources.events import ObjectKind

# Those of other proxies and headless Services are not ours. Fields of a Service's spec are selectable since Kubernetes 1.31.
_SERVICES: Final = "!service.kubernetes.io/service-proxy-name"
NOT_SELECTABLE: Final = "field label not supported"
"""What a server says that cannot select by a field; then what nobody asks for comes too, and is left out here."""
_WITH_CLUSTER_IP: Final = "spec.clusterIP!=None"
_SLICES: Final = "!service.kubernetes.io/headless"


class Request(NamedTuple):
    """One GET. `is_watch` says whether the answer is a stream of events or one document."""

    target: str
    """Path and query, percent-encoded."""
    is_watch: bool


class Resource(Value, frozen=True, kw_only=True):
    """A kind of objects, by its place in the API."""

    kind: ObjectKind
    group: str
    version: str
    plural: str
    label_selector: str = ""
    field_selector: str = ""
    is_optional: bool = False
    """A server that does not have it is none the worse for it."""

    @property
    def path(self) -> str:
        """The path of the collection over all namespaces."""
        root = f"/apis/{self.group}" if self.group else "/api"
        return f"{root}/{self.version}/{self.plural}"

    @property
    def rule(self) -> str:
        """The rule of a ClusterRole that allows what is asked here, as YAML on one line."""
        return f'{{apiGroups: ["{self.group}"], resources: [{self.plural}], verbs: [list, watch]}}'

    def list_request(self, version: str, page_size: int, token: str) -> Request:
        """Ask for one page of a list. With a continue token the version stands in the token."""
        query = [("limit", str(page_size))] if page_size else []
        query.append(("continue", token) if token else ("resourceVersion", version))
        return self._request(query, is_watch=False)

    def watch_list_request(self, timeout_s: int) -> Request:
        """Ask for everything as events, then a bookmark, then changes (KEP-3157)."""
        query = [
            ("watch", "1"),
            ("sendInitialEvents", "true"),
            ("resourceVersionMatch", "NotOlderThan"),
            ("resourceVersion", ""),
            ("allowWatchBookmarks", "true"),
            ("timeoutSeconds", str(timeout_s)),
        ]
        return self._request(query, is_watch=True)

    def watch_request(self, version: str, timeout_s: int) -> Request:
        """Ask for the changes after a version."""
        query = [
            ("watch", "1"),
            ("resourceVersion", version),
            ("allowWatchBookmarks", "true"),
            ("timeoutSeconds", str(timeout_s)),
        ]
        return self._request(query, is_watch=True)

    def _request(self, query: list[tuple[str, str]], *, is_watch: bool) -> Request:
        selectors = [
            (name, selector)
            for name, selector in (
                ("labelSelector", self.label_selector),
                ("fieldSelector", self.field_selector),
            )
            if selector
        ]
        return Request(f"{self.path}?{urlencode([*selectors, *query])}", is_watch)


def resources(node_name: str) -> tuple[Resource, ...]:
    """Return what a proxy on this node asks for."""
    return (
        Resource(
            kind="Service",
            group="",
            version="v1",
            plural="services",
            label_selector=_SERVICES,
            field_selector=_WITH_CLUSTER_IP,
        ),
        Resource(
            kind="EndpointSlice",
            group="discovery.k8s.io",
            version="v1",
            plural="endpointslices",
            label_selector=_SLICES,
        ),
        Resource(
            kind="Node",
            group="",
            version="v1",
            plural="nodes",
            field_selector=f"metadata.name={node_name}",
        ),
        Resource(
            kind="ServiceCIDR",
            group="networking.k8s.io",
            version="v1",
            plural="servicecidrs",
            is_optional=True,
        ),
    )
