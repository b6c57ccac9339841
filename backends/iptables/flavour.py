"""Which of the kernel's two engines the rules go to: the one that others on this host use. Shell."""

from collections.abc import Iterable, Sequence

from backends.iptables.model import CHAINS
from backends.kernel import xtables_flavour
from backends.kernel.xtables import Xtables
from backends.kernel.xtables_flavour import Choice, OpenTables, Sight, choose
from proxy.model import Family

__all__ = ["Choice", "Sight", "choose", "find", "look"]


def find(
    families: Sequence[Family], open_tables: OpenTables = Xtables, *, is_loud: bool = True
) -> Choice:
    """Look at all there is and choose. Takes a while where there are many rules. Raises Unsupported, KernelError."""
    return xtables_flavour.find(families, CHAINS, open_tables, is_loud=is_loud)


def look(doors: Iterable[Xtables]) -> Sight:
    """Return what there is in the tables of one flavour; of a table that its programs cannot list, the chains. Raises KernelError."""
    return xtables_flavour.look(doors, CHAINS)
