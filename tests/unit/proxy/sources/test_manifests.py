"""A directory or a file is read as kubectl reads it, and read again as cheaply as can be."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from proxy.model import NodeInfo, Service
from proxy.sources.events import KINDS, Delete, Event, Problems, Synced, Upsert
from proxy.sources.manifests import Manifests, is_manifest, load
from tests.builders import ABSENT, make_list, make_node, make_service, make_slice


def _write(path: Path, *documents: dict[str, Any]) -> Path:
    path.write_text("---\n".join(yaml.safe_dump(document) for document in documents))
    return path


def _names(events: list[Event]) -> list[str]:
    return [
        event.object.name.name if isinstance(event.object, Service) else event.object.name
        for event in events
        if isinstance(event, Upsert)
    ]


def _problems(events: list[Event]) -> dict[str, list[str]]:
    return {
        event.object: [str(rejected) for rejected in event.rejected]
        for event in events
        if isinstance(event, Problems)
    }


def test_a_directory_is_read_without_what_lies_below_or_is_hidden(tmp_path: Path) -> None:
    _write(tmp_path / "a.yaml", make_service("a"))
    _write(tmp_path / "b.yml", make_service("b"))
    (tmp_path / "c.json").write_text(json.dumps(make_service("c")))
    _write(tmp_path / "d.txt", make_service("d"))
    _write(tmp_path / ".e.yaml", make_service("e"))
    (tmp_path / "f.yaml").mkdir()
    _write(tmp_path / "f.yaml" / "f.yaml", make_service("f"))

    events, warnings = load(tmp_path, "node-1")

    assert _names(events) == ["a", "b", "c"]
    assert [event for event in events if isinstance(event, Synced)] == [
        Synced(kind) for kind in KINDS
    ]
    assert _problems(events) == {}
    assert warnings == ()


def test_a_single_file_is_read_whatever_it_is_called(tmp_path: Path) -> None:
    path = _write(tmp_path / "cluster.dump", make_list([make_service("a"), make_slice("b")]))

    assert _names(load(path, "node-1")[0]) == ["a", "b"]


def test_a_pipe_can_stand_in_for_a_file() -> None:
    reading, writing = os.pipe()
    os.write(writing, json.dumps(make_service("a")).encode())
    os.close(writing)
    try:
        events, _ = load(Path(f"/dev/fd/{reading}"), "node-1")
    finally:
        os.close(reading)

    assert _names(events) == ["a"]


def test_a_path_that_does_not_exist_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "nothing", "node-1")


def test_objects_without_a_namespace_are_in_the_default_one(tmp_path: Path) -> None:
    _write(tmp_path / "a.yaml", make_service("a", metadata={"namespace": ABSENT}))

    [event, *_] = load(tmp_path, "node-1")[0]

    assert isinstance(event, Upsert)
    assert isinstance(event.object, Service)
    assert event.object.name.namespace == "default"


def test_of_the_nodes_only_the_own_one_comes_out(tmp_path: Path) -> None:
    _write(tmp_path / "nodes.yaml", make_list(make_node(f"node-{index}") for index in range(3)))

    events, _ = load(tmp_path, "node-1")

    assert [event.object for event in events if isinstance(event, Upsert)] == [
        NodeInfo(
            name="node-1",
            zone="zone-a",
            addresses=("192.0.2.1",),
            pod_cidrs=("10.244.1.0/24",),
            is_known=True,
            resource_version="1",
        )
    ]


def test_the_same_object_twice_is_warned_of_with_both_places(tmp_path: Path) -> None:
    first = _write(
        tmp_path / "a.yaml", make_slice(), make_service("web", cluster_ips=["10.96.0.1"])
    )
    second = _write(tmp_path / "b.yaml", make_service("web", cluster_ips=["10.96.0.2"]))

    events, warnings = load(tmp_path, "node-1")

    services = [event.object for event in events if isinstance(event, Upsert)]
    assert isinstance(services[-1], Service)
    assert services[-1].ports[0].cluster_ip == "10.96.0.2"
    line = first.read_text().splitlines().index("---") + 2
    assert warnings == (
        f"Service default/web stands both in {first}:{line} and in {second}:1: the latter is used",
    )


def test_a_file_that_does_not_parse_costs_only_itself(tmp_path: Path) -> None:
    bad = tmp_path / "a.yaml"
    bad.write_text("kind: Service\nmetadata: [\n")
    _write(tmp_path / "b.yaml", make_service("b"))

    events, _ = load(tmp_path, "node-1")

    assert _names(events) == ["b"]
    [reason] = _problems(events)[f"File {bad}"]
    assert reason.startswith(f"File {bad} line 3:")


def test_a_file_that_cannot_be_read_costs_only_itself(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").symlink_to("a.yaml")  # a loop, which root cannot read either
    _write(tmp_path / "b.yaml", make_service("b"))
    (tmp_path / "c.yaml").symlink_to("nowhere")

    events, _ = load(tmp_path, "node-1")

    assert _names(events) == ["b"]
    assert list(_problems(events)) == [f"File {tmp_path / 'a.yaml'}"]


@pytest.fixture
def manifests(tmp_path: Path) -> Manifests:
    _write(tmp_path / "a.yaml", make_service("a"))
    _write(tmp_path / "b.yaml", make_service("b"))
    manifests = Manifests(tmp_path, "node-1")
    manifests.read_all()
    return manifests


def test_nothing_differs_right_after_reading(manifests: Manifests) -> None:
    assert manifests.differences() == {}
    assert manifests.read_all().events == []


def test_only_files_that_differ_are_read_again(manifests: Manifests, tmp_path: Path) -> None:
    _write(tmp_path / "a.yaml", make_service("a", cluster_ips=["10.96.9.9"]))
    _write(tmp_path / "c.yaml", make_service("c"))
    (tmp_path / "b.yaml").unlink()

    assert set(manifests.differences()) == {str(tmp_path / f"{name}.yaml") for name in "abc"}
    events = manifests.read_all().events

    assert _names(events) == ["a", "c"]
    assert [event for event in events if isinstance(event, Delete)] == [
        Delete("Service", "default", "b")
    ]
    assert manifests.differences() == {}


def test_a_file_that_stops_parsing_keeps_its_objects_until_it_parses_again(
    manifests: Manifests, tmp_path: Path
) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("{")
    events = manifests.read([str(path)]).events
    assert list(map(type, events)) == [Problems]
    assert "its last good content stays" in _problems(events)[f"File {path}"][0]

    _write(path, make_service("other"))
    events = manifests.read([str(path)]).events

    assert _names(events) == ["other"]
    assert Delete("Service", "default", "a") in events
    assert _problems(events) == {f"File {path}": []}


def test_a_file_that_vanished_takes_its_objects_along(
    manifests: Manifests, tmp_path: Path
) -> None:
    path = tmp_path / "a.yaml"
    path.unlink()

    assert manifests.read([str(path)]).events == [Delete("Service", "default", "a")]


def test_a_vanished_path_is_an_error_and_changes_nothing(
    manifests: Manifests, tmp_path: Path
) -> None:
    elsewhere = tmp_path.with_name(f"{tmp_path.name}-moved")
    tmp_path.rename(elsewhere)

    with pytest.raises(FileNotFoundError):
        manifests.read_all()

    elsewhere.rename(tmp_path)
    assert manifests.read_all().events == []


def test_symbolic_links_are_followed_and_remembered(manifests: Manifests, tmp_path: Path) -> None:
    target = tmp_path / "elsewhere"
    target.mkdir()
    _write(target / "real", make_service("linked"))
    (tmp_path / "c.yaml").symlink_to(target / "real")

    assert _names(manifests.read_all().events) == ["linked"]
    assert manifests.links == {str(tmp_path / "c.yaml")}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.yaml", True),
        ("a.yml", True),
        ("a.json", True),
        ("a.yaml~", False),
        (".a.yaml", False),
        ("a", False),
    ],
)
def test_manifests_are_told_by_their_names(name: str, expected: bool) -> None:
    assert is_manifest(name) is expected


def test_an_offline_command_need_not_import_an_event_loop() -> None:
    code = (
        "import sys, proxy.sources.manifests;"
        "print([name for name in ('asyncio', 'uvloop', 'aiohttp', 'inotify_simple', 'logging', 'ssl')"
        " if name in sys.modules])"
    )

    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )

    assert result.stdout == "[]\n"
