"""Addresses, ranges and bind addresses in settings: read as leniently as those in objects, with errors for the operator.

Every function raises ValueError with the form that is allowed; what comes out is canonical text.
"""

from typing import Final, NamedTuple

from proxy import addresses
from proxy.model import IPV4, IPV6, Family

CIDR_FORM: Final = "must be a CIDR such as 10.244.0.0/16 or fd00:10:244::/56"


class HostPort(NamedTuple):
    """Where a server listens: an IP address without brackets, and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        return addresses.join_host_port(self.host, self.port)


def parse_ip(text: str) -> str:
    """Return an IP address in its canonical form."""
    address = addresses.parse_ip(text)
    if address is None:
        raise ValueError(f"must be an IP address, got {text!r}")
    return address.text


def parse_cidr(text: str) -> str:
    """Return an address range in its canonical form: `10.1.2.3/16` is `10.1.0.0/16`."""
    cidr = addresses.parse_cidr(text.strip())
    if cidr is None:
        raise ValueError(f"{CIDR_FORM}, got {text!r}")
    return cidr.text


def parse_host_port(text: str) -> HostPort:
    """Return the host and port of `IP:port` or `[IPv6]:port`; the port is 1 to 65535."""
    host, colon, port = text.rpartition(":")
    is_bracketed = host.startswith("[") and host.endswith("]")
    if is_bracketed:
        host = host[1:-1]
    if not colon or is_bracketed != (":" in host):
        raise ValueError(f"must be IP:port or [IPv6]:port, got {text!r}")
    # int() alone would take signs, blanks, underscores and the digits of other scripts
    if not (port.isascii() and port.isdecimal() and len(port) <= 5 and 1 <= int(port) <= 65535):
        raise ValueError(f"the port must be 1 to 65535, got {port!r}")
    return HostPort(parse_ip(host), int(port))


def append_port(text: str, port: int) -> str:
    """Add `port` to a bare IP address; return anything else unchanged, for the validation to judge."""
    try:
        return str(HostPort(parse_ip(text), port))
    except ValueError:
        return text


def family_of(address: str) -> Family:
    """Return the family of an address or range in canonical form."""
    return IPV6 if ":" in address else IPV4
