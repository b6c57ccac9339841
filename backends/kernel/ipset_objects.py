"""Sets of addresses and ports as values, in the kernel's words. Pure.

They are those of `ipset`, which rules of iptables ask about a packet; those of nftables are in `nft_messages`.
"""

from enum import StrEnum
from typing import Final, NamedTuple

from proxy.model import Family, Protocol

NAME_LENGTH: Final = 31
"""The longest name of a set (IPSET_MAXNAMELEN, less the NUL)."""
MEMBERS: Final = 65536
"""How many members a set can have unless told otherwise."""

PROTOCOL_NUMBERS: Final[dict[Protocol, int]] = {"TCP": 6, "UDP": 17, "SCTP": 132}
_PROTOCOL_NAMES: Final = {number: name.lower() for name, number in PROTOCOL_NUMBERS.items()}


class SetKind(StrEnum):
    """What members of a set consist of. A port always comes with its protocol, but in a bitmap."""

    ADDRESS = "hash:ip"
    NETWORK = "hash:net"
    ADDRESS_PORT = "hash:ip,port"
    ADDRESS_PORT_ADDRESS = "hash:ip,port,ip"
    ADDRESS_PORT_NETWORK = "hash:ip,port,net"
    PORT = "bitmap:port"


NETWORK_PORT: Final = "hash:net,port"
NETWORK_NETWORK: Final = "hash:net,net"
"""Two more kinds, which a kernel that has those above need not have."""


class IpSet(NamedTuple):
    """A set, without its members.

    `kind` is a SetKind for those that are made here, or one of the two above; listed ones may be of any. A bitmap has no family;
    it holds all ports. Members of a set with `timeout_s` vanish after that time unless added with another; 0 is never. If it
    `has_marks`, each member may have a firewall mark that a rule can give to the packet (Linux 3.18).
    """

    name: str
    kind: str
    family: Family | None
    timeout_s: int | None = None
    max_members: int = MEMBERS
    has_marks: bool = False


class SetState(NamedTuple):
    """A set as it is there. `references` counts rules, and other sets, that name it: then it cannot be destroyed.

    Both are the kernel's own numbers: members whose time is over may be among those counted.
    """

    set: IpSet
    members: int
    references: int


class Member(NamedTuple):
    """A member of a set of any kind; what its kind does not have stays empty.

    Addresses are in canonical text; where the kind says network, they are ranges (`10.0.0.0/8`), host bits zero, and not of
    length zero. `protocol` is a number of IP. In a bitmap there is the port alone. `mark` is 32 bits for a whole mark; one that
    sets some bits only, which nobody makes here, is that of the kernel: value and mask in 64 bits.
    """

    address: str = ""
    protocol: int = 0
    port: int = 0
    other: str = ""
    mark: int | None = None

    def __str__(self) -> str:
        """Return it as `ipset` writes it."""
        mark = f" skbmark {self.mark:#x}" if self.mark is not None else ""
        return self._place() + mark

    def _place(self) -> str:
        if not self.address:
            return str(self.port)
        if not self.protocol:
            return f"{self.address},{self.other}" if self.other else self.address
        name = _PROTOCOL_NAMES.get(self.protocol, str(self.protocol))
        place = f"{self.address},{name}:{self.port}"
        return f"{place},{self.other}" if self.other else place
