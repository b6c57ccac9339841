"""What it takes to talk to a server is checked before it is used, and mistakes are named."""

import ssl
from pathlib import Path

import pytest
import trustme

from proxy.errors import ConfigError
from proxy.sources import access


@pytest.mark.parametrize(
    ("url", "server"),
    [
        ("https://10.0.0.1:6443", "https://10.0.0.1:6443"),
        ("https://[fd00::1]:6443/", "https://[fd00::1]:6443"),
        ("http://localhost:8080", "http://localhost:8080"),
        ("https://rancher.example/k8s/clusters/c-1/", "https://rancher.example/k8s/clusters/c-1"),
    ],
)
def test_a_server_is_a_url_without_its_last_slash(url: str, server: str) -> None:
    assert access.check_server("--master", url) == server


@pytest.mark.parametrize(
    "url",
    [
        "",
        "10.0.0.1:6443",
        "ftp://a",
        "https://",
        "https://a:b",
        "https://a/?x=1",
        "unix:///a",
        "https://user:hunter2@a",
    ],
)
def test_what_is_no_url_of_a_server_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="--master: must be like https://host:6443") as caught:
        access.check_server("--master", url)
    assert "hunter2" not in str(caught.value)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def _context(
    ca_file: Path | str = "", *, is_insecure: bool = False, **files: str
) -> ssl.SSLContext:
    given = {"cert_file": "", "key_file": "", **files}
    return access.tls_context(
        "kubeconfig",
        ca_file=str(ca_file),
        cert_file=given["cert_file"],
        key_file=given["key_file"],
        is_insecure=is_insecure,
    )


def test_servers_are_verified_by_their_authority_and_name(
    authority: trustme.CA, tmp_path: Path
) -> None:
    authority.cert_pem.write_to_path(str(tmp_path / "ca"))

    context = _context(tmp_path / "ca")

    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
    assert context.cert_store_stats()["x509"] == 1
    assert not context.verify_flags & ssl.VERIFY_X509_STRICT
    assert context.verify_flags & ssl.VERIFY_X509_PARTIAL_CHAIN


def test_without_an_authority_those_of_the_system_count() -> None:
    assert _context().verify_mode is ssl.CERT_REQUIRED


def test_verification_can_be_switched_off() -> None:
    context = _context(is_insecure=True)

    assert context.verify_mode is ssl.CERT_NONE
    assert not context.check_hostname


def test_files_that_cannot_be_used_are_named(authority: trustme.CA, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.write_text("no certificate")
    certificate = authority.issue_cert("client")
    certificate.cert_chain_pems[0].write_to_path(str(tmp_path / "cert"))
    trustme.CA().private_key_pem.write_to_path(str(tmp_path / "other-key"))

    with pytest.raises(ConfigError, match="empty holds no certificate authority"):
        _context(empty)
    with pytest.raises(ConfigError, match="missing: cannot be read: No such file"):
        _context(tmp_path / "missing")
    for key in (empty, tmp_path / "other-key"):
        with pytest.raises(ConfigError, match="kubeconfig: the client certificate and its key"):
            _context(cert_file=str(tmp_path / "cert"), key_file=str(key))
    with pytest.raises(ConfigError, match="client certificate: No such file"):
        _context(cert_file=str(tmp_path / "missing"), key_file=str(empty))


def test_an_encrypted_key_is_refused_and_nobody_is_asked(
    authority: trustme.CA, tmp_path: Path
) -> None:
    from cryptography.hazmat.primitives import serialization as form  # noqa: PLC0415

    certificate = authority.issue_cert("client")
    certificate.cert_chain_pems[0].write_to_path(str(tmp_path / "cert"))
    key = form.load_pem_private_key(certificate.private_key_pem.bytes(), None)
    encrypted = key.private_bytes(
        form.Encoding.PEM, form.PrivateFormat.PKCS8, form.BestAvailableEncryption(b"secret")
    )
    (tmp_path / "key").write_bytes(encrypted)

    with pytest.raises(ConfigError, match="the key is encrypted"):
        _context(cert_file=str(tmp_path / "cert"), key_file=str(tmp_path / "key"))


ENVIRONMENT = {
    "HTTPS_PROXY": "http://proxy:3128",
    "http_proxy": "other:80",
    "NO_PROXY": "10.96.0.0/12, .internal,*.corp, exact.example, [fd00::1]:6443,api:6443,bad/x",
}


@pytest.mark.parametrize(
    ("server", "proxy"),
    [
        ("https://api.example:6443", "http://proxy:3128"),
        ("http://api.example", "http://other:80"),
        ("https://10.96.0.1:443", ""),
        ("https://10.112.0.1:443", "http://proxy:3128"),
        ("https://a.internal", ""),
        ("https://internal", ""),
        ("https://a.b.corp", ""),
        ("https://exact.example", ""),
        ("https://sub.exact.example", ""),
        ("https://inexact.example", "http://proxy:3128"),
        ("https://api:6443", ""),
        ("https://api:443", "http://proxy:3128"),
        ("https://localhost:6443", ""),
        ("https://127.0.0.1:6443", ""),
        ("https://[::1]:6443", ""),
        ("https://[fd00::2]:6443", "http://proxy:3128"),
    ],
)
def test_the_environment_names_a_proxy_and_who_needs_none(server: str, proxy: str) -> None:
    assert access.proxy_for(server, ENVIRONMENT) == proxy


def test_everything_can_be_excepted_and_nothing_is_the_default() -> None:
    assert access.proxy_for("https://a", {**ENVIRONMENT, "NO_PROXY": "*"}) == ""
    assert access.proxy_for("https://a", {}) == ""


def test_only_http_proxies_are_supported() -> None:
    assert access.check_proxy("x", "http://proxy:1") == "http://proxy:1"
    assert access.check_proxy("x", "") == ""
    with pytest.raises(ConfigError, match="x: only http:// and https:// proxies"):
        access.check_proxy("x", "socks5://proxy:1")


def test_a_small_file_is_read_without_surrounding_space(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(" abc\n")
    assert access.read_text("x", str(file)) == "abc"

    file.write_text("\n")
    with pytest.raises(ConfigError, match=r"x: .*token: is empty"):
        access.read_text("x", str(file))
    file.write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="is not UTF-8"):
        access.read_text("x", str(file))
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        access.read_text("x", str(tmp_path))


@pytest.mark.parametrize("token", ["a b", "a\nb", "a\x00", "ä"])
def test_a_token_that_could_not_stand_in_a_header_is_refused(token: str) -> None:
    assert access.bearer("x", "abc.d-e_f~+/=") == {"Authorization": "Bearer abc.d-e_f~+/="}
    with pytest.raises(ConfigError, match="x: the token holds characters"):
        access.bearer("x", token)
