"""Files are read into one mapping, or refused with the name of the file and what is wrong."""

import pytest

from proxy.config import document
from proxy.config.kubeproxy import KubeProxyConfiguration
from proxy.errors import ConfigError


def _read(content: str | bytes) -> document.Document:
    data = content.encode() if isinstance(content, str) else content
    return document.read("f.conf", lambda _: data)


def test_yaml_and_json_are_read_alike() -> None:
    expected = {"kind": "X", "a": {"b": [1, 2]}}

    assert _read("kind: X\na:\n  b: [1, 2]\n").data == expected
    assert _read('{"kind": "X", "a": {"b": [1, 2]}}').data == expected
    assert _read('\ufeff  {"kind": "X", "a": {"b": [1, 2]}}').data == expected


def test_a_yaml_flow_mapping_is_not_mistaken_for_json() -> None:
    assert _read("{kind: X, a: 1}").data == {"kind": "X", "a": 1}


def test_null_means_not_set_and_is_remembered() -> None:
    read = _read("a: null\nb: {c: ~, d: 1}\ne: {f: null}\n")

    assert read.data == {"b": {"d": 1}, "e": {}}
    assert read.nulls == {"a", "b.c", "e.f"}


@pytest.mark.parametrize("text", ["a: 1\na: 2\n", '{"a": 1, "a": 2}'], ids=["yaml", "json"])
def test_a_repeated_key_is_a_warning_and_the_last_one_counts(text: str) -> None:
    read = _read(text)

    assert read.data == {"a": 2}
    [warning] = read.warnings
    assert warning.startswith("f.conf: ")
    assert "a stands twice; the last one counts" in warning


def test_only_the_first_of_several_documents_is_read() -> None:
    read = _read("---\na: 1\n---\nb: 2\n---\n")

    assert read.data == {"a": 1}
    assert read.warnings == ("f.conf: holds 2 documents; only the first is read",)


def test_keys_that_are_no_text_are_read_as_text() -> None:
    assert _read("2: x\ntrue: y\n").data == {"2": "x", "True": "y"}


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", "f.conf: must hold one object with apiVersion and kind, got an empty file"),
        ("---\n", "f.conf: must hold one object with apiVersion and kind, got an empty file"),
        ("- a\n", "f.conf: must hold one object with apiVersion and kind, got a list"),
        ("text", "f.conf: must hold one object with apiVersion and kind, got a str"),
        ("a: [", "f.conf: line 1, column 5: "),
        (b"a: \xff", "f.conf: is not UTF-8 text: invalid start byte at byte 3"),
    ],
)
def test_what_is_no_object_is_refused(content: str | bytes, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        _read(content)

    assert str(caught.value).startswith(problem)


def test_a_file_that_cannot_be_read_is_refused_with_the_reason() -> None:
    def denied(path: str) -> bytes:
        raise PermissionError(13, "Permission denied", path)

    with pytest.raises(ConfigError, match=r"^f\.conf: cannot be read: Permission denied$"):
        document.read("f.conf", denied)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (
            {"apiVersion": "v1", "kind": "ConfigMap"},
            "kind: this is the ConfigMap itself; give the file of the key that holds K",
        ),
        ({"apiVersion": "g/v1"}, "kind: must be K, got none"),
        ({"apiVersion": "g/v1", "kind": "k"}, "kind: must be K, got 'k'"),
        ({"kind": "K"}, "apiVersion: must be g/v1, got none"),
        ({"apiVersion": "g/v2", "kind": "K"}, "apiVersion: must be g/v1, got 'g/v2'"),
    ],
)
def test_another_version_or_kind_is_refused(data: dict[str, object], problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        document.check_kind("f.conf", data, "g/v1", "K")

    assert str(caught.value) == f"f.conf: {problem}"


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        ({"mode": 1}, "mode: expected str, got int"),
        ({"iptables": {"masqueradeBit": "14"}}, "iptables.masqueradeBit: expected int | null, got str"),
        ({"iptables": {"masqueradeAll": "true"}}, "iptables.masqueradeAll: expected bool, got str"),
        ({"iptables": []}, "iptables: expected object, got array"),
        ({"nodePortAddresses": "primary"}, "nodePortAddresses: expected array, got str"),
        ({"nodePortAddresses": ["10.0.0.0/8", 5]}, "nodePortAddresses[1]: expected str, got int"),
        ({"iptables": {"syncPeriod": 30}}, "iptables.syncPeriod: must be a duration in quotes or with a unit, such as 30s, got 30"),
        ({"iptables": {"syncPeriod": "30"}}, "iptables.syncPeriod: '30' is not a duration: write a number with a unit, such as 30s, 1m30s, 1h or 500ms"),
        ({"conntrack": {"tcpEstablishedTimeout": "x"}}, "conntrack.tcpEstablishedTimeout: 'x' is not a duration"),
    ],
)  # fmt: skip
def test_a_value_of_the_wrong_type_is_refused_with_its_field(
    data: dict[str, object], problem: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        document.convert("f.conf", data, KubeProxyConfiguration)

    assert str(caught.value).startswith(f"f.conf: {problem}")
