"""`sliceproxy explain` on what nobody should write: whatever a file holds, the answer keeps its form.

Valid manifests are broken in random places, first as objects and then as bytes. Nothing may be raised, and exit code
0 promises a document that has exactly the fields of the contract, each of its type.
"""

import json
import random
from typing import Any, Final

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.manifest_strategies import Wire, worlds
from tests.unit.proxy.explaining import ENDPOINT_KEYS, KEYS, ask

ODD: Final[list[object]] = [
    *(None, True, False, 0, 1, -1, 80, 65536, 1 << 70, 1.5, float("inf"), float("nan")),
    *(
        "",
        " ",
        "web",
        "None",
        "null",
        "http",
        "Local",
        "ClientIP",
        "10.1.0.1",
        "::1",
        "fe80::1%eth0",
    ),
    *("\x00", "\n", "\x1b[2J", "é€😀", "\u2028", "1" * 5000, "a/b", "10.0.0.0/8", "0/0", "::/129"),
    *([], {}, [None], [[]], [{}], {"": None}, {"name": 5}, [1, "a", None, {}]),
]


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the paths of everything inside a value."""
    keys: Any = (
        value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    )
    found = [path] if path else []
    for key in keys:
        found += places(value[key], (*path, key))
    return found


def broken(objects: list[Wire], chance: random.Random, times: int) -> list[Any]:
    """Return the objects with something changed, dropped or doubled in a few places."""
    result: list[Any] = json.loads(json.dumps(objects))
    for _ in range(times):
        paths = places(result)
        if not paths:
            break
        *way, last = chance.choice(paths)
        parent: Any = result
        for key in way:
            parent = parent[key]
        action = chance.randrange(4)
        if action == 0:
            del parent[last]
        elif action == 1 and isinstance(parent, list):
            parent.insert(last, parent[last])
        elif action == 2 and isinstance(parent, dict):
            parent[chance.choice(["spec", "kind", "items", "name", "labels", ""])] = parent[last]
        else:
            parent[last] = chance.choice(ODD)
    return result


def garbled(data: bytes, chance: random.Random, times: int) -> bytes:
    """Return the bytes with some of them replaced, dropped or doubled."""
    for _ in range(times):
        start = chance.randrange(len(data) + 1)
        end = min(len(data), start + chance.choice([0, 1, 1, 2, 10]))
        filler = chance.choice(
            [b"", b"\xff", b"\x00", b"\t", b"\n", b": ", b"- ", b"{", b"]", b"&a ", b"*a "]
        )
        filler = chance.choice(
            [
                filler,
                filler,
                b"---\n",
                b"!!python/object:os.system ",
                b'"',
                b"\\ud800",
                data[start:end] * 2,
            ]
        )
        data = data[:start] + filler + data[end:]
    return data


def check_document(document: Wire) -> None:
    assert list(document) == KEYS
    assert isinstance(document["servicePort"], str)
    assert document["protocol"] in ("TCP", "UDP", "SCTP")
    assert document["family"] in ("IPv4", "IPv6")
    assert (document["node"], isinstance(document["zone"], str)) == ("n1", True)
    assert document["topology"] in ("SameNode", "SameZone", "")
    assert isinstance(document["anyUsable"], bool)
    assert type(document["healthCheckNodePort"]) is int
    assert all(isinstance(text, str) for text in document["sourceRanges"])
    affinity = document["sessionAffinity"]
    assert affinity is None or [type(affinity.get("timeoutSeconds")), len(affinity)] == [int, 1]
    for frontend in document["frontends"]:
        assert list(frontend) == ["kind", "address", "port"]
        assert frontend["kind"] in ("ClusterIP", "NodePort", "ExternalIP", "LoadBalancer")
        assert (frontend["address"] is None) == (frontend["kind"] == "NodePort")
        assert 0 < frontend["port"] < 65536
    check_endpoints(document)


def check_endpoints(document: Wire) -> None:
    """Check the endpoints, and that the lists are made of those that are selected."""
    known = [e["address"] for e in document["endpoints"]]
    assert known == sorted(set(known))
    for endpoint in document["endpoints"]:
        assert list(endpoint) == ENDPOINT_KEYS
        flags = [endpoint[name] for name in ("ready", "serving", "terminating", "isLocal")]
        assert all(isinstance(flag, bool) for flag in flags)
        assert isinstance(endpoint["slice"], str)
        assert all(isinstance(endpoint[name], str | None) for name in ("nodeName", "zone"))
    for which in ("cluster", "local"):
        choices = [e[which] for e in document["endpoints"]]
        assert all(list(choice) == ["selected", "reason"] for choice in choices)
        selected = [e["address"] for e in document["endpoints"] if e[which]["selected"]]
        assert (document[which] or []) == selected
        assert document[which] is not None or {c["reason"] for c in choices} <= {"policy-unused"}
    either = {*(document["cluster"] or ()), *(document["local"] or ())}
    assert document["reachable"] == [address for address in known if address in either]


def check(data: bytes, name: str) -> None:
    """Ask about all services and about one, and check whatever comes."""
    for arguments, output in (((), "json"), (("web",), "json"), ((), "text")):
        answer = ask(data, *arguments, name=name, output=output)

        is_file_broken = any(each.startswith("warning: File ") for each in answer.warnings)
        assert answer.code in ((0, 1) if arguments or is_file_broken else (0,))
        assert "\x1b" not in answer.stdout + answer.stderr
        if answer.code == 1:
            assert answer.stdout == ""
        elif output == "json":
            assert answer.stdout.isascii()
            for document in answer.documents:
                check_document(document)


chances = st.integers(0, 1 << 32).map(random.Random)
json_files = st.booleans()


def written(objects: list[Any], is_json: bool) -> tuple[bytes, str]:
    if is_json:
        return json.dumps({"kind": "List", "items": objects}).encode(), "objects.json"
    return yaml.safe_dump_all(objects, allow_unicode=True).encode(), "objects.yaml"


@settings(max_examples=60, deadline=None)
@given(worlds, chances, st.integers(1, 6), json_files)
def test_broken_objects(
    objects: list[Wire], chance: random.Random, times: int, is_json: bool
) -> None:
    check(*written(broken(objects, chance, times), is_json))


@settings(max_examples=60, deadline=None)
@given(worlds, chances, st.integers(1, 6), json_files)
def test_garbled_files(
    objects: list[Wire], chance: random.Random, times: int, is_json: bool
) -> None:
    data, name = written(objects, is_json)

    check(garbled(data, chance, times), name)
