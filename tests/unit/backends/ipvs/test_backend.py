"""The wiring. That it keeps the laws of proxy/backend.py: tests/contract."""

import asyncio
import errno
import threading
from collections.abc import Sequence
from typing import Any

import pytest
from msgspec import structs

from backends.ipvs import backend as module
from backends.ipvs import nft_side
from backends.ipvs.backend import IpvsBackend
from backends.ipvs.kernel import carry_out
from backends.ipvs.model import DEVICE, SERVICES, TABLE
from backends.kernel import ipvs_messages, nft_messages
from backends.kernel.ipvs_objects import Destination, ServerId, VirtualServer
from backends.kernel.links import Links, Unbound
from backends.kernel.nft import Nft
from backends.kernel.nft_numbers import NFPROTO_IPV4
from proxy.errors import KernelError
from proxy.model import FAMILIES
from proxy.netlink.codec import Request
from tests.desired_strategies import make_desired, whole
from tests.unit.backends.ipvs.driving import API, LAYOUT, WEB, Kernel, Process, nft_of
from tests.unit.proxy.config.loading import settings_of

SERVER = ServerId("IPv4", "TCP", "10.96.0.10", 80)


class Watched(Nft):
    """In which threads transactions were committed, and what they wait for."""

    def __init__(self) -> None:
        super().__init__()
        self.is_main: list[bool] = []
        self.pause: threading.Event | None = None
        self.has_begun = threading.Event()

    def commit(self, messages: Sequence[Request]) -> None:
        self.is_main.append(threading.current_thread() is threading.main_thread())
        self.has_begun.set()
        if self.pause is not None:
            self.pause.wait(10)
        super().commit(messages)


def watched(process: Process) -> Watched:
    """Have the process talk through such a door."""
    process.backend = IpvsBackend(LAYOUT, open_nft=Watched)
    door = nft_of(process.backend._doors)
    assert isinstance(door, Watched)
    return door


def test_small_steps_are_taken_at_once_and_large_ones_in_a_thread(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "INLINE_OBJECTS", 5)
    monkeypatch.setattr(nft_side, "INLINE_OBJECTS", 5)
    process = Process(kernel)
    door = watched(process)

    asyncio.run(process.adopt(WEB))
    assert door.is_main == [False, True]  # tables with all that is in them, then the frontend
    asyncio.run(process.program(WEB, API))
    assert door.is_main[2:] == [True, True]


def test_the_event_loop_does_not_wait_while_the_kernel_changes_schedulers(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_main = list[bool]()

    def noted(*given: Any) -> Any:
        is_main.append(threading.current_thread() is threading.main_thread())
        return carry_out(*given)

    process = Process(kernel)
    asyncio.run(process.adopt(WEB))
    monkeypatch.setattr("backends.ipvs.kernel.carry_out", noted)

    asyncio.run(process.program(structs.replace(WEB, affinity_timeout_s=60)))
    assert is_main == [False]
    asyncio.run(process.program(API))
    assert is_main[1:] == [True]


def test_nobody_asks_the_kernel_while_a_thread_talks_to_it(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "INLINE_OBJECTS", 0)
    monkeypatch.setattr(nft_side, "INLINE_OBJECTS", 0)
    process = Process(kernel)
    door = watched(process)

    async def work() -> None:
        await process.adopt()
        kernel.nft.generation += 1  # somebody else's transaction
        assert process.backend.has_foreign_change(process.observed)
        door.has_begun.clear()
        door.pause = go_on = threading.Event()
        writing = asyncio.create_task(process.program(WEB))
        assert await asyncio.to_thread(door.has_begun.wait, 10)
        assert not door.is_main[-1]

        assert not process.backend.has_foreign_change(process.observed)

        go_on.set()
        await writing
        assert process.backend.has_foreign_change(process.observed)

    asyncio.run(work())


def test_our_own_changes_are_not_foreign(kernel: Kernel) -> None:
    process = Process(kernel)

    asyncio.run(process.adopt(WEB, API))

    assert not process.backend.has_foreign_change(process.observed)


def test_an_address_that_somebody_takes_away_is_noticed_at_once_and_put_back(
    kernel: Kernel,
) -> None:
    process = Process(kernel)

    async def work() -> None:
        await process.adopt(WEB, API)
        observed, backend = process.observed, process.backend
        assert observed.device is not None
        assert not backend.has_foreign_change(observed)
        with Links() as admin:
            admin.unbind(observed.device, ["10.96.0.10"])
        assert backend.has_foreign_change(observed)
        assert not backend.has_foreign_change(observed)  # told once

        (drift,) = await backend.verify(observed)
        assert (drift.key, drift.what) == (
            WEB.key, "missing address 10.96.0.10 on our device",
        )  # fmt: skip
        await process.program(WEB, API)
        assert "10.96.0.10" in observed.bound
        assert not backend.has_foreign_change(observed)

    asyncio.run(work())


def test_an_address_that_kube_proxy_has_for_a_new_service_is_on_no_other_interface(
    kernel: Kernel,
) -> None:
    process = Process(kernel)
    asyncio.run(process.adopt(WEB))

    kernel.links.add("kube-ipvs0", "dummy", "10.96.0.10", "10.96.0.11")

    assert not process.backend.has_foreign_change(process.observed)
    asyncio.run(process.program(API))
    assert "10.96.0.11" in process.observed.bound


def test_where_announcements_are_lost_everything_is_compared(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = Process(kernel)
    asyncio.run(process.adopt(WEB))
    assert not process.backend.has_foreign_change(process.observed)

    monkeypatch.setattr(process.backend._news, "take", lambda: None)

    assert process.backend.has_foreign_change(process.observed)


def test_what_is_applied_is_counted(kernel: Kernel) -> None:
    process = Process(kernel)
    asyncio.run(process.adopt(WEB))

    applied = asyncio.run(
        process.program(WEB, make_desired("default/api", cluster_ip="10.96.0.11"))
    )

    assert (applied.operations, applied.transactions) == (3, 3)  # bound, the address, refused
    assert applied.failed == {}


def test_without_ipv6_its_services_are_no_business_of_ours_and_that_is_told_once(
    kernel: Kernel, caplog: pytest.LogCaptureFixture
) -> None:
    process = Process(kernel)
    process.backend = backend = IpvsBackend(LAYOUT, has_ipv6=lambda: False)
    six = make_desired("default/six", "fd00::1:80", cluster_ip="fd00:10:96::10", family="IPv6")

    asyncio.run(backend.probe())
    asyncio.run(process.adopt(WEB, six))

    assert list(process.observed.rendered) == [WEB.key]
    assert process.observed.bound.keys() == {"10.96.0.10"}
    assert (
        backend.plan(whole({WEB.key: WEB, six.key: six}), process.observed, [six.key]).steps == ()
    )
    assert caplog.messages == [
        "this host has no IPv6, or has it switched off: IPv6 services are not served"
    ]


def test_to_find_out_whether_it_can_be_had_sets_nothing(kernel: Kernel) -> None:
    seen: list[object] = []
    backend = IpvsBackend(LAYOUT, prepare=seen.append)

    asyncio.run(backend.probe())
    assert seen == []

    asyncio.run(backend.prepare())
    assert len(seen) == 1


# --- refusals


def test_of_a_refused_message_to_ipvs_the_service_port_is_named_and_belief_corrected(
    kernel: Kernel,
) -> None:
    process = Process(kernel)
    asyncio.run(process.adopt(API))
    occupant = VirtualServer(SERVER, "lc")
    process.backend._doors.ipvs.carry_out([ipvs_messages.new_server(occupant)])

    applied = asyncio.run(process.program(WEB, API))

    assert list(applied.failed) == [WEB.key]
    assert "it is there already" in applied.failed[WEB.key]
    assert process.observed.servers[SERVER] == occupant
    # it is there, with the destination that was sent after it, and what was let through to it is not
    assert list(process.observed.destinations[SERVER]) == [("10.1.0.1", 80)]
    assert len(process.observed.tables["IPv4"].elements[SERVICES]) == 1

    assert asyncio.run(process.program(WEB, API)).failed == {}
    assert process.observed.servers[SERVER].scheduler == "rr"


def test_what_drains_has_its_time_although_another_message_to_its_server_is_refused(
    kernel: Kernel,
) -> None:
    process = Process(kernel, drain_s=100.0)
    asyncio.run(process.adopt(make_desired("default/web", "10.1.0.1:80", "10.1.0.2:80")))
    occupant = Destination("10.1.0.3", 80, weight=7)
    process.backend._doors.ipvs.carry_out([ipvs_messages.new_destination(SERVER, occupant)])

    replaced = make_desired("default/web", "10.1.0.1:80", "10.1.0.3:80")
    applied = asyncio.run(process.program(replaced))

    assert list(applied.failed) == [replaced.key]
    assert process.observed.draining == {SERVER: {("10.1.0.2", 80): 100.0}}


def test_of_a_refused_element_the_service_port_is_named_and_belief_corrected(
    kernel: Kernel,
) -> None:
    process = Process(kernel)
    asyncio.run(process.adopt(WEB))
    nft = nft_of(process.backend._doors)
    found = nft.find_set(NFPROTO_IPV4, TABLE, SERVICES)
    assert found is not None
    size = nft_messages.new_set(
        NFPROTO_IPV4, TABLE, SERVICES, key_type=found.key_type, key_length=found.key_length, size=1
    )
    nft.commit([size])

    applied = asyncio.run(process.program(WEB, API))

    assert list(applied.failed) == [API.key]
    assert len(process.observed.tables["IPv4"].elements[SERVICES]) == 1
    assert "10.96.0.11" in process.observed.bound  # what came before was done


class Refusing(Links):
    """A kernel that will not have one address."""

    number = errno.EADDRNOTAVAIL

    def bind(self, index: int, addresses: object) -> list[Unbound]:
        assert isinstance(addresses, list)
        wanted = [address for address in addresses if address != "10.96.0.11"]
        refused = [Unbound("10.96.0.11", self.number, "no")] if wanted != addresses else []
        return [*super().bind(index, wanted), *refused]


class WithoutDevice(Refusing):
    number = errno.ENODEV


def test_of_a_refused_address_the_service_port_is_named(kernel: Kernel) -> None:
    process = Process(kernel)
    process.backend = IpvsBackend(LAYOUT, open_links=Refusing)

    asyncio.run(process.adopt())
    applied = asyncio.run(process.program(WEB, API))

    assert applied.failed == {API.key: "10.96.0.11: no"}
    assert list(process.observed.bound) == ["10.96.0.10"]


def test_a_device_that_is_gone_is_nobodys_fault(kernel: Kernel) -> None:
    process = Process(kernel)
    process.backend = IpvsBackend(LAYOUT, open_links=WithoutDevice)
    asyncio.run(process.adopt())

    with pytest.raises(KernelError, match=DEVICE):
        asyncio.run(process.program(WEB, API))

    assert process.observed.device is None


# --- the end


def test_closing_leaves_everything_in_place(kernel: Kernel) -> None:
    process = Process(kernel)
    asyncio.run(process.adopt(WEB))

    process.backend.close()

    found = asyncio.run(IpvsBackend(LAYOUT).observe())
    assert list(found.servers) == [SERVER]
    assert list(found.bound) == ["10.96.0.10"]
    assert found.tables["IPv4"].is_present


# --- settings


def test_settings_shape_virtual_servers_and_rules() -> None:
    settings = settings_of(
        "--proxy-mode=ipvs",
        "--masquerade-all",
        "--cluster-cidr=10.244.0.0/16",
        "--ipvs-scheduler=lc",
        "--ipvs-exclude-cidrs=192.0.2.0/24",
    )

    shaped = IpvsBackend.from_settings(settings).layout.settings

    assert (shaped.masquerade_all, shaped.scheduler) == (True, "lc")
    assert (shaped.cluster_cidrs, shaped.exclude_cidrs) == (("10.244.0.0/16",), ("192.0.2.0/24",))
    assert shaped.masquerade_mark == settings.masquerade_mark
    assert shaped.families == FAMILIES  # what a family needs is found out by the probe


@pytest.mark.parametrize(
    ("mode", "flag", "interface"),
    [
        ("BridgeInterface", "--pod-bridge-interface=cni0", "cni0"),
        ("InterfaceNamePrefix", "--pod-interface-name-prefix=cali", "cali"),
    ],
)
def test_the_interface_of_pods_is_that_of_the_mode(mode: str, flag: str, interface: str) -> None:
    shaped = IpvsBackend.from_settings(
        settings_of(f"--detect-local-mode={mode}", flag)
    ).layout.settings

    assert (shaped.local_mode, shaped.interface, shaped.cluster_cidrs) == (mode, interface, ())
