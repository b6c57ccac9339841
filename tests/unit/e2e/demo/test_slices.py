"""The manifests of the demo: read from examples/, replaced at each step, and understood by the real reader."""

import time
from pathlib import Path

import pytest
import yaml

from e2e.demo import slices
from e2e.demo.slices import Listing, Pod
from e2e.topology import Addresses
from proxy.cache import Cache
from proxy.model import Endpoint, NodeInfo, ServiceName
from proxy.sources.manifests import load

EXAMPLES = Path(__file__).parents[4] / "examples" / "demo"
POD = Pod("web-9", "node-b", "zone-b", Addresses("10.244.2.9", "fd00:10:244:2::9"))
OTHER = Pod("web-8", "node-c", "zone-c", Addresses("10.244.3.8", "fd00:10:244:3::8"))


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A copy of the examples."""
    for file in EXAMPLES.iterdir():
        (tmp_path / file.name).write_text(file.read_text())
    return tmp_path


def endpoints(directory: Path) -> dict[str, list[Endpoint]]:
    """What the daemon would make of the directory: family → endpoints."""
    cache = Cache(NodeInfo(name="node-a"))
    events, warnings = load(directory, "node-a")
    cache.apply(events, 0.0)
    assert (warnings, dict(cache.problems)) == ((), {})
    merged = cache.endpoints(ServiceName("shop", "web"))
    return {family: list(found.endpoints) for (family, _), found in merged.items()}


def test_the_examples_name_three_nodes_in_three_zones() -> None:
    assert slices.zones(EXAMPLES / "nodes.yaml") == {
        "node-a": "zone-a",
        "node-b": "zone-b",
        "node-c": "zone-c",
    }


def test_the_pods_to_start_with_are_those_of_the_examples() -> None:
    pods = slices.listed_pods(EXAMPLES / "endpointslices.yaml")

    assert [pod.name for pod in pods] == ["web-1", "web-2", "web-3"]
    assert pods[1] == Pod("web-2", "node-b", "zone-b", Addresses("10.244.2.2", "fd00:10:244:2::2"))


def test_both_families_list_what_was_written_and_nothing_else(directory: Path) -> None:
    file = directory / "endpointslices.yaml"

    slices.write(file, [Listing(POD, "ready"), Listing(OTHER, "terminating")])

    assert slices.listed_pods(file) == [POD, OTHER]
    found = endpoints(directory)
    assert {
        family: [(e.address, e.ready, e.serving, e.terminating) for e in listed]
        for family, listed in found.items()
    } == {
        "IPv4": [
            ("10.244.2.9:8080", True, True, False),
            ("10.244.3.8:8080", False, True, True),
        ],
        "IPv6": [
            ("[fd00:10:244:2::9]:8080", True, True, False),
            ("[fd00:10:244:3::8]:8080", False, True, True),
        ],
    }


def test_no_pod_at_all_can_be_listed(directory: Path) -> None:
    slices.write(directory / "endpointslices.yaml", [])

    assert not any(endpoints(directory).values())


def test_only_hinted_pods_are_for_a_zone_their_own(directory: Path) -> None:
    slices.write(
        directory / "endpointslices.yaml",
        [Listing(POD, "ready", is_hinted=True), Listing(OTHER, "ready")],
    )

    hints = {e.node_name: e.zone_hints for e in endpoints(directory)["IPv4"]}
    assert hints == {"node-b": frozenset({"zone-b"}), "node-c": None}


def test_a_change_is_a_rename_and_its_time_is_just_before(directory: Path) -> None:
    file = directory / "endpointslices.yaml"
    old_inode = file.stat().st_ino
    with file.open() as opened_before:
        begun_s = time.monotonic()
        renamed_s = slices.write(file, [Listing(POD, "ready")])
        ended_s = time.monotonic()

        # whoever has the old file open still reads the old state, whole
        assert len(next(iter(yaml.safe_load_all(opened_before)))["endpoints"]) == 3

    assert begun_s <= renamed_s <= ended_s
    assert file.stat().st_ino != old_inode
    assert sorted(entry.name for entry in directory.iterdir()) == sorted(
        entry.name for entry in EXAMPLES.iterdir()
    )
