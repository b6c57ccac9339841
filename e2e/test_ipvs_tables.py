"""Mode ipvs beside iptables: the programs write, and we see and remove, what is in tables that they cannot list.

No packet passes, so sets of other kinds do where this kernel lacks ours.
"""

from collections.abc import Iterator

import pytest

from backends.ipvs.layout import IpvsSettings, fixed_sets
from backends.ipvs.xt_layout import CHAINS, TABLES, XtLayout
from backends.ipvs.xt_members import ip_set
from backends.ipvs.xt_side import Tools, XtSide
from backends.ipvs.xt_tables import Known, read_chains, write_chains
from backends.kernel import ipset_messages
from backends.kernel.ipset import Ipset
from backends.kernel.ipset_objects import NETWORK_NETWORK, NETWORK_PORT, SetKind
from backends.kernel.xtables import Xtables, find_programs
from backends.kernel.xtables_flavour import Choice
from backends.kernel.xtables_text import Flavour
from e2e.namespace import Namespace
from proxy.model import FAMILIES, Family

pytestmark = pytest.mark.requires("iptables-nft", "nftables", "ipset")

LAYOUT = XtLayout(IpvsSettings(families=FAMILIES, cluster_cidrs=("10.244.0.0/16", "fd00::/48")))
# one that the programs notice beforehand, and one that they give up at
STRANGE = ("udp dport 9 numgen random mod 2 0 counter", "meta cgroup 7 counter")


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    with Namespace("ipvstables") as made, made.entered():
        yield made


@pytest.fixture
def doors(namespace: Namespace) -> dict[Family, Xtables]:
    """Doors to tables with all of ours; our sets are there, too."""
    made = {family: Xtables(find_programs(family)[Flavour.NFT]) for family in FAMILIES}
    with Ipset() as ipset:
        for family, door in made.items():
            for spec in fixed_sets(family):
                held = ip_set(family, spec.name)
                if held.kind in {NETWORK_NETWORK, NETWORK_PORT}:
                    held = held._replace(kind=SetKind.ADDRESS_PORT)
                assert ipset.carry_out([ipset_messages.create(held)]) == []
            write_chains(door, LAYOUT.chains(family), Known(), is_all=True)
    for of in ("ip", "ip6"):
        for table in TABLES:
            for strange in STRANGE:
                namespace.run(["nft", f"insert rule {of} {table} OUTPUT {strange}"])
    return made


@pytest.mark.parametrize("family", FAMILIES)
def test_chains_are_written_in_tables_that_only_nft_can_list_and_what_is_lost_is_missed(
    doors: dict[Family, Xtables], family: Family
) -> None:
    door, known, wanted = doors[family], Known(), LAYOUT.chain_facts[family]
    assert read_chains(door, known).keys() == wanted.keys()
    write_chains(door, LAYOUT.chains(family), known, is_all=True)
    assert read_chains(door, known) == wanted

    door.restore("mangle", [f":{CHAINS}DISPATCH - [0:0]"])
    (jump,) = wanted["nat/PREROUTING"].comments
    assert door.remove_commented("nat", "PREROUTING", jump) == 1
    found = read_chains(door, known)
    differing = {name for name in wanted if found.get(name) != wanted[name]}
    assert differing == {f"mangle/{CHAINS}DISPATCH", "nat/PREROUTING"}

    lost = [spec for spec in LAYOUT.chains(family) if spec.name in differing]
    write_chains(door, lost, known, is_all=False)
    assert read_chains(door, known) == wanted


def test_all_of_ours_goes_from_tables_that_only_nft_can_list(
    namespace: Namespace, doors: dict[Family, Xtables]
) -> None:
    side = XtSide(FAMILIES, Tools(find=lambda _: Choice(Flavour.NFT, doors, {})))
    chain = "chain ip mangle THEIRS"
    namespace.run(["nft", f"add {chain}; add rule ip mangle THEIRS jump {CHAINS}DISPATCH"])

    assert side.delete() > len(fixed_sets("IPv4"))

    assert namespace.run(["ipset", "list"]) == ""
    listed = namespace.run(["nft", "list ruleset"])
    assert [line.split()[-1] for line in listed.splitlines() if CHAINS in line] == [
        "{",
        f"{CHAINS}DISPATCH",
    ]
    assert listed.count("numgen") == listed.count("cgroup") == 2 * len(TABLES)
    side.close()
