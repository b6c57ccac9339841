"""Which settings of the node make a difference."""

from pathlib import Path

import pytest

from backends.iptables.node_settings import ROUTE_LOCALNET, is_liberal, route_localhost, secret
from proxy.sysctls import TCP_BE_LIBERAL


@pytest.mark.parametrize(("present", "is_so"), [("0", False), (None, False), ("1", True)])
def test_tracking_is_liberal_only_where_the_kernel_says_so(
    present: str | None, is_so: bool, tmp_path: Path
) -> None:
    if present is not None:
        put(tmp_path / TCP_BE_LIBERAL, present)

    assert is_liberal(tmp_path) is is_so


def test_a_node_has_a_secret_of_its_own_and_keeps_it(tmp_path: Path) -> None:
    files = ("etc/machine-id", "sys/class/dmi/id/product_uuid", "proc/sys/kernel/random/boot_id")
    secrets = [secret(tmp_path)]
    for file in files:
        put(tmp_path / file, file)
        secrets.append(secret(tmp_path))

    assert len(set(secrets)) == 4
    assert secret(tmp_path) == secrets[-1]
    assert {len(each) for each in secrets} == {64}


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
