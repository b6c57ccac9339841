"""Kubernetes objects as files for the daemon under test: services of a world's pods, written as an operator would."""

import json
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from e2e.demo.daemon import Daemon
from e2e.namespace import TopologyError
from e2e.topology import FAMILIES, Addresses, Host, World
from tests.builders import make_endpoint, make_node, make_service, make_slice
from tests.effort import patience_s

NODE_NAME = "node"
REMOTE_NAME = "remote"
_LIMIT_S = patience_s(60.0)
_POLL_S = patience_s(0.02)

Wire = dict[str, Any]


def service(
    name: str, addresses: Addresses, ports: Sequence[tuple[str, str, int]], policy: str = "Cluster"
) -> Wire:
    """A service of both families with that internalTrafficPolicy. A port is given by name, protocol and number."""
    return make_service(
        name,
        cluster_ips=list(addresses),
        ports=[{"name": n, "protocol": p.upper(), "port": number} for n, p, number in ports],
        internalTrafficPolicy=policy,
    )


def slices(
    name: str, pods: Iterable[Host], ports: Sequence[tuple[str, str, int]], world: World
) -> list[Wire]:
    """The slices of a service, one for each family. A port is given by name, protocol and the pods' number."""
    listed = list(pods)
    return [
        make_slice(
            f"{name}-{family.lower()}",
            service=name,
            address_type=family,
            ports=[{"name": n, "protocol": p.upper(), "port": number} for n, p, number in ports],
            endpoints=[
                make_endpoint(pod.addresses.of(family), node=_node_of(pod, world))
                for pod in listed
            ],
        )
        for family in FAMILIES
    ]


def node(world: World) -> Wire:
    return make_node(NODE_NAME, internal_ips=list(world.node.addresses))


def _node_of(pod: Host, world: World) -> str:
    return NODE_NAME if pod in world.pods else REMOTE_NAME


class Directory:
    """A directory of manifests. A file is replaced in one step, as `kubectl` or a sync tool would do it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(exist_ok=True)

    def put(self, name: str, *objects: Wire) -> None:
        """Make `name` hold these objects, and no others."""
        self.put_text(name, json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}))

    def put_text(self, name: str, text: str) -> None:
        new = self.path.parent / f".{name}.new"
        new.write_text(text)
        new.replace(self.path / f"{name}.yaml")

    def remove(self, name: str) -> None:
        (self.path / f"{name}.yaml").unlink()


def until(is_so: Callable[[], object], what: str) -> None:
    """Wait until something is so. Raises TopologyError when that takes too long."""
    deadline_s = time.monotonic() + _LIMIT_S
    while not is_so():
        if time.monotonic() > deadline_s:
            raise TopologyError(f"{what}: not within {_LIMIT_S:g} s")
        time.sleep(_POLL_S)


def synced(daemon: Daemon) -> dict[str, Any]:
    """What the daemon says of itself once it has programmed everything."""
    state: dict[str, Any] = {}

    def is_synced() -> bool:
        daemon.check()
        state.update(daemon.state() or {})
        return bool(state.get("synced"))

    until(is_synced, "the daemon has programmed everything")
    return state


def address(number: int) -> Addresses:
    """A cluster IP of each family."""
    return Addresses(f"10.96.0.{number}", f"fd00:10:96::{number:x}")
