"""Names of the chains and sets that are there for one ServicePort. Pure.

They end in a hash of the ServicePort's name, in both families the same: `SLICEPROXY-S-…` is its list of endpoints,
`SLICEPROXY-L-…` that of those on this node, `SLICEPROXY-E-…` where traffic meant for the world outside is told apart.
Longer lists are divided: `SLICEPROXY-S-…-3F`. Under session affinity each endpoint has a chain `SLICEPROXY-A-…` and a set
`sliceproxy4-a-…`, named after both. The kernel allows 28 characters for a chain, and 31 for a set.

The hash is keyed with something that only this node has, so that who may create Services cannot look for one whose chains would be
those of another. Two that have the same nevertheless are told apart by `Draft.stranger`. Where the key becomes another one
(it is not stored), everything gets other names, and `prune` removes the old ones, as it does whatever nobody needs.
"""

import base64
import functools
import hashlib
from typing import Final

from backends.iptables.model import CHAINS, SETS
from proxy.model import Family, PortKey

_PORT_LENGTH: Final = 12
_ENDPOINT_LENGTH: Final = 15


@functools.lru_cache(maxsize=4096)
def identity(key: PortKey, secret: str = "") -> str:
    """Return what the names of a ServicePort's chains end in: 60 bits."""
    return _digest("/".join(key.name), secret, _PORT_LENGTH)


def list_chain(key: PortKey, secret: str = "", *, is_local: bool = False) -> str:
    """Return the chain that chooses among the endpoints of the cluster, or among those on this node."""
    return f"{CHAINS}{'L' if is_local else 'S'}-{identity(key, secret)}"


def outer_chain(key: PortKey, secret: str = "") -> str:
    """Return the chain to which the frontends for the world outside lead."""
    return f"{CHAINS}E-{identity(key, secret)}"


def relatives(chain: str) -> tuple[str, ...]:
    """Return what the names of all chains begin with that choose for a ServicePort, by one of them: a list, or the outer chain.

    Whatever the hash in it is keyed with.
    """
    _, _, own = chain.removeprefix(CHAINS).partition("-")
    return tuple([f"{CHAINS}{letter}-{own}" for letter in "SLE"]) if own else (chain,)


def affinity_names(key: PortKey, endpoint: str, secret: str = "") -> tuple[str, str]:
    """Return the chain that remembers clients of an endpoint, and the set in which it does."""
    digest = _digest("/".join((*key.name, endpoint)), secret, _ENDPOINT_LENGTH)
    return f"{CHAINS}A-{digest}", f"{affinity_prefix(key.family)}{digest}"


def affinity_prefix(family: Family) -> str:
    """Return what the names of all sets for session affinity begin with."""
    return f"{SETS[family]}a-"


def _digest(text: str, secret: str, length: int) -> str:
    hashed = hashlib.blake2b(text.encode(), digest_size=10, key=secret.encode()).digest()
    return base64.b32encode(hashed).decode()[:length]
