"""Doors to fakes of tables and sets, for tests of the shell."""

import asyncio
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar, cast

from backends.iptables import kernel
from backends.iptables.belief import Observed
from backends.iptables.canary import Canary, Stamp
from backends.iptables.kernel import Doors
from backends.iptables.restoring import Restoring
from backends.iptables.writer import Writer
from backends.kernel.ipset import Ipset
from backends.kernel.xtables_text import Flavour
from proxy.model import FAMILIES
from tests.contract.iptables_machine import FakeMachine
from tests.fakes.xtables import FakeXtables

T = TypeVar("T")


class Bench(NamedTuple):
    """A machine, doors to it, and what is believed of it."""

    machine: FakeMachine
    doors: Doors
    canary: Canary
    restoring: Restoring
    writer: Writer
    observed: Observed
    stamp: Stamp

    @property
    def door(self) -> FakeXtables:
        """The one to the tables of IPv4."""
        return cast("FakeXtables", self.doors.tables["IPv4"])

    def restore(self, *lines: str, table: str = "nat") -> None:
        """Have somebody else write."""
        self.door.restore(table, lines)

    def there(self) -> Observed:
        """Read what there is now."""
        return kernel.read(self.doors, kernel.all_parts(self.doors.tables)).observed()


@contextmanager
def bench(flavour: Flavour = Flavour.NFT) -> Iterator[Bench]:
    machine = FakeMachine()
    with machine.entered(), Ipset() as ipset:
        doors = Doors(ipset, {family: machine.door(flavour, family) for family in FAMILIES})
        canary, restoring = machine.open_canary(flavour), Restoring()
        writer = Writer(flavour, doors, canary, restoring)
        observed = kernel.read(doors, kernel.all_parts(FAMILIES)).observed()
        yield Bench(machine, doors, canary, restoring, writer, observed, canary.look())


def run(life: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(life)
