"""Our chains as the programs write, read and remove them, also in tables that they cannot list."""

import logging
from collections.abc import Mapping

import pytest

from backends.ipvs.layout import IpvsSettings
from backends.ipvs.xt_layout import CHAINS, TABLES, XtLayout
from backends.ipvs.xt_tables import Known, read_chains, remove_chains, write_chains
from backends.kernel.nft_table import ChainFacts
from backends.kernel.xtables import Refused
from backends.kernel.xtables_text import Flavour
from proxy.model import FAMILIES
from tests.fakes.xtables import FakeXtables, XtablesKernel

LAYOUT = XtLayout(IpvsSettings(families=FAMILIES, cluster_cidrs=("10.244.0.0/16",)))
WANTED = LAYOUT.chain_facts["IPv4"]
CLUSTER_IP = f"mangle/{CHAINS}CLUSTER-IP"
CHANGED = ChainFacts(None, ("",))


class Host:
    """One family's tables, of which nobody can list any once `hide` was called."""

    def __init__(self) -> None:
        self.kernel = XtablesKernel()
        self.door: FakeXtables = self.kernel.door(Flavour.NFT, "IPv4")
        self.known = Known()

    def write(self, *names: str, layout: XtLayout = LAYOUT) -> None:
        specs = [s for s in layout.chains("IPv4") if not names or s.name in names]
        write_chains(self.door, specs, self.known, is_all=not names)

    def hide(self) -> None:
        self.kernel.only_nft |= {("IPv4", table) for table in TABLES}

    def show(self) -> None:
        self.kernel.only_nft.clear()

    def chains(self) -> Mapping[str, ChainFacts]:
        return read_chains(self.door, self.known)

    def text(self) -> str:
        return "".join([self.kernel.save(Flavour.NFT, "IPv4", table) for table in TABLES])


@pytest.fixture
def host() -> Host:
    made = Host()
    made.door.restore("nat", ["-A OUTPUT -j ACCEPT"])
    return made


def test_what_is_written_is_read_and_removed(host: Host) -> None:
    before = host.text()
    host.write()

    assert host.chains() == WANTED

    assert remove_chains([host.door], host.known) == len(WANTED)
    assert host.text() == before
    assert remove_chains([host.door], host.known) == 0


def test_a_table_that_becomes_unlistable_is_believed_to_be_as_it_was_and_that_is_said_once(
    host: Host, caplog: pytest.LogCaptureFixture
) -> None:
    host.write()
    host.hide()

    assert host.chains() == host.chains() == WANTED

    said = [each.message for each in caplog.records if each.levelno == logging.WARNING]
    assert len(said) == len(TABLES)
    assert "nft -a list table ip nat" in said[0]
    host.show()
    assert host.chains() == WANTED
    host.hide()
    host.chains()
    assert len([each for each in caplog.records if each.levelno == logging.WARNING]) == 2 * len(
        said
    )


def test_what_was_read_before_is_known_too(host: Host) -> None:
    host.write()
    host.known = Known()
    host.chains()
    host.hide()

    assert host.chains() == WANTED


def test_chains_of_an_earlier_process_that_nobody_could_list_are_written_anew(host: Host) -> None:
    plain = XtLayout(IpvsSettings(families=FAMILIES))
    host.write()
    host.hide()
    host.known = Known()

    found = host.chains()
    assert found.keys() == WANTED.keys()
    assert {facts for name, facts in found.items() if CHAINS in name} == {CHANGED}
    # some have rules more than are wanted now
    host.write(layout=plain)

    assert host.chains() == plain.chain_facts["IPv4"]
    host.show()
    assert host.chains() == plain.chain_facts["IPv4"]


def test_what_is_lost_from_a_table_that_cannot_be_listed_is_missed_and_written_again(
    host: Host,
) -> None:
    host.write()
    host.hide()
    host.door.restore("mangle", [f":{CHAINS}CLUSTER-IP - [0:0]"])
    (jump,) = WANTED["nat/PREROUTING"].comments
    assert host.door.remove_commented("nat", "PREROUTING", jump) == 1

    found = host.chains()
    assert found[CLUSTER_IP] == CHANGED
    assert "nat/PREROUTING" not in found

    host.write(CLUSTER_IP, "nat/PREROUTING", "nat/OUTPUT")

    assert host.chains() == WANTED
    host.show()
    assert host.chains() == WANTED


def test_chains_that_were_closed_are_known_as_such_by_whoever_comes_next(host: Host) -> None:
    host.write()
    closed = LAYOUT.closed_chains()
    host.hide()
    write_chains(host.door, closed, host.known, is_all=False)
    host.known = Known()

    assert LAYOUT.is_closed(host.chains())


def test_everything_of_ours_goes_from_tables_that_cannot_be_listed(host: Host) -> None:
    before = host.text()
    host.write()
    host.hide()

    assert remove_chains([host.door], host.known) == len(WANTED)

    host.show()
    assert host.text() == before


def test_a_chain_that_others_lead_to_stays_there_but_asks_no_sets(
    host: Host, caplog: pytest.LogCaptureFixture
) -> None:
    host.write()
    host.door.restore("mangle", [":THEIRS - [0:0]", f"-A THEIRS -j {CHAINS}DISPATCH"])
    host.hide()

    remove_chains([host.door], host.known)

    stays = [each.message for each in caplog.records if "others lead there" in each.message]
    assert len(stays) == 1
    host.show()
    saved = host.door.save("mangle")
    assert [name for name in saved if name.startswith(CHAINS)] == [f"{CHAINS}DISPATCH"]
    assert saved[f"{CHAINS}DISPATCH"].rules == ()


def test_what_is_refused_for_another_reason_is_an_error(host: Host) -> None:
    host.door.ends.append(lambda _: (1, "iptables-restore: line 2 failed\n"))

    with pytest.raises(Refused):
        host.write()
