"""Trees of chains in which a frontend is found, kept up to date one frontend at a time. Pure.

A rule can only be walked to, so what must not be walked is told apart early: by the lowest bits of the address, two at each
level, and where those are used up (a NodePort has none, an address may have many ports) by protocol and the highest bits of the
port, four at each level. A chain is divided as soon as it holds more than sixteen frontends, and put together again when it
holds fewer: the shape depends on the frontends alone, whatever the order in which they came and went.

Twelve bits of the address and three steps of the port are what the kernel allows: nf_tables refuses rules behind which chains
lead to each other more than fifteen deep, and what stands before and behind the tree takes six.
"""

import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from backends.iptables.model import CHAINS, Front, TreeName
from proxy.addresses import parse_ip
from proxy.model import Family, Protocol

LEAF: Final = 16
"""With more frontends a chain is divided."""
ROOTS: Final[dict[TreeName, str]] = {
    "C": CHAINS + "CLUSTER",
    "X": CHAINS + "EXTERNAL",
    "N": CHAINS + "NODEPORT",
}
_LETTERS: Final[dict[Protocol, str]] = {"TCP": "T", "UDP": "U", "SCTP": "S"}
_PROTOCOLS: Final[dict[str, Protocol]] = {"tcp": "TCP", "udp": "UDP", "sctp": "SCTP"}
_ADDRESS_LEVELS: Final = 6
_PORT_LEVELS: Final = 3
_WIDTHS: Final[dict[Family, int]] = {"IPv4": 32, "IPv6": 128}


class Branch(NamedTuple):
    """What a chain tells apart: the match, and how many frontends are behind it."""

    match: str
    behind: int


class Node(NamedTuple):
    """A chain of a tree: frontends with the chains they lead to or, once there are too many, branches by chain."""

    depth: int
    fronts: dict[Front, str]
    branches: dict[str, Branch]

    @property
    def total(self) -> int:
        return len(self.fronts) + sum([branch.behind for branch in self.branches.values()])


class Tree:
    """One tree of one family. Without `base` its content is its own; with it, it holds what would be different there.

    `dirty` are the chains whose rules have changed, `gone` those that are not needed any more.
    """

    def __init__(self, family: Family, name: TreeName, base: "Tree | None" = None) -> None:
        self.family: Final[Family] = family
        self.name: Final[TreeName] = name
        self.root: Final = ROOTS[name]
        self.dirty: set[str] = set()
        self.gone: set[str] = set()
        self._base: Final = base
        self._targets: dict[Front, str | None] = {}
        self._nodes: dict[str, Node | None] = {}
        self._levels: Final = _PORT_LEVELS + (0 if name == "N" else _ADDRESS_LEVELS)
        if base is None:
            self._nodes[self.root] = Node(0, {}, {})

    def target(self, front: Front) -> str | None:
        """Return the chain a frontend leads to, None if it is not in the tree."""
        if front in self._targets or self._base is None:
            return self._targets.get(front)
        return self._base.target(front)

    def node(self, chain: str) -> Node | None:
        """Return what a chain of the tree holds, None if it is not needed."""
        if chain in self._nodes or self._base is None:
            return self._nodes.get(chain)
        return self._base.node(chain)

    def fronts(self) -> dict[Front, str]:
        """Return all frontends; a full walk."""
        found = self._base.fronts() if self._base is not None else {}
        for front, target in self._targets.items():
            if target is None:
                found.pop(front, None)
            else:
                found[front] = target
        return found

    def chains(self) -> set[str]:
        """Return the names of all chains; a full walk."""
        found = self._base.chains() if self._base is not None else set()
        return (found | self._nodes.keys()) - {
            n for n, node in self._nodes.items() if node is None
        }

    def put(self, front: Front, target: str) -> None:
        """Have a frontend lead to a chain."""
        old = self.target(front)
        self._targets[front] = target
        chain, node = self.root, self._own(self.root)
        while node.branches:
            child = self._branch(chain, node, front, int(old is None))
            chain, node = child, self._own(child)
        if old != target:
            node.fronts[front] = target
            self.dirty.add(chain)
        self._divide(chain, node)

    def remove(self, front: Front) -> None:
        """Take a frontend out, if it is there."""
        if self.target(front) is None:
            return
        if self._base is None:
            del self._targets[front]
        else:
            self._targets[front] = None
        chain, node, sparse = self.root, self._own(self.root), ""
        while node.branches:
            child = self._child(front, node.depth)
            left = node.branches[child].behind - 1
            if left:
                node.branches[child] = node.branches[child]._replace(behind=left)
            else:
                del node.branches[child]
                self.dirty.add(chain)
            if not sparse and node.total <= LEAF:
                sparse = chain
            chain, node = child, self._own(child)
        del node.fronts[front]
        self.dirty.add(chain)
        if not node.fronts and chain != self.root:
            self._drop(chain)
        if sparse:
            self._own(sparse).fronts.update(self._gathered(sparse))
            self._own(sparse).branches.clear()
            self.dirty.add(sparse)

    def touch(self, front: Front) -> None:
        """Have all chains on the way to a frontend looked at."""
        node = self.node(self.root)
        self.dirty.add(self.root)
        while node is not None and node.branches:
            child = self._child(front, node.depth)
            self.dirty.add(child)
            node = self.node(child)

    def changes(self) -> Iterator[tuple[Front, str | None]]:
        """Yield the frontends that lead elsewhere than in the tree below, and where."""
        for front, target in self._targets.items():
            if self._base is None or self._base.target(front) != target:
                yield front, target

    def rules(self, chain: str, is_there: Callable[[str], bool] = bool) -> list[str]:
        """Return the rules of a chain of the tree, in an order that depends on its content alone.

        Frontends whose own chain is not there are left out.
        """
        node = self.node(chain)
        if node is None:
            return []
        return [
            *[
                f"{_whole_match(self.family, front)} -g {node.fronts[front]}"
                for front in sorted(node.fronts)
                if is_there(node.fronts[front])
            ],
            *[f"{branch.match} -g {name}" for name, branch in sorted(node.branches.items())],
        ]

    def settle(self) -> None:
        """Everything that was changed has been seen to."""
        self.dirty.clear()
        self.gone.clear()

    def _own(self, chain: str) -> Node:
        """Return a chain's content to be changed."""
        found = self._nodes.get(chain)
        if found is None:
            found = self._base.node(chain) if self._base is not None else None
            if found is None:
                raise KeyError(chain)
            found = self._nodes[chain] = Node(
                found.depth, dict(found.fronts), dict(found.branches)
            )
        return found

    def _drop(self, chain: str) -> None:
        if self._base is None:
            del self._nodes[chain]
        else:
            self._nodes[chain] = None
        self.dirty.discard(chain)
        self.gone.add(chain)

    def _branch(self, chain: str, node: Node, front: Front, more: int) -> str:
        """Count so many more frontends in the branch where this one belongs; return its chain."""
        child = self._child(front, node.depth)
        branch = node.branches.get(child)
        if branch is None:
            branch = Branch(self._match(front, node.depth), 0)
            self._nodes[child] = Node(node.depth + 1, {}, {})
            self.gone.discard(child)
            self.dirty.update([chain, child])
        node.branches[child] = branch._replace(behind=branch.behind + more)
        return child

    def _divide(self, chain: str, node: Node) -> None:
        """Divide a chain that holds too much, and its branches."""
        if len(node.fronts) <= LEAF or node.depth == self._levels:
            return
        for front, target in node.fronts.items():
            self._own(self._branch(chain, node, front, 1)).fronts[front] = target
        node.fronts.clear()
        for child in node.branches:
            self._divide(child, self._own(child))

    def _gathered(self, chain: str) -> dict[Front, str]:
        """Return what is behind the branches of a chain, which go."""
        found: dict[Front, str] = {}
        node = self.node(chain)
        for child in node.branches if node is not None else ():
            found |= self._gathered(child)
            below = self.node(child)
            if below is not None:
                found |= below.fronts
                self._drop(child)
        return found

    def _child(self, front: Front, depth: int) -> str:
        """Return the chain in which a frontend is found one level below that depth."""
        levels = self._levels - _PORT_LEVELS
        if depth < levels:
            value = _low_bits(front.address) & (4 << 2 * depth) - 1
            return f"{CHAINS}{self.name}-{2 * depth + 2}-{value:X}"
        digits = depth - levels + 1
        stem = f"-{2 * levels}-{_low_bits(front.address):X}" if levels else ""
        high = front.port >> 16 - 4 * digits
        return f"{CHAINS}{self.name}{stem}-{_LETTERS[front.protocol]}{high:0{digits}X}"

    def _match(self, front: Front, depth: int) -> str:
        """Return what leads to that chain."""
        levels = self._levels - _PORT_LEVELS
        if depth < levels:
            mask = 3 << 2 * depth
            return f"-d {self._bits(_low_bits(front.address) & mask)}/{self._bits(mask)}"
        shift = 12 - 4 * (depth - levels)
        first = front.port >> shift << shift
        return f"-p {front.protocol.lower()} --dport {first}:{first + (1 << shift) - 1}"

    def _bits(self, value: int) -> str:
        if self.family == "IPv4":
            return f"0.0.{value >> 8}.{value & 255}"
        return f"::{value:x}" if value else "::"


def tree_of(chain: str) -> TreeName | None:
    """Return the tree to which a chain of that name belongs."""
    for name, root in ROOTS.items():
        if chain == root or chain.startswith(f"{CHAINS}{name}-"):
            return name
    return None


def parse_lead(family: Family, words: list[str]) -> tuple[Front, str] | None:
    """Read a rule of a tree as it was saved, in words: the frontend and where it leads. None for any other rule."""
    found: dict[str, str] = {}
    for option, value in itertools.zip_longest(words[::2], words[1::2], fillvalue=""):
        if option in {"-m", "--comment"}:
            continue
        if option not in {"-d", "-p", "--dport", "-g"} or option in found:
            return None
        found[option] = value
    protocol = _PROTOCOLS.get(found.get("-p", ""))
    address, _, length = found.get("-d", f"/{_WIDTHS[family]}").partition("/")
    port, target = found.get("--dport", ""), found.get("-g", "")
    if protocol is None or length != str(_WIDTHS[family]) or not port.isdecimal() or not target:
        return None
    return Front(address, protocol, int(port)), target


def _whole_match(family: Family, front: Front) -> str:
    place = f"-d {front.address}/{_WIDTHS[family]} " if front.address else ""
    return f"{place}-p {front.protocol.lower()} --dport {front.port}"


@functools.lru_cache(maxsize=4096)
def _low_bits(address: str) -> int:
    """Return the bits of an address that tell chains apart."""
    found = parse_ip(address)
    if found is None:
        raise ValueError(f"not an address: {address}")
    return int.from_bytes(found.packed[-2:]) & (1 << 2 * _ADDRESS_LEVELS) - 1
