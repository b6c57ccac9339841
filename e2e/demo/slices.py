"""The EndpointSlices that the daemon reads: written anew at each step and renamed into place, all in one file.

Stands in for what the cluster does to its API objects; knows nothing of who reads them.
"""

import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import yaml

from e2e.topology import FAMILIES, Addresses, Family

State = Literal["ready", "terminating"]


class Pod(NamedTuple):
    """A pod of the service."""

    name: str
    node: str
    zone: str
    addresses: Addresses


class Listing(NamedTuple):
    """What the slices say of a pod. `is_hinted`: traffic for it should come from its own zone."""

    pod: Pod
    state: State
    is_hinted: bool = False


def zones(file: Path) -> dict[str, str]:
    """Node name → zone, in the order of the file."""
    return {
        node["metadata"]["name"]: node["metadata"]["labels"]["topology.kubernetes.io/zone"]
        for node in yaml.safe_load_all(file.read_text())
    }


def listed_pods(file: Path) -> list[Pod]:
    """The pods that a file of slices starts with. Both slices must list the same pods in the same order."""
    slices = _by_family(file)
    return [
        Pod(
            name=each["targetRef"]["name"],
            node=each["nodeName"],
            zone=each["zone"],
            addresses=Addresses(each["addresses"][0], other["addresses"][0]),
        )
        for each, other in zip(*(slices[family]["endpoints"] for family in FAMILIES), strict=True)
    ]


def write(file: Path, listings: Iterable[Listing]) -> float:
    """Have the slices in `file` list these pods and no other. Return the time just before the rename.

    The new content is complete before it gets the name, so no reader can see half of a change.
    """
    listings = list(listings)
    changed = _by_family(file)
    for family, document in changed.items():
        document["endpoints"] = [_endpoint(listing, family) for listing in listings]
    unfinished = file.with_name(f".{file.name}.new")
    unfinished.write_text(yaml.safe_dump_all(changed.values(), sort_keys=False))
    renamed_s = time.monotonic()
    os.replace(unfinished, file)  # noqa: PTH105 - as close to the clock as it gets
    return renamed_s


def documents(file: Path) -> list[dict[str, Any]]:
    """The slices in a file."""
    return list(yaml.safe_load_all(file.read_text()))


def _by_family(file: Path) -> Mapping[Family, dict[str, Any]]:
    return {each["addressType"]: each for each in documents(file)}


def _endpoint(listing: Listing, family: Family) -> dict[str, Any]:
    pod, is_ready = listing.pod, listing.state == "ready"
    endpoint: dict[str, Any] = {
        "addresses": [pod.addresses.of(family)],
        # a pod that is told to stop is never ready, but goes on serving until it has ended (KEP-1672)
        "conditions": {"ready": is_ready, "serving": True, "terminating": not is_ready},
        "nodeName": pod.node,
        "zone": pod.zone,
        "targetRef": {"kind": "Pod", "namespace": "shop", "name": pod.name},
    }
    if listing.is_hinted:
        endpoint["hints"] = {"forZones": [{"name": pod.zone}]}
    return endpoint
