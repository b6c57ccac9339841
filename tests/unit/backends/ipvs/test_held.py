"""What is read back, and how: its words, and between which steps. The laws: tests/contract."""

import asyncio

import pytest

from backends.ipvs.model import BOUND, DEVICE, EXTERNALS, REFUSED, SERVICES, TABLE
from backends.kernel import ipvs_messages, nft_elements, nft_messages
from backends.kernel.ipvs import Ipvs
from backends.kernel.ipvs_objects import Destination, Load, ServerId, VirtualServer
from backends.kernel.nft_numbers import NFPROTO_IPV4
from proxy.backend import Held
from proxy.desired import DesiredPort, Frontend
from proxy.model import PortKey
from tests.desired_strategies import desired_state, make_desired, many_services, whole
from tests.unit.backends.ipvs.driving import Kernel, Process, nft_of

SERVER = ServerId("IPv4", "TCP", "10.96.0.10", 80)
VIP = Frontend("LoadBalancer", "203.0.113.1", 80)
WEB = make_desired("default/web", "10.1.0.1:80", "10.1.0.2:80")
WEB_KEY = bytes([10, 96, 0, 10, 6, 0, 0, 0, 0, 80, 0, 0])


@pytest.fixture
def process(kernel: Kernel) -> Process:
    """It has programmed one service."""
    process = Process(kernel)
    asyncio.run(process.adopt(WEB))
    return process


async def read(
    process: Process, *ports: DesiredPort, keys: list[PortKey] | None = None
) -> list[Held]:
    looked = process.backend.read_back(whole(desired_state(*ports)), process.observed, keys)
    return [one async for one in looked]


def held_for(process: Process, port: DesiredPort = WEB) -> Held:
    (held,) = asyncio.run(read(process, port, keys=[port.key]))
    return held


def change_element(process: Process, name: str, key: bytes, *, is_new: bool) -> None:
    packed = [nft_elements.pack_key_element(key)]
    verb = nft_elements.new_elements if is_new else nft_elements.del_elements
    nft_of(process.backend._doors).commit(verb(NFPROTO_IPV4, TABLE, name, packed))


def tell_ipvs(process: Process, *messages: bytes) -> None:
    assert process.backend._doors.ipvs.carry_out(messages) == []


def test_a_service_port_is_told_as_a_packet_would_find_it(
    kernel: Kernel, process: Process
) -> None:
    kernel.ipvs.count(SERVER, "10.1.0.1", 80, Load(3, 2, 0))

    held = held_for(process)

    assert held.differences == ()
    assert held.lines[:3] == (
        "services 10.96.0.10 . tcp . 80",
        "bound 10.96.0.10",
        "TCP 10.96.0.10:80 rr",
    )
    assert set(held.lines[3:]) == {
        "→ 10.1.0.1:80 weight 1 active 3 inactive 2",
        "→ 10.1.0.2:80 weight 1 active 0 inactive 0",
    }


def test_external_frontends_and_persistence_are_told(kernel: Kernel) -> None:
    process = Process(kernel)
    sticky = make_desired("default/web", "10.1.0.1:80", outer=(VIP,), affinity_timeout_s=600)
    asyncio.run(process.adopt(sticky))
    mark = process.observed.rendered[sticky.key].marked[0].mark

    lines = held_for(process, sticky).lines

    assert f"externals 203.0.113.1 . tcp . 80 : mark {mark:#x}" in lines
    assert "TCP 10.96.0.10:80 rr persistent 600 s" in lines
    assert f"mark {mark:#x} (IPv4) mh" in lines


def change_everything(process: Process) -> None:
    change_element(process, SERVICES, WEB_KEY, is_new=False)
    change_element(process, REFUSED, WEB_KEY, is_new=True)
    tell_ipvs(
        process,
        ipvs_messages.set_server(VirtualServer(SERVER, "lc")),
        ipvs_messages.set_destination(SERVER, Destination("10.1.0.1", 80, weight=7)),
        ipvs_messages.del_destination(SERVER, "10.1.0.2", 80),
        ipvs_messages.new_destination(SERVER, Destination("192.0.2.9", 80)),
    )


@pytest.mark.parametrize("is_whole", [False, True], ids=["by name", "of everything"])
def test_what_somebody_changed_is_told_by_what_it_was(process: Process, is_whole: bool) -> None:
    change_everything(process)

    held = asyncio.run(read(process, WEB))[0] if is_whole else held_for(process)

    assert set(held.differences) == {
        "missing: services 10.96.0.10 . tcp . 80",
        "unexpected: refused 10.96.0.10 . tcp . 80",
        "virtual server TCP 10.96.0.10:80: lc, flags 0x0, was rr, flags 0x0",
        "destination 10.1.0.1:80 of TCP 10.96.0.10:80: weight 7, was weight 1",
        "destination 10.1.0.2:80 of TCP 10.96.0.10:80: none, was weight 1",
        "destination 192.0.2.9:80 of TCP 10.96.0.10:80: weight 1, was none",
    }


def test_a_frontend_that_leads_elsewhere_is_changed(kernel: Kernel) -> None:
    process = Process(kernel)
    web = make_desired("default/web", "10.1.0.1:80", outer=(VIP,))
    asyncio.run(process.adopt(web))
    (key,) = process.observed.tables["IPv4"].elements[EXTERNALS]
    change_element(process, EXTERNALS, key, is_new=False)
    packed = [nft_elements.pack_data_element(key, (0x1234).to_bytes(4, "little"))]
    nft_of(process.backend._doors).commit(
        nft_elements.new_elements(NFPROTO_IPV4, TABLE, EXTERNALS, packed)
    )

    assert held_for(process, web).differences == (
        "changed: externals 203.0.113.1 . tcp . 80 : mark 0x1234",
    )


def test_of_a_service_port_that_is_not_programmed_it_is_told_what_stands_in_its_place(
    kernel: Kernel,
) -> None:
    process = Process(kernel)
    asyncio.run(process.adopt())
    change_element(process, REFUSED, WEB_KEY, is_new=True)
    tell_ipvs(process, ipvs_messages.new_server(VirtualServer(SERVER, "lc")))

    assert set(held_for(process).differences) == {
        "unexpected: refused 10.96.0.10 . tcp . 80",
        "virtual server TCP 10.96.0.10:80: lc, flags 0x0, was none",
    }


def test_what_no_service_port_stands_for_is_told_at_the_end(process: Process) -> None:
    _, before = asyncio.run(read(process, WEB))
    assert (before.key, before.differences) == (None, ())
    assert before.lines[-1] == "1 virtual servers, 1 addresses"
    assert "IPv4: 1 elements in services" in before.lines

    doors, device = process.backend._doors, process.observed.device
    assert device is not None
    change_element(process, BOUND, bytes([192, 0, 2, 1]), is_new=True)
    doors.links.bind(device, ["192.0.2.1"])
    foreign = VirtualServer(SERVER._replace(address="192.0.2.1"), "rr")
    tell_ipvs(process, ipvs_messages.new_server(foreign))
    nft_of(doors).commit([nft_messages.flush_chain(NFPROTO_IPV4, TABLE, "outer")])

    web, after = asyncio.run(read(process, WEB))

    assert web.differences == ()
    assert after.differences == (
        "IPv4: our table, or a chain or set in it, was changed",
        "unexpected: address 192.0.2.1",
        "virtual server TCP 192.0.2.1:80",
    )
    assert after.lines[-1] == "2 virtual servers, 2 addresses"


def test_an_element_that_we_did_not_make_is_told(process: Process) -> None:
    change_element(process, BOUND, bytes([192, 0, 2, 1]), is_new=True)

    web, everything_else = asyncio.run(read(process, WEB))

    assert web.differences == ()
    assert everything_else.differences == ("IPv4: bound 192.0.2.1",)


def test_what_is_told_of_a_service_port_is_not_told_again_at_the_end(process: Process) -> None:
    change_everything(process)

    web, everything_else = asyncio.run(read(process, WEB))

    assert len(web.differences) == 6
    assert everything_else.differences == ()


def test_addresses_of_service_ports_are_told_at_the_end(process: Process) -> None:
    assert process.observed.device is not None
    process.backend._doors.links.unbind(process.observed.device, ["10.96.0.10"])

    *_, everything_else = asyncio.run(read(process, WEB))

    assert everything_else.differences == ("missing: address 10.96.0.10",)


def test_a_device_that_is_gone_is_told_once(process: Process) -> None:
    process.backend._doors.links.remove_dummy(DEVICE)

    *_, everything_else = asyncio.run(read(process, WEB))

    assert everything_else.differences == ("our device was made, removed or set down",)


def test_of_many_strange_objects_the_first_are_told_and_how_many_more_there_are(
    process: Process,
) -> None:
    packed = [nft_elements.pack_key_element(bytes([192, 0, 2, n])) for n in range(103)]
    nft_of(process.backend._doors).commit(
        nft_elements.new_elements(NFPROTO_IPV4, TABLE, BOUND, packed)
    )

    *_, everything_else = asyncio.run(read(process, WEB))

    *first, last = everything_else.differences
    assert len(first) == 100
    assert first == sorted(first)
    assert last == "3 more that are not as they should be"


@pytest.mark.parametrize("is_whole", [False, True], ids=["by name", "of everything"])
def test_how_long_a_destination_may_drain_is_told(kernel: Kernel, is_whole: bool) -> None:
    process = Process(kernel, now_s=lambda: 50.0)
    asyncio.run(process.adopt(WEB))
    kernel.ipvs.count(SERVER, "10.1.0.2", 80, Load(3, 0, 0))
    less = make_desired("default/web", "10.1.0.1:80")
    asyncio.run(process.program(less))

    held = asyncio.run(read(process, less))[0] if is_whole else held_for(process, less)

    (line,) = [line for line in held.lines if "10.1.0.2" in line]
    counts = "" if is_whole else " active 3 inactive 0"
    assert line == f"→ 10.1.0.2:80 weight 0{counts} drains, 900 s left"


def test_changes_of_ours_made_meanwhile_are_no_differences(kernel: Kernel) -> None:
    process = Process(kernel)
    ports = many_services(10)
    asyncio.run(process.adopt(*ports.values()))
    later = {
        key: make_desired(
            f"default/{key.name.name}", "10.9.9.9:1", cluster_ip=str(port.frontends[0].address)
        )
        for key, port in ports.items()
    }

    async def work() -> list[Held]:
        looked = process.backend.read_back(whole(ports), process.observed, None)
        held = [await anext(looked)]
        await process.program(*later.values())
        return [*held, *[one async for one in looked]]

    held = asyncio.run(work())

    assert len(held) == len(ports) + 1
    assert [one.differences for one in held if one.differences] == []
    assert any("10.9.9.9:1" in line for one in held[1:] for line in one.lines)


def test_nothing_is_read_while_a_step_is_under_way(process: Process) -> None:
    async def work() -> bool:
        async with process.backend._lock:
            reading = asyncio.create_task(read(process, WEB, keys=[WEB.key]))
            for _ in range(10):
                await asyncio.sleep(0)
            is_waiting = not reading.done()
        assert (await reading)[0].differences == ()
        return is_waiting

    assert asyncio.run(work())


def test_changes_need_not_wait_while_everything_is_listed(process: Process) -> None:
    backend = process.backend
    was_held: list[bool] = []

    class Watched(Ipvs):
        def list_servers(self) -> list[VirtualServer]:
            was_held.append(backend._lock.locked())
            return super().list_servers()

    backend._opened = [doors._replace(ipvs=Watched()) for doors in backend._opened]
    tell_ipvs(process, ipvs_messages.new_server(VirtualServer(SERVER._replace(port=8080), "rr")))

    *_, everything_else = asyncio.run(read(process, WEB))

    assert everything_else.differences == ("virtual server TCP 10.96.0.10:8080",)
    assert was_held == [False]
