"""What a host lacks is named. That a real one has it all: the probe of e2e/test_contract.py."""

import pytest

from backends.ipvs import xt_probing
from backends.ipvs.layout import IpvsSettings
from backends.ipvs.xt_layout import XtLayout
from backends.ipvs.xt_probing import try_all
from backends.kernel.ipset import Ipset
from backends.kernel.xtables_flavour import Choice
from backends.kernel.xtables_text import Flavour
from proxy.errors import Unsupported
from proxy.model import FAMILIES
from tests.unit.backends.ipvs.test_xt_side import Host

LAYOUT = XtLayout(IpvsSettings(families=FAMILIES))


@pytest.fixture(params=Flavour)
def host(request: pytest.FixtureRequest) -> Host:
    return Host(request.param)


def test_a_host_that_has_it_all_is_accepted(host: Host) -> None:
    doors = {family: host.machine.door(host.flavour, family) for family in FAMILIES}

    with host.machine.entered():
        try_all(doors, Ipset, LAYOUT)

    assert "SLICE-IPVS-DISPATCH" in doors["IPv6"].save("mangle")


def test_without_the_right_to_raw_sockets_the_one_that_is_missing_is_named(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    doors = {family: host.machine.door(host.flavour, family) for family in FAMILIES}
    monkeypatch.setattr(xt_probing, "lacks_net_raw", lambda: True)

    with pytest.raises(Unsupported, match="NET_RAW; in a pod: deploy/mode-iptables"):
        xt_probing.probe(Choice(host.flavour, doors, {}), LAYOUT)


def test_a_kernel_that_lacks_a_kind_of_set_is_told_so(host: Host) -> None:
    host.machine.netfilter.ipset.kinds.discard("hash:net,net")
    doors = {family: host.machine.door(host.flavour, family) for family in FAMILIES}

    with host.machine.entered(), pytest.raises(Unsupported) as caught:
        try_all(doors, Ipset, LAYOUT)

    assert caught.value.feature == "ipset hash:net,net (IPv4)"


def test_a_rule_that_is_refused_is_named(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "tests.fakes.xtables._TARGETS", {"ACCEPT", "DROP", "RETURN", "DNAT", "MARK"}
    )
    doors = {family: host.machine.door(host.flavour, family) for family in FAMILIES}

    with host.machine.entered(), pytest.raises(Unsupported) as caught:
        try_all(doors, Ipset, LAYOUT)

    assert "rule of nat/SLICE-IPVS-TRANSLATE: marked by us" in caught.value.feature
