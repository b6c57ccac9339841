"""Which settings of the node make a difference."""

import argparse
from pathlib import Path

import pytest

from backends.iptables.node_settings import (
    ROUTE_LOCALNET,
    drops_invalid,
    route_localhost,
    serves_localhost,
)
from proxy.config import load
from proxy.config.flags import add_flags
from proxy.config.settings import Settings
from proxy.sysctls import TCP_BE_LIBERAL


def settings(*flags: str) -> Settings:
    parser = argparse.ArgumentParser()
    add_flags(parser)
    args = parser.parse_args(["--proxy-mode=iptables", *flags])
    return load.load(args, hostname="n1", read_file=lambda path: Path(path).read_bytes())[0]


@pytest.mark.parametrize(
    ("flags", "is_served"),
    [
        ((), True),
        (("--iptables-localhost-nodeports=false",), False),
        (("--nodeport-addresses=192.0.2.0/24",), False),
        (("--nodeport-addresses=192.0.2.0/24,127.0.0.0/8",), True),
        (("--nodeport-addresses=0.0.0.0/0",), True),
        (("--nodeport-addresses=2001:db8::/64",), True),
        (("--nodeport-addresses=primary",), False),
    ],
)
def test_loopback_has_node_ports_unless_they_are_elsewhere(
    flags: tuple[str, ...], is_served: bool
) -> None:
    assert serves_localhost(settings(*flags)) is is_served


@pytest.mark.parametrize(
    ("flags", "present", "is_dropped"),
    [
        ((), "0", True),
        ((), None, True),
        ((), "1", False),
        (("--conntrack-tcp-be-liberal=true",), "0", False),
    ],
)
def test_what_makes_no_sense_is_dropped_unless_tracking_is_liberal(
    flags: tuple[str, ...], present: str | None, is_dropped: bool, tmp_path: Path
) -> None:
    if present is not None:
        put(tmp_path / TCP_BE_LIBERAL, present)

    assert drops_invalid(settings(*flags), tmp_path) is is_dropped


def test_loopback_is_routed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = put(tmp_path / ROUTE_LOCALNET, "0")

    route_localhost(tmp_path)

    assert file.read_text() == "1\n"
    assert caplog.messages == []


def test_that_it_cannot_be_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    route_localhost(tmp_path)

    (message,) = caplog.messages
    assert ROUTE_LOCALNET in message
    assert "127.0.0.1" in message


def put(file: Path, text: str) -> Path:
    file.parent.mkdir(parents=True)
    file.write_text(text)
    return file
