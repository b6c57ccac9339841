"""The kernel's settings that IPVS needs."""

from pathlib import Path

import pytest

from backends.ipvs.model import DEVICE
from backends.ipvs.node_settings import enforce, has_ipv6, offset, wanted_settings
from backends.kernel.ipvs import Ipvs
from proxy.config.settings import IpvsSettings
from proxy.errors import Unsupported
from tests.fakes.ipvs import IpvsKernel

SETTINGS = IpvsSettings(
    scheduler="rr",
    exclude_cidrs=(),
    strict_arp=False,
    tcp_timeout_s=0,
    tcp_fin_timeout_s=0,
    udp_timeout_s=0,
    drain_timeout_s=900,
)


@pytest.mark.parametrize(
    ("release", "is_set"),
    [
        ("3.10.0", False),
        ("4.1.0", True),
        ("5.8.18", True),
        ("5.9.0", False),
        ("6.1.0-56-amd64", False),
    ],
)
def test_a_port_used_again_goes_where_it_went_on_kernels_that_would_let_it_wait(
    release: str, is_set: bool
) -> None:
    wanted = wanted_settings(strict_arp=False, release=release)

    assert wanted.get("proc/sys/net/ipv4/vs/conn_reuse_mode") == (0 if is_set else None)
    assert wanted["proc/sys/net/ipv4/vs/conntrack"] == 1


def test_strict_arp_is_only_set_when_asked_for() -> None:
    with_it = wanted_settings(strict_arp=True, release="6.1")
    without = wanted_settings(strict_arp=False, release="6.1")

    assert with_it.items() - without.items() == {
        ("proc/sys/net/ipv4/conf/all/arp_ignore", 1),
        ("proc/sys/net/ipv4/conf/all/arp_announce", 2),
    }


def test_nodes_begin_in_different_places() -> None:
    assert len({offset(f"node-{number}") for number in range(50)}) > 40
    assert offset("n1") == offset("n1")


def test_without_connection_tracking_of_ipvs_the_mode_cannot_run_and_without_the_rest_it_can(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = {tmp_path / file for file in wanted_settings(strict_arp=False, release="6.1")}
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("0\n")
    conntrack = tmp_path / "proc/sys/net/ipv4/vs/conntrack"
    with IpvsKernel().entered(), Ipvs() as ipvs:
        enforce(SETTINGS, ipvs, tmp_path)
        assert {file.read_text() for file in files} == {"1\n"}

        (tmp_path / "proc/sys/net/ipv4/ip_forward").unlink()
        enforce(SETTINGS, ipvs, tmp_path)
        assert "ip_forward cannot be read, 1 is wanted" in caplog.text

        conntrack.unlink()
        with pytest.raises(Unsupported, match=r"vs/conntrack cannot be read.*--init-only"):
            enforce(SETTINGS, ipvs, tmp_path)


@pytest.mark.parametrize(
    ("files", "is_there"),
    [
        ({}, False),
        ({"net/if_inet6": ""}, True),
        ({"net/if_inet6": "", "sys/net/ipv6/conf/default/disable_ipv6": "0\n"}, True),
        ({"net/if_inet6": "", "sys/net/ipv6/conf/default/disable_ipv6": "1\n"}, False),
        (
            {
                "net/if_inet6": "",
                "sys/net/ipv6/conf/default/disable_ipv6": "0\n",
                f"sys/net/ipv6/conf/{DEVICE}/disable_ipv6": "1\n",
            },
            False,
        ),
        (
            {
                "net/if_inet6": "",
                "sys/net/ipv6/conf/default/disable_ipv6": "1\n",
                f"sys/net/ipv6/conf/{DEVICE}/disable_ipv6": "0\n",
            },
            True,
        ),
    ],
    ids=[
        "not in the kernel",
        "no setting",
        "on",
        "off",
        "off for our device",
        "on for our device",
    ],
)
def test_ipv6_is_there_where_our_device_can_have_its_addresses(
    tmp_path: Path, files: dict[str, str], is_there: bool
) -> None:
    for name, text in files.items():
        file = tmp_path / "proc" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    assert has_ipv6(tmp_path) is is_there
