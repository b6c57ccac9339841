"""A kubeconfig means here what it means to kubectl, and a mistake in it is told by file and field."""

import base64
import json
import ssl
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trustme
import yaml

from proxy.errors import ConfigError
from proxy.sources import kubeconfig
from proxy.sources.access import Access

Write = Callable[..., Path]

SERVER = "https://10.0.0.1:6443"


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Return a function that writes a kubeconfig with one context and returns its path."""

    def write_file(
        user: dict[str, Any] | None = None, cluster: dict[str, Any] | None = None, **fields: Any
    ) -> Path:
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "here",
            "contexts": [
                {"name": "elsewhere", "context": {"cluster": "x", "user": "x"}},
                {"name": "here", "context": {"cluster": "c", "user": "u"}},
            ],
            "clusters": [{"name": "c", "cluster": {"server": SERVER, **(cluster or {})}}],
            "users": [{"name": "u", "user": user}],
            **fields,
        }
        path = tmp_path / "kubeconfig"
        path.write_text(yaml.safe_dump(document))
        return path

    return write_file


def _load(path: Path, master: str = "") -> Access:
    return kubeconfig.load(str(path), master=master, exec_timeout_s=20.0)


def _b64(blob: trustme.Blob) -> str:
    return base64.b64encode(blob.bytes()).decode()


def test_a_token_stands_in_a_header(write: Write) -> None:
    path = write({"token": "abc"})

    access = _load(path)

    assert access.server == SERVER
    assert access.headers == {"Authorization": "Bearer abc"}
    assert access.tls is not None
    assert access.tls.verify_mode is ssl.CERT_REQUIRED
    assert access.files == (str(path),)
    assert access.expires_s == float("inf")


def test_a_token_file_lies_beside_the_kubeconfig_and_is_stronger(
    write: Write, tmp_path: Path
) -> None:
    path = write({"tokenFile": "token", "token": "other"})
    (tmp_path / "token").write_text("from-file\n")

    access = _load(path)

    assert access.headers == {"Authorization": "Bearer from-file"}
    assert access.files == (str(path), str(tmp_path / "token"))


def test_a_name_and_password_are_basic_authentication(write: Write) -> None:
    access = _load(write({"username": "me", "password": "secret"}))

    assert access.headers == {"Authorization": f"Basic {base64.b64encode(b'me:secret').decode()}"}


@pytest.mark.parametrize("user", [None, {}])
def test_nobody_is_somebody(write: Write, user: dict[str, Any] | None) -> None:
    assert _load(write(user)).headers == {}


def test_a_context_without_user_is_nobody(write: Write) -> None:
    contexts = [{"name": "here", "context": {"cluster": "c"}}]

    assert _load(write(contexts=contexts)).headers == {}


def test_certificates_inside_the_file_never_touch_a_disk(
    write: Write, authority: trustme.CA, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate = authority.issue_cert("client")
    path = write(
        {
            "client-certificate-data": _b64(certificate.cert_chain_pems[0]),
            "client-key-data": _b64(certificate.private_key_pem),
        },
        {"certificate-authority-data": _b64(authority.cert_pem)},
    )

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a key was written to a file")

    monkeypatch.setattr(tempfile, "mkstemp", refuse)
    access = _load(path)

    assert access.tls is not None
    assert access.tls.cert_store_stats()["x509"] == 1
    assert access.files == (str(path),)


def test_certificates_in_files_lie_beside_the_kubeconfig(
    write: Write, authority: trustme.CA, tmp_path: Path
) -> None:
    certificate = authority.issue_cert("client")
    authority.cert_pem.write_to_path(str(tmp_path / "ca"))
    certificate.cert_chain_pems[0].write_to_path(str(tmp_path / "cert"))
    certificate.private_key_pem.write_to_path(str(tmp_path / "key"))
    path = write(
        {"client-certificate": "cert", "client-key": str(tmp_path / "key")},
        {"certificate-authority": "ca"},
    )

    access = _load(path)

    assert access.tls is not None
    assert access.tls.cert_store_stats()["x509"] == 1
    assert access.files == tuple(
        str(tmp_path / name) for name in ("kubeconfig", "ca", "cert", "key")
    )


def test_other_fields_of_the_cluster_are_heeded(write: Write) -> None:
    access = _load(
        write(
            cluster={
                "insecure-skip-tls-verify": True,
                "tls-server-name": "kubernetes",
                "proxy-url": "http://proxy:3128",
            }
        )
    )

    assert access.tls is not None
    assert access.tls.verify_mode is ssl.CERT_NONE
    assert (access.tls_server_name, access.proxy) == ("kubernetes", "http://proxy:3128")


def test_without_a_proxy_url_the_environment_counts(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://from-environment:1")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)

    assert _load(write()).proxy == "http://from-environment:1"
    assert _load(write(cluster={"server": "https://127.0.0.1:6443"})).proxy == ""


def test_a_server_may_be_asked_in_the_clear(write: Write) -> None:
    access = _load(write({"token": "abc"}, {"server": "http://127.0.0.1:8080/"}))

    assert (access.server, access.tls) == ("http://127.0.0.1:8080", None)


def test_the_flag_is_stronger_than_the_server_of_the_file(write: Write) -> None:
    path = write({"token": "abc"}, {"server": 7})

    access = _load(path, master="https://other:1")

    assert access.server == "https://other:1"
    assert access.headers == {"Authorization": "Bearer abc"}


def test_a_plugin_is_run_and_its_credential_used(
    write: Write, authority: trustme.CA, tmp_path: Path
) -> None:
    certificate = authority.issue_cert("client")
    status = {
        "token": "from-plugin",
        "clientCertificateData": certificate.cert_chain_pems[0].bytes().decode(),
        "clientKeyData": certificate.private_key_pem.bytes().decode(),
        "expirationTimestamp": "2026-01-01T00:00:00Z",
    }
    version = "client.authentication.k8s.io/v1"
    answer = {"kind": "ExecCredential", "apiVersion": version, "status": status}
    (tmp_path / "answer").write_text(json.dumps(answer))
    authority.cert_pem.write_to_path(str(tmp_path / "ca"))
    script = tmp_path / "plugin"
    script.write_text(
        f'#!/bin/sh\nprintf %s "$KUBERNETES_EXEC_INFO" > {tmp_path}/info\ncat {tmp_path}/answer\n'
    )
    script.chmod(0o755)
    section = {"command": "./plugin", "apiVersion": version, "provideClusterInfo": True}
    extension = {"name": "client.authentication.k8s.io/exec", "extension": {"audience": "x"}}

    access = _load(
        write({"exec": section}, {"certificate-authority": "ca", "extensions": [extension]})
    )

    assert access.headers == {"Authorization": "Bearer from-plugin"}
    assert access.expires_s == 1767225600.0
    assert json.loads((tmp_path / "info").read_text())["spec"]["cluster"] == {
        "server": SERVER,
        "certificate-authority-data": _b64(authority.cert_pem),
        "config": {"audience": "x"},
    }


def test_a_plugin_that_fails_is_told_by_its_field(write: Write) -> None:
    section = {"command": "./missing", "apiVersion": "client.authentication.k8s.io/v1"}
    path = write({"exec": section})

    with pytest.raises(ConfigError, match=rf"{path}: users\[u\].user.exec.command: .*missing"):
        _load(path)


@pytest.mark.parametrize(
    ("user", "cluster", "words"),
    [
        ({"tokenFile": "missing"}, {}, r"users\[u\].user.tokenFile: .*missing: cannot be read"),
        ({"tokenFile": 7}, {}, r"users\[u\].user.tokenFile: missing"),
        ({"token": "a b"}, {}, "the token holds characters"),
        ({}, {"server": ""}, r"clusters\[c\].cluster.server: missing"),
        ({}, {"server": "10.0.0.1"}, r"clusters\[c\].cluster.server: must be like https"),
        (
            {},
            {"certificate-authority": "missing"},
            r"clusters\[c\].cluster.certificate-authority: .*missing: cannot be read",
        ),
        (
            {},
            {"certificate-authority-data": "!"},
            "certificate-authority-data holds no certificate authority",
        ),
        ({}, {"certificate-authority-data": 7}, "certificate-authority-data: is no base64"),
        ({"client-key-data": "eA=="}, {}, "client-certificate and client-key need each other"),
        ({"client-certificate-data": "abc"}, {}, "client-certificate-data: is no base64"),
        (
            {"client-certificate-data": "eA==", "client-key-data": "eA=="},
            {},
            "the client certificate and its key cannot be used",
        ),
        ({}, {"proxy-url": "socks5://x"}, "proxy: only http:// and https:// proxies"),
        ({"auth-provider": {"name": "oidc", "config": {}}}, {}, "id-token"),
    ],
)
def test_a_mistake_is_told_by_its_field(
    write: Write, user: dict[str, Any], cluster: dict[str, Any], words: str
) -> None:
    path = write(user, cluster)

    with pytest.raises(ConfigError, match=f"^{path}: .*{words}"):
        _load(path)


def test_an_identity_provider_that_is_away_is_told(write: Write) -> None:
    claims = base64.urlsafe_b64encode(b'{"exp": 1}').decode().rstrip("=")
    config = {"id-token": f"a.{claims}.c", "idp-issuer-url": "http://127.0.0.1:1"}
    path = write({"auth-provider": {"name": "oidc", "config": config}})

    with pytest.raises(ConfigError, match=f"^{path}: .*127.0.0.1"):
        _load(path)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"current-context": ""}, "current-context: not set"),
        ({"current-context": "nowhere"}, "contexts: has no entry with the name 'nowhere'"),
        ({"current-context": "elsewhere"}, "clusters: has no entry with the name 'x'"),
        ({"contexts": None}, "contexts: has no entry with the name 'here'"),
        ({"users": []}, "users: has no entry with the name 'u'"),
        (
            {"contexts": [{"name": "here", "context": {}}]},
            r"contexts\[here\].context.cluster: missing",
        ),
        ({"contexts": [{"name": "here", "context": 7}]}, r"contexts\[here\].context: must be"),
    ],
)
def test_what_leads_nowhere_is_told(write: Write, fields: dict[str, Any], words: str) -> None:
    path = write(**fields)

    with pytest.raises(ConfigError, match=f"^{path}: {words}"):
        _load(path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty"),
        ("a: [", "is no YAML"),
        ("- a", "must be a kubeconfig"),
        ("{}", "current-context"),
    ],
)
def test_a_file_that_is_no_kubeconfig_is_told(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "kubeconfig").write_text(text)

    with pytest.raises(ConfigError, match=words):
        _load(tmp_path / "kubeconfig")


def test_a_file_that_is_missing_is_told() -> None:
    with pytest.raises(
        ConfigError, match="kubeconfig: /nowhere/kubeconfig: cannot be read: No such"
    ):
        _load(Path("/nowhere/kubeconfig"))


# The service account of a pod


@pytest.fixture
def account(tmp_path: Path, authority: trustme.CA) -> Path:
    (tmp_path / "token").write_text("from-account\n")
    authority.cert_pem.write_to_path(str(tmp_path / "ca.crt"))
    return tmp_path


@pytest.mark.parametrize(
    ("host", "server"),
    [("10.96.0.1", "https://10.96.0.1:443"), ("fd00::1", "https://[fd00::1]:443")],
)
def test_in_a_pod_its_service_account_is_used(account: Path, host: str, server: str) -> None:
    environ = {"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": "443"}

    access = kubeconfig.load_service_account(environ, account)

    assert access.server == server
    assert access.headers == {"Authorization": "Bearer from-account"}
    assert access.tls is not None
    assert access.tls.cert_store_stats()["x509"] == 1
    assert access.files == (str(account / "token"), str(account / "ca.crt"))


@pytest.mark.parametrize("environ", [{}, {"KUBERNETES_SERVICE_HOST": "10.96.0.1"}])
def test_outside_of_a_pod_one_learns_what_to_pass(environ: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=r"no API server: .*pass --kubeconfig FILE"):
        kubeconfig.load_service_account(environ)


@pytest.mark.parametrize("name", ["token", "ca.crt"])
def test_a_service_account_without_its_files_is_told(account: Path, name: str) -> None:
    environ = {"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "443"}
    (account / name).unlink()

    with pytest.raises(ConfigError, match=f"service account .*--kubeconfig FILE.*{name}"):
        kubeconfig.load_service_account(environ, account)
