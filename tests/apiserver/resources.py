"""What is served: the kinds, their paths, the fields that selectors may name, and the shape of an empty object."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

# What JSON can hold: the stand-in stores whatever it is given.
Object = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Resource:
    """One kind of object. `empty` is what a typed server writes for one without content, as in a bookmark."""

    group: str
    version: str
    name: str
    kind: str
    is_namespaced: bool
    short_names: tuple[str, ...] = ()
    fields: tuple[str, ...] = ()
    empty: Mapping[str, Any] = field(default_factory=dict)

    @property
    def api_version(self) -> str:
        """Group and version as objects spell them."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def path(self) -> str:
        """The path of the group and version."""
        return f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"

    @property
    def qualified(self) -> str:
        """The name as error messages spell it."""
        return f"{self.name}.{self.group}" if self.group else self.name

    def selectable(self, obj: Object) -> dict[str, str]:
        """The fields of the object that a field selector may name."""
        names = ("metadata.name", "metadata.namespace", *self.fields)
        return {name: _dig(obj, name) for name in names}


def _dig(obj: Object, path: str) -> str:
    value: object = obj
    for part in path.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return "" if value is None else str(value)


SERVICES = Resource(
    group="",
    version="v1",
    name="services",
    kind="Service",
    is_namespaced=True,
    short_names=("svc",),
    fields=("spec.clusterIP", "spec.type"),
    empty={"spec": {}, "status": {"loadBalancer": {}}},
)
NODES = Resource(
    group="",
    version="v1",
    name="nodes",
    kind="Node",
    is_namespaced=False,
    short_names=("no",),
    fields=("spec.unschedulable",),
    empty={
        "spec": {},
        "status": {"daemonEndpoints": {"kubeletEndpoint": {"Port": 0}}, "nodeInfo": {}},
    },
)
SLICES = Resource(
    group="discovery.k8s.io",
    version="v1",
    name="endpointslices",
    kind="EndpointSlice",
    is_namespaced=True,
    empty={"addressType": "", "endpoints": None, "ports": None},
)
SERVICE_CIDRS = Resource(
    group="networking.k8s.io",
    version="v1",
    name="servicecidrs",
    kind="ServiceCIDR",
    is_namespaced=False,
    empty={"spec": {}, "status": {}},
)
CORE_EVENTS = Resource(
    group="", version="v1", name="events", kind="Event", is_namespaced=True, short_names=("ev",)
)
EVENTS = Resource(
    group="events.k8s.io",
    version="v1",
    name="events",
    kind="Event",
    is_namespaced=True,
    short_names=("ev",),
)

RESOURCES = (SERVICES, NODES, SLICES, SERVICE_CIDRS, CORE_EVENTS, EVENTS)


def of_object(obj: Object) -> Resource | None:
    """The resource that an object says it is; None if it is none of ours."""
    wanted = obj.get("apiVersion"), obj.get("kind")
    return next((one for one in RESOURCES if (one.api_version, one.kind) == wanted), None)


def of_path(path: str, name: str) -> Resource | None:
    """The resource at a path such as `/api/v1` and `services`."""
    return next((one for one in RESOURCES if (one.path, one.name) == (path, name)), None)
