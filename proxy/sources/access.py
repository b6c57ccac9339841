"""What it takes to talk to the API server, as one value; and how TLS and proxies are set up for it.

Shell, as far as it reads certificates. Who the server takes us for is found out by `kubeconfig` and `service_account`;
when to find it out again is the business of `credentials`.
"""

import ipaddress
import math
import os
import re
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import urlsplit
from urllib.request import getproxies_environment

from proxy.errors import ConfigError

_NEVER: Final = math.inf
_USER_INFO: Final = re.compile(r"//[^/]*@")
_IN_MEMORY: Final = Path("/proc/self/fd")


class Access(NamedTuple):
    """Where the server is and how to be let in. Two loads that found the same are still two values."""

    server: str
    """URL without a slash at the end; it may have a path."""
    tls: ssl.SSLContext | None
    """None for a server that is asked in the clear."""
    headers: Mapping[str, str]
    tls_server_name: str = ""
    """The name to expect in the server's certificate, where it is not that of the URL."""
    proxy: str = ""
    """URL of an HTTP proxy to go through."""
    expires_s: float = _NEVER
    """Unix time from which on the credentials are of no more use."""
    files: tuple[str, ...] = ()
    """Files that this was read from: when one of them changes, so may this."""


def check_server(where: str, url: str) -> str:
    """Return the URL without its last slash. Raises ConfigError, naming `where` it stands, if it is no HTTP URL."""
    try:
        parts = urlsplit(url)
        is_usable = parts.scheme in ("http", "https") and bool(parts.hostname)
        is_usable = is_usable and parts.port != 0 and "@" not in parts.netloc
    except ValueError:
        is_usable = False
    if not is_usable or parts.query or parts.fragment:
        raise ConfigError(f"{where}: must be like https://host:6443, got {public(url)!r}")
    return url.rstrip("/")


def tls_context(
    where: str, *, ca_file: str, cert_file: str, key_file: str, is_insecure: bool
) -> ssl.SSLContext:
    """Return how to verify the server and who to be. Without a `ca_file` the system's authorities count.

    Raises ConfigError if a file is missing or holds no certificate; `where` says whose fault that is.
    """
    try:
        context = ssl.create_default_context(cafile=ca_file or None)
    except (ssl.SSLError, ValueError) as error:
        name = ca_file if Path(ca_file).parent != _IN_MEMORY else "certificate-authority-data"
        raise ConfigError(f"{where}: {name} holds no certificate authority: {error}") from error
    except OSError as error:
        raise ConfigError(f"{where}: {ca_file}: cannot be read: {error.strerror}") from error
    # Python 3.13 is stricter than Go, and than the authorities that many clusters were made with.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    # Whatever stands in the file is trusted, also an intermediate authority, as Go does it.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    if is_insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if cert_file:
        try:
            context.load_cert_chain(cert_file, key_file or None, password=_no_password)
        except (ssl.SSLError, ValueError) as error:
            raise ConfigError(
                f"{where}: the client certificate and its key cannot be used: {error}"
            ) from error
        except OSError as error:
            raise ConfigError(f"{where}: client certificate: {error.strerror}") from error
    return context


def _no_password() -> str:
    # Otherwise OpenSSL asks the terminal.
    raise ValueError("the key is encrypted, which is not supported")


def proxy_for(server: str, environ: Mapping[str, str] = os.environ) -> str:
    """Return the proxy that the environment names for a server, or "": HTTPS_PROXY, HTTP_PROXY and NO_PROXY as in Go.

    Loopback is never reached through a proxy.
    """
    given = getproxies_environment() if environ is os.environ else _proxies(environ)
    parts = urlsplit(server)
    proxy, host = given.get(parts.scheme, ""), (parts.hostname or "").lower()
    if not proxy or _is_bypassed(host, parts.port, given.get("no", "")):
        return ""
    return proxy if "://" in proxy else f"http://{proxy}"


def check_proxy(where: str, url: str) -> str:
    """Return the proxy's URL. Raises ConfigError for kinds of proxies that are not supported."""
    if url and urlsplit(url).scheme not in ("http", "https"):
        raise ConfigError(
            f"{where}: only http:// and https:// proxies are supported, got {public(url)!r}"
        )
    return url


def public(url: str) -> str:
    """Return a URL as it may be shown: without user and password."""
    return _USER_INFO.sub("//", url)


def _proxies(environ: Mapping[str, str]) -> dict[str, str]:
    names = {name.lower(): value for name, value in environ.items() if value}
    return {
        key: names[f"{key}_proxy"] for key in ("http", "https", "no") if f"{key}_proxy" in names
    }


def _is_bypassed(host: str, port: int | None, no_proxy: str) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        address = None
    if host == "localhost" or (address is not None and address.is_loopback):
        return True
    return any(
        _matches(entry.strip().lower(), host, port, address) for entry in no_proxy.split(",")
    )


def _matches(
    entry: str,
    host: str,
    port: int | None,
    address: ipaddress.IPv4Address | ipaddress.IPv6Address | None,
) -> bool:
    if not entry or entry == "*":
        return entry == "*"
    if address is not None and "/" in entry:
        try:
            return address in ipaddress.ip_network(entry, strict=False)
        except ValueError:
            return False
    name, colon, number = entry.rpartition(":")
    if colon and number.isdecimal() and ":" not in name:
        if port is not None and int(number) != port:
            return False
        entry = name
    if entry.startswith("*."):
        entry = entry[1:]
    return host == entry.removeprefix(".") or host.endswith(f".{entry.removeprefix('.')}")


def read_text(where: str, path: str) -> str:
    """Return the text of a small file without surrounding space. Raises ConfigError if there is none."""
    try:
        text = Path(path).read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ConfigError(f"{where}: {path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{where}: {path}: is not UTF-8 text") from error
    if not text:
        raise ConfigError(f"{where}: {path}: is empty")
    return text


def bearer(where: str, token: str) -> dict[str, str]:
    """Return the header that shows a token. Raises ConfigError if it could not stand in a header."""
    if not token.isascii() or not token.isprintable() or " " in token:
        raise ConfigError(f"{where}: the token holds characters that no token has")
    return {"Authorization": f"Bearer {token}"}
