"""An authority, a server certificate and a client's, made anew for each server and kept as files."""

import ssl
from pathlib import Path
from typing import NamedTuple

import trustme

CLIENT_NAME = "system:kube-proxy"


class Files(NamedTuple):
    """Where they are: PEM, keys without a password."""

    authority: Path
    server: Path
    client: Path
    client_key: Path


def make(directory: Path, hosts: list[str]) -> Files:
    """Make all of them in a directory. The server's is good for these names and addresses."""
    directory.mkdir(parents=True, exist_ok=True)
    authority = trustme.CA()
    files = Files(
        *(directory / name for name in ("ca.crt", "server.pem", "client.crt", "client.key"))
    )
    authority.cert_pem.write_to_path(files.authority)
    server = authority.issue_cert(*hosts)
    server.private_key_and_cert_chain_pem.write_to_path(files.server)
    client = authority.issue_cert("kube-proxy.invalid", common_name=CLIENT_NAME)
    files.client.write_bytes(b"".join(pem.bytes() for pem in client.cert_chain_pems))
    client.private_key_pem.write_to_path(files.client_key)
    files.client_key.chmod(0o600)
    return files


def server_context(files: Files) -> ssl.SSLContext:
    """A context that takes clients with and without a certificate of our authority."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=files.authority)
    context.load_cert_chain(files.server)
    context.verify_mode = ssl.CERT_OPTIONAL
    return context
