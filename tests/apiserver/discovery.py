"""Which kinds there are, as clients such as kubectl ask for it before anything else."""

from tests.apiserver.resources import RESOURCES, Object, Resource

_VERBS = ["create", "delete", "get", "list", "patch", "update", "watch"]
_VERSION = {
    "major": "1",
    "minor": "36",
    "gitVersion": "v1.36.0+stand-in",
    "gitCommit": "0000000000000000000000000000000000000000",
    "gitTreeState": "clean",
    "buildDate": "2026-01-01T00:00:00Z",
    "goVersion": "none",
    "compiler": "none",
    "platform": "linux/amd64",
}


def documents(address: str) -> dict[str, Object]:
    """Path → document, for every path of discovery."""
    groups = {one.group: one for one in RESOURCES if one.group}
    listed: Object = {
        "kind": "APIGroupList",
        "apiVersion": "v1",
        "groups": [_group(one) for one in groups.values()],
    }
    server = {"clientCIDR": "0.0.0.0/0", "serverAddress": address}
    versions: Object = {
        "kind": "APIVersions",
        "versions": ["v1"],
        "serverAddressByClientCIDRs": [server],
    }
    return {
        "/version": dict(_VERSION),
        "/api": versions,
        "/apis": listed,
        **{f"/apis/{name}": _group(one) for name, one in groups.items()},
        **{path: _resources(path) for path in {one.path for one in RESOURCES}},
    }


def _group(resource: Resource) -> Object:
    version = {"groupVersion": resource.api_version, "version": resource.version}
    return {
        "kind": "APIGroup",
        "apiVersion": "v1",
        "name": resource.group,
        "versions": [version],
        "preferredVersion": version,
    }


def _resources(path: str) -> Object:
    here = [one for one in RESOURCES if one.path == path]
    return {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": here[0].api_version,
        "resources": [
            {
                "name": one.name,
                "singularName": one.kind.lower(),
                "namespaced": one.is_namespaced,
                "kind": one.kind,
                "verbs": _VERBS,
                **({"shortNames": list(one.short_names)} if one.short_names else {}),
            }
            for one in here
        ],
    }
