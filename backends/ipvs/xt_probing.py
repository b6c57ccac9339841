"""Whether this host can do what the side rules need of iptables and ipset: everything is made, where nobody sees it. Shell."""

import errno
import logging
from collections.abc import Callable, Mapping, Sequence

from backends.ipvs.layout import Layout
from backends.ipvs.xt_chains import lines
from backends.ipvs.xt_layout import TABLES, is_own, split_name
from backends.ipvs.xt_members import ip_set
from backends.kernel import ipset_messages
from backends.kernel.ipset import Ipset
from backends.kernel.nft_table import ChainSpec
from backends.kernel.throwaway import in_throwaway_namespace
from backends.kernel.xtables import NEEDS_NET_RAW, Refused, Xtables, lacks_net_raw
from backends.kernel.xtables_flavour import Choice
from proxy.errors import KernelError, Unsupported
from proxy.model import Family

log = logging.getLogger(__name__)


def probe(choice: Choice, layout: Layout) -> None:
    """Write everything in a network namespace that is thrown away. Raises Unsupported, KernelError."""
    if lacks_net_raw():
        raise Unsupported("iptables", NEEDS_NET_RAW)
    plain = {family: Xtables(door.programs) for family, door in choice.tables.items()}
    try:
        in_throwaway_namespace(lambda: try_all(plain, Ipset, layout))
    except KernelError as error:
        if error.errno != errno.EPERM:
            raise
        log.info("side rules are written without having been tried: %s", error)
    finally:
        for door in plain.values():
            door.close()


def try_all(
    tables: Mapping[Family, Xtables], open_ipset: Callable[[], Ipset], layout: Layout
) -> None:
    """Make all sets and chains. Raises Unsupported naming the first thing that is refused."""
    with open_ipset() as ipset:
        for family in layout.families:
            made = [ip_set(family, spec.name) for spec in layout.sets(family)]
            for refusal in ipset.carry_out([ipset_messages.create(each) for each in made]):
                if refusal.errno == errno.EPERM:
                    raise Unsupported("ipset", f"needs the capability NET_ADMIN ({refusal})")
                raise Unsupported(f"ipset {made[refusal.index].kind} ({family})", refusal.text)
            for table in TABLES:
                _try_chains(tables[family], table, layout.chains(family))


def _try_chains(door: Xtables, table: str, chains: Sequence[ChainSpec]) -> None:
    """Write the chains of a table; if they are refused, find out which rule it is."""
    own = [spec for spec in chains if split_name(spec.name)[0] == table]
    try:
        door.restore(table, lines(table, own, {}, ()))
    except Refused as refused:
        empty = [spec._replace(rules=()) for spec in own if is_own(split_name(spec.name)[1])]
        for spec in own:
            for rule in spec.rules:
                alone = spec._replace(rules=(rule,))
                try:
                    door.restore(table, lines(table, [*empty, alone], {}, ()))
                except Refused as blamed:
                    what = f"{door.programs.stem}: rule of {spec.name}: {rule.comment}"
                    raise Unsupported(what, blamed.message) from blamed
        raise Unsupported(f"{door.programs.stem}: table {table}", refused.message) from refused
