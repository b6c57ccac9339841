"""Exec credential plugins of a kubeconfig (client.authentication.k8s.io/v1 and v1beta1). Shell; blocks.

The kubernetes package runs these without a time limit and answers a failure with a log line and no credentials, so
they are run here: a plugin that hangs is killed with all it has started, and what it says is checked.
"""

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from proxy.errors import ApiError, ConfigError

VERSIONS: Final = ("client.authentication.k8s.io/v1", "client.authentication.k8s.io/v1beta1")
_LONGEST_COMPLAINT: Final = 400


class _Variable(msgspec.Struct):
    name: str
    value: str = ""


class Plugin(msgspec.Struct, rename="camel"):
    """The `exec` section of a user."""

    command: str
    api_version: str
    args: list[str] | None = None
    env: list[_Variable] | None = None
    install_hint: str = ""
    provide_cluster_info: bool = False
    interactive_mode: str = ""


class _Status(msgspec.Struct, rename="camel"):
    token: str = ""
    client_certificate_data: str = ""
    client_key_data: str = ""
    expiration_timestamp: str = ""


class _Answer(msgspec.Struct, rename="camel"):
    kind: str
    api_version: str
    status: _Status


class Credential(NamedTuple):
    """What a plugin came up with: a token, or a certificate and its key as PEM text, or both."""

    token: str
    certificate: str
    key: str
    expires_s: float
    """Unix time; infinity where the plugin does not say."""


def run(
    where: str,
    section: object,
    *,
    folder: str,
    cluster: Mapping[str, object],
    timeout_s: float,
) -> Credential:
    """Run the plugin that `section` describes and return its credential.

    `folder` is that of the kubeconfig, to which a relative command refers. Raises ConfigError, beginning with `where`, and
    ApiError if the plugin could not do its work, which it may at another time.
    """
    try:
        plugin = msgspec.convert(section, Plugin)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{where}: {str(error).replace('`', '')}") from error
    if plugin.api_version not in VERSIONS:
        raise ConfigError(
            f"{where}.apiVersion: must be {' or '.join(VERSIONS)}, got {plugin.api_version!r}"
        )
    if plugin.interactive_mode == "Always":
        raise ConfigError(f"{where}.interactiveMode: nobody is there to answer the plugin")
    return _read(where, plugin, _call(where, plugin, folder, cluster, timeout_s))


def _call(
    where: str, plugin: Plugin, folder: str, cluster: Mapping[str, object], timeout_s: float
) -> bytes:
    command = plugin.command
    if "/" in command:
        command = str(Path(folder) / command)
    try:
        process = subprocess.Popen(
            [command, *(plugin.args or ())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=_environment(plugin, cluster),
            start_new_session=True,
        )
    except OSError as error:
        hint = f" ({plugin.install_hint.strip()})" if plugin.install_hint else ""
        raise ConfigError(f"{where}.command: {command}: {error.strerror}{hint}") from error
    with process:
        try:
            output, complaint = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired as error:
            _kill(process)
            raise ApiError(
                f"{where}: {command} gave no answer within {timeout_s:g} s and was killed"
            ) from error
    if process.returncode != 0:
        words = " ".join(complaint.decode("utf-8", "replace").split())[-_LONGEST_COMPLAINT:]
        raise ApiError(f"{where}: {command} failed with status {process.returncode}: {words}")
    return output


def _kill(process: "subprocess.Popen[bytes]") -> None:
    """End the plugin and whatever it has started, which may hold the pipes open."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _environment(plugin: Plugin, cluster: Mapping[str, object]) -> dict[str, str]:
    spec: dict[str, object] = {"interactive": False}
    if plugin.provide_cluster_info:
        spec["cluster"] = cluster
    info = {"apiVersion": plugin.api_version, "kind": "ExecCredential", "spec": spec}
    own = {variable.name: variable.value for variable in plugin.env or ()}
    return {**os.environ, **own, "KUBERNETES_EXEC_INFO": json.dumps(info)}


def _read(where: str, plugin: Plugin, output: bytes) -> Credential:
    try:
        answer = msgspec.json.decode(output, type=_Answer)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        # The output itself is never shown: it may hold a secret.
        raise ConfigError(
            f"{where}: {plugin.command} printed no ExecCredential: {error}"
        ) from error
    status = answer.status
    if answer.kind != "ExecCredential" or answer.api_version != plugin.api_version:
        raise ConfigError(
            f"{where}: {plugin.command} answered with {answer.kind} {answer.api_version},"
            f" not ExecCredential {plugin.api_version}"
        )
    if bool(status.client_certificate_data) != bool(status.client_key_data):
        raise ConfigError(
            f"{where}: {plugin.command} printed a certificate without key, or a key without certificate"
        )
    if not status.token and not status.client_certificate_data:
        raise ConfigError(f"{where}: {plugin.command} printed neither token nor certificate")
    return Credential(
        token=status.token,
        certificate=status.client_certificate_data,
        key=status.client_key_data,
        expires_s=_unix_s(where, plugin, status.expiration_timestamp),
    )


def _unix_s(where: str, plugin: Plugin, text: str) -> float:
    if not text:
        return float("inf")
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError as error:
        raise ConfigError(
            f"{where}: {plugin.command} printed an expirationTimestamp that is no time: {text[:80]!r}"
        ) from error
