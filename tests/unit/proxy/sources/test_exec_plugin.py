"""Plugins are run as kubectl runs them; one that hangs, fails or talks nonsense is the operator's to know."""

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from proxy.errors import ApiError, ConfigError
from proxy.sources import exec_plugin

VERSION = "client.authentication.k8s.io/v1"
# Environment and answer of a plugin go through files, so that a script needs nothing but a shell.
SCRIPT = '#!/bin/sh\nprintf %s "$KUBERNETES_EXEC_INFO" > "$OUT/info"\nprintf %s "$*" > "$OUT/args"\ncat "$OUT/answer"\n'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    _script(tmp_path, SCRIPT)
    return tmp_path


def _script(folder: Path, text: str) -> None:
    (folder / "plugin").write_text(text)
    (folder / "plugin").chmod(0o755)


def _answer(folder: Path, status: dict[str, Any], version: str = VERSION) -> None:
    answer = {"kind": "ExecCredential", "apiVersion": version, "status": status}
    (folder / "answer").write_text(json.dumps(answer))


def _run(folder: Path, timeout_s: float = 20.0, **fields: Any) -> exec_plugin.Credential:
    section = {
        "command": "./plugin",
        "apiVersion": VERSION,
        "args": ["get", "token"],
        "env": [{"name": "OUT", "value": str(folder)}],
        **fields,
    }
    cluster = {"server": "https://api"}
    return exec_plugin.run(
        "file: exec", section, folder=str(folder), cluster=cluster, timeout_s=timeout_s
    )


def test_a_plugin_gives_a_token_and_says_how_long_it_holds(folder: Path) -> None:
    _answer(folder, {"token": "secret", "expirationTimestamp": "2026-01-01T00:00:00Z"})

    credential = _run(folder)

    assert credential == ("secret", "", "", 1767225600.0)
    assert (folder / "args").read_text() == "get token"
    assert json.loads((folder / "info").read_text()) == {
        "apiVersion": VERSION,
        "kind": "ExecCredential",
        "spec": {"interactive": False},
    }


def test_a_plugin_gives_a_certificate(folder: Path) -> None:
    _answer(folder, {"clientCertificateData": "cert", "clientKeyData": "key"})

    assert _run(folder, args=None) == ("", "cert", "key", float("inf"))


def test_the_older_version_is_understood(folder: Path) -> None:
    version = "client.authentication.k8s.io/v1beta1"
    _answer(folder, {"token": "secret"}, version)

    assert _run(folder, apiVersion=version).token == "secret"


def test_a_plugin_that_wants_to_know_the_cluster_is_told(folder: Path) -> None:
    _answer(folder, {"token": "secret"})

    _run(folder, provideClusterInfo=True)

    spec = json.loads((folder / "info").read_text())["spec"]
    assert spec == {"interactive": False, "cluster": {"server": "https://api"}}


def test_a_plugin_that_hangs_is_killed_with_all_it_started(folder: Path) -> None:
    _script(
        folder, '#!/bin/sh\nsleep 1000 &\necho $! > "$OUT/new"; mv "$OUT/new" "$OUT/child"\nwait\n'
    )
    began_s, limit_s = time.monotonic(), 0.5

    # a shell that is slow needs more time to get so far
    while not (folder / "child").exists():
        with pytest.raises(ApiError, match=f"exec: .*plugin gave no answer within {limit_s:g} s"):
            _run(folder, timeout_s=limit_s)
        limit_s *= 4

    assert time.monotonic() - began_s < 100
    child = int((folder / "child").read_text())
    assert not _is_running(child)


def _is_running(pid: int) -> bool:
    """Whether a process still does something: a killed orphan may take a moment to be reaped."""
    deadline_s = time.monotonic() + 10
    while time.monotonic() < deadline_s:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return False
        if state == "Z":
            return False
        os.sched_yield()
    return True


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("#!/bin/sh\necho no login >&2\nexit 3\n", "failed with status 3: no login"),
        ("#!/bin/sh\necho secret\n", "printed no ExecCredential"),
        ("#!/bin/sh\nprintf '\\377'\n", "printed no ExecCredential"),
        ("no script at all", "Exec format error"),
    ],
)
def test_a_plugin_that_fails_is_told_in_its_own_words(
    folder: Path, script: str, words: str
) -> None:
    _script(folder, script)

    with pytest.raises((ConfigError, ApiError), match=f"^file: exec.*{words}") as caught:
        _run(folder)

    assert isinstance(caught.value, ApiError) == (
        "status" in words
    )  # the others will not get better
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("status", "words"),
    [
        ({}, "neither token nor certificate"),
        ({"clientCertificateData": "x"}, "certificate without key"),
        ({"token": "x", "clientKeyData": "x"}, "key without certificate"),
        ({"token": "x", "expirationTimestamp": "soon"}, "expirationTimestamp that is no time"),
        ({"token": 1}, "printed no ExecCredential"),
    ],
)
def test_an_answer_that_is_not_enough_is_refused(
    folder: Path, status: dict[str, Any], words: str
) -> None:
    _answer(folder, status)

    with pytest.raises(ConfigError, match=words):
        _run(folder)


def test_an_answer_of_another_version_is_refused(folder: Path) -> None:
    _answer(folder, {"token": "x"}, "client.authentication.k8s.io/v1beta1")

    with pytest.raises(ConfigError, match=r"answered with ExecCredential .*v1beta1"):
        _run(folder)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"command": "./missing"}, "command: .*missing: No such file"),
        ({"command": "no-such-plugin", "installHint": "brew it\n"}, r"No such file .*\(brew it\)"),
        ({"apiVersion": "v1alpha1"}, "apiVersion: must be client.authentication.k8s.io/v1 or"),
        ({"interactiveMode": "Always"}, "interactiveMode: nobody is there"),
        ({"args": "x"}, "Expected array | null, got str"),
    ],
)
def test_a_section_that_cannot_be_used_is_told_by_its_field(
    folder: Path, fields: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=f"^file: exec.*{words}"):
        _run(folder, **fields)
