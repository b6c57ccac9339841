"""Which side rules are written, and which there may be: nftables where the kernel has it, else iptables and ipset. Shell."""

import errno
import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Final, Literal

from backends.ipvs.layout import Layout
from backends.ipvs.nft_side import NftSide
from backends.ipvs.side import Side
from backends.ipvs.xt_layout import XtLayout
from backends.ipvs.xt_side import Tools, XtSide
from backends.ipvs.xt_tables import Known
from backends.kernel.nft import Nft
from backends.kernel.nft_table import TableFacts
from proxy.errors import KernelError, Unsupported
from proxy.model import Family

log = logging.getLogger(__name__)

SideName = Literal["nftables", "iptables"]
NAMES: Final[tuple[SideName, ...]] = ("nftables", "iptables")
"""In the order in which they are tried."""


class Sides:
    """Opens either, and finds out which one this host has. `only` that one, if it is told."""

    def __init__(
        self, open_nft: Callable[[], Nft], tools: Tools, only: SideName | None = None
    ) -> None:
        self._open_nft = open_nft
        self._tools = tools
        self._only = only
        self._known = Known()
        self.name: SideName = only or NAMES[0]
        """The one that is used: until one was chosen, the first."""

    def layout(self, layout: Layout) -> Layout:
        """Return the layout for the one that is used."""
        kind = XtLayout if self.name == "iptables" else Layout
        return layout if type(layout) is kind else kind(layout.settings)

    def open(self, layout: Layout, name: SideName | None = None) -> Side:
        """Open one, that which is used unless another is named, in the network namespace of the calling thread."""
        if (name or self.name) == "nftables":
            return NftSide(self._open_nft())
        return XtSide(layout.families, self._tools, self._known)

    def choose(self, layout: Layout) -> None:
        """Try them, each for real, and use the first that works.

        Raises Unsupported saying what each lacks; KernelError where that of the first is not certain.
        """
        reasons: list[str] = []
        for name in [self._only] if self._only is not None else NAMES:
            try:
                words = self._try(name, layout)
            except (Unsupported, KernelError) as error:
                if isinstance(error, KernelError) and not reasons:
                    raise
                reasons.append(f"{name}: {error}")
                continue
            self.name = name
            if reasons:
                log.warning("side rules are written with %s; %s", words, "; ".join(reasons))
            return
        raise Unsupported("side rules of mode ipvs", "; ".join(reasons))

    def _try(self, name: SideName, layout: Layout) -> str:
        try:
            side = self.open(layout, name)
            try:
                side.try_out(side.layout_of(layout.settings))
                return side.words
            finally:
                side.close()
        except KernelError as error:
            if error.errno != errno.EPERM:
                raise
            raise Unsupported("ipvs", f"needs the capability NET_ADMIN ({error})") from error

    def found(
        self, layout: Layout, closing: ExitStack, *, are_used: bool = True
    ) -> Iterator[Side]:
        """Yield those that have something of ours, open as long as the stack is; with or without that which is used."""
        for name in NAMES:
            if name == self.name and not are_used:
                continue
            try:
                side = self.open(layout, name)
            except (Unsupported, KernelError) as error:
                log.debug("no side rules in %s: %s", name, error)
                continue
            closing.callback(side.close)
            if side.is_there():
                yield side

    def read_left(self, layout: Layout) -> list[dict[Family, TableFacts]]:
        """Read side rules that are there and not those that are used: the kernel, or what is installed, was another one."""
        with ExitStack() as closing:
            others = self.found(layout, closing, are_used=False)
            return [_read(side, layout) for side in others]

    def delete_left(self, layout: Layout) -> int:
        """Remove them; return how many objects."""
        with ExitStack() as closing:
            return sum([side.delete() for side in self.found(layout, closing, are_used=False)])


def _read(side: Side, layout: Layout) -> dict[Family, TableFacts]:
    try:
        return side.read_tables(layout.families)[0]
    except KernelError as error:  # they go all the same
        log.warning("side rules of an earlier process in %s: %s", side.words, error)
        return {family: TableFacts() for family in layout.families}
