"""What is read back, and how: its words, its pieces, and between which transactions. The laws: tests/contract."""

import asyncio
from collections.abc import Sequence

import pytest
from msgspec import structs

from backends.kernel import nft_elements
from backends.kernel.nft import Nft
from backends.kernel.nft_numbers import NFPROTO_IPV4
from backends.nftables import held as module
from backends.nftables.backend import NftablesBackend
from backends.nftables.belief import Observed
from backends.nftables.layout import Layout, NftSettings
from backends.nftables.model import (
    AFFINITY_ENDPOINTS,
    CLUSTER_IPS,
    ENDPOINTS,
    REFUSED,
    SERVICES,
    TABLE,
)
from proxy.backend import Held
from proxy.model import FAMILIES, PortKey
from tests.desired_strategies import Ports, desired_state, make_desired, many_services, whole
from tests.fakes.nft import NftKernel
from tests.unit.backends.nftables.test_backend import adopt

LAYOUT = Layout(NftSettings(families=FAMILIES))
WEB = make_desired("default/web", *[f"10.1.0.{n}:80" for n in range(1, 6)])
WEB_KEY = bytes([10, 96, 0, 10, 6, 0, 0, 0, 0, 80, 0, 0])


@pytest.fixture
def backend(nf_tables: NftKernel) -> NftablesBackend:
    return NftablesBackend(LAYOUT)


async def read(
    backend: NftablesBackend,
    desired: Ports,
    observed: Observed,
    keys: Sequence[PortKey] | None,
) -> list[Held]:
    return [one async for one in backend.read_back(whole(desired), observed, keys)]


def test_a_service_port_is_told_as_a_packet_would_find_it(backend: NftablesBackend) -> None:
    async def work() -> Held:
        observed = await adopt(backend, desired_state(WEB))
        (held,) = await read(backend, desired_state(WEB), observed, [WEB.key])
        return held

    assert asyncio.run(work()).lines == (
        "services 10.96.0.10 . tcp . 80 : goto pick-tcp-8",
        "cluster-ips 10.96.0.10",
        *[f"endpoints-tcp 10.96.0.10 . 80 . {n} : 10.1.0.{n + 1} . 80" for n in range(5)],
    )


def test_endpoints_that_clients_stay_with_are_told_too(backend: NftablesBackend) -> None:
    sticky = structs.replace(WEB, affinity_timeout_s=60)

    async def work() -> Held:
        observed = await adopt(backend, desired_state(sticky))
        (held,) = await read(backend, desired_state(sticky), observed, [sticky.key])
        return held

    lines = asyncio.run(work()).lines
    assert len([each for each in lines if each.startswith(f"{AFFINITY_ENDPOINTS} ")]) == 5


def test_what_somebody_changed_is_told_by_what_it_was(backend: NftablesBackend) -> None:
    """A verdict replaced, a slot emptied, one filled that a packet could draw, and one that no packet draws."""

    def slot(number: int) -> bytes:
        return bytes([10, 96, 0, 10, 0, 80, 0, 0]) + number.to_bytes(4, "little")

    def change(nft: Nft) -> None:
        slots = ENDPOINTS["TCP"]
        data = bytes([192, 0, 2, 1, 0, 9, 0, 0])
        add, delete = nft_elements.new_elements, nft_elements.del_elements
        nft.commit(
            [
                *delete(NFPROTO_IPV4, TABLE, SERVICES, [nft_elements.pack_key_element(WEB_KEY)]),
                *add(
                    NFPROTO_IPV4,
                    TABLE,
                    SERVICES,
                    [nft_elements.pack_element(nft_elements.Element(WEB_KEY, (0, "")))],
                ),
                *delete(NFPROTO_IPV4, TABLE, slots, [nft_elements.pack_key_element(slot(2))]),
                *add(
                    NFPROTO_IPV4,
                    TABLE,
                    slots,
                    [nft_elements.pack_data_element(slot(n), data) for n in (7, 70)],
                ),
                *add(NFPROTO_IPV4, TABLE, REFUSED, [nft_elements.pack_key_element(WEB_KEY)]),
            ]
        )

    async def work() -> tuple[Held, Held]:
        desired = desired_state(WEB)
        observed = await adopt(backend, desired)
        change(backend._nft)
        held, everything_else = await read(backend, desired, observed, None)
        return held, everything_else

    held, everything_else = asyncio.run(work())

    assert set(held.differences) == {
        "changed: services 10.96.0.10 . tcp . 80 : drop,"
        " was services 10.96.0.10 . tcp . 80 : goto pick-tcp-8",
        "unexpected: refused 10.96.0.10 . tcp . 80",
        "missing: endpoints-tcp 10.96.0.10 . 80 . 2 : 10.1.0.3 . 80",
        "unexpected: endpoints-tcp 10.96.0.10 . 80 . 7 : 192.0.2.1 . 9",
    }
    assert (
        "unexpected: endpoints-tcp 10.96.0.10 . 80 . 70 : 192.0.2.1 . 9"
        in everything_else.differences
    )
    assert "IPv4: 6 elements in endpoints-tcp" in everything_else.lines


def test_of_a_refused_service_port_it_is_told_what_stands_in_its_place(
    backend: NftablesBackend,
) -> None:
    async def work() -> Held:
        observed = await adopt(backend, {})
        element = nft_elements.pack_element(nft_elements.Element(WEB_KEY, (0, "")))
        backend._nft.commit(nft_elements.new_elements(NFPROTO_IPV4, TABLE, SERVICES, [element]))
        (held,) = await read(backend, desired_state(WEB), observed, [WEB.key])
        return held

    assert asyncio.run(work()).differences == (
        "unexpected: services 10.96.0.10 . tcp . 80 : drop",
    )


def test_a_table_that_is_gone_is_missing_and_told(backend: NftablesBackend) -> None:
    async def work() -> list[Held]:
        desired = desired_state(WEB)
        observed = await adopt(backend, desired)
        await NftablesBackend(LAYOUT).cleanup()
        return await read(backend, desired, observed, None)

    web, everything_else = asyncio.run(work())

    assert web.lines == ()
    assert len(web.differences) == 7
    assert "IPv4: no table" in everything_else.lines
    assert len(everything_else.differences) == 2


def test_many_strangers_are_counted(
    backend: NftablesBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_STRANGERS_SHOWN", 3)

    async def work() -> Held:
        observed = await adopt(backend, {})
        keys = [nft_elements.pack_key_element(bytes([192, 0, 2, n])) for n in range(10)]
        backend._nft.commit(nft_elements.new_elements(NFPROTO_IPV4, TABLE, CLUSTER_IPS, keys))
        (held,) = await read(backend, {}, observed, None)
        return held

    differences = asyncio.run(work()).differences

    assert len(differences) == 4
    assert differences[-1] == "7 more that we did not make"


def test_others_run_between_two_pieces_and_changes_made_meanwhile_are_no_differences(
    backend: NftablesBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ELEMENTS_AT_ONCE", 10)

    async def work() -> tuple[list[Held], int]:
        desired = many_services(60)
        observed = await adopt(backend, desired)
        changes = 0

        async def change() -> None:
            nonlocal changes
            for number in range(1, 61):
                address = f"10.96.0.{number}"
                new = make_desired(f"default/s{number}", "10.9.9.9:1", cluster_ip=address)
                desired[new.key] = new
                await backend.apply(backend.plan(whole(desired), observed, [new.key]), observed)
                changes += 1
                await asyncio.sleep(0)

        changing = asyncio.create_task(change())
        held = await read(backend, desired, observed, None)
        at_end = changes
        await changing
        return held, at_end

    held, changes_meanwhile = asyncio.run(work())

    assert [one.differences for one in held if one.differences] == []
    assert changes_meanwhile > 30


def test_nothing_is_read_while_a_transaction_is_under_way(backend: NftablesBackend) -> None:
    async def work() -> bool:
        desired = desired_state(WEB)
        observed = await adopt(backend, desired)
        async with backend._lock:
            reading = asyncio.create_task(read(backend, desired, observed, [WEB.key]))
            for _ in range(10):
                await asyncio.sleep(0)
            is_waiting = not reading.done()
        await reading
        return is_waiting

    assert asyncio.run(work())
