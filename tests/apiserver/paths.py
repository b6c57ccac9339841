"""What a path leads to, and a request as an authorizer sees it: a verb and a resource."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from tests.apiserver import resources
from tests.apiserver.resources import Resource


class Target(NamedTuple):
    """A collection, or one object of it. `name` is empty for a collection, `namespace` for all of them."""

    resource: Resource
    namespace: str
    name: str


@dataclass
class Recorded:
    """A request that came. `code` is what was answered, 0 while that is being done."""

    verb: str
    group: str
    resource: str
    namespace: str
    name: str
    path: str
    query: Mapping[str, str]
    user: str = ""
    code: int = 0


def target(path: str) -> Target | None:
    """`/api/v1/namespaces/a/services/b` and its shorter forms; None for any other path."""
    parts = path.strip("/").split("/")
    length = 2 if parts[0] == "api" else 3
    prefix, rest = "/" + "/".join(parts[:length]), parts[length:]
    namespace = ""
    if len(rest) >= 3 and rest[0] == "namespaces":
        namespace, rest = rest[1], rest[2:]
    if not 1 <= len(rest) <= 2:
        return None
    resource = resources.of_path(prefix, rest[0])
    if resource is None or resource.is_namespaced < bool(namespace):
        return None
    if len(rest) == 2 and resource.is_namespaced and not namespace:
        return None
    return Target(resource, namespace, rest[1] if len(rest) == 2 else "")


def recorded(method: str, path: str, query: Mapping[str, str], goal: Target | None) -> Recorded:
    """The verb is the one of RBAC rules: a GET is a get, a list or a watch."""
    verb = method.lower()
    if goal is None:
        return Recorded(verb, "", "", "", "", path, query)
    if verb == "get" and not goal.name:
        verb = "watch" if is_watch(query) else "list"
    verb = {"post": "create", "put": "update"}.get(verb, verb)
    resource = goal.resource
    return Recorded(verb, resource.group, resource.name, goal.namespace, goal.name, path, query)


def is_watch(query: Mapping[str, str]) -> bool:
    """Whether the parameters make a list a watch."""
    return query.get("watch", "false").lower() not in ("false", "0", "")
