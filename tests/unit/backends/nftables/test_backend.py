"""The wiring. That it keeps the laws of proxy/backend.py: tests/contract."""

import asyncio
import errno
import threading
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

import pytest

from backends.kernel import nft_elements, nft_messages
from backends.kernel.nft import Nft
from backends.kernel.nft_messages import Table
from backends.kernel.nft_numbers import NFPROTO_IPV4
from backends.kernel.nft_owned import RefusedElements
from backends.nftables import backend as module
from backends.nftables.backend import NftablesBackend
from backends.nftables.belief import Observed
from backends.nftables.layout import Layout, NftSettings
from backends.nftables.model import CLUSTER_IPS, NODEPORTS, SERVICES, TABLE
from proxy.backend import Retired
from proxy.desired import Frontend
from proxy.errors import KernelError, Unsupported
from proxy.model import FAMILIES, IPV4
from proxy.netlink.codec import Request
from tests.desired_strategies import Ports, desired_state, make_desired, many_services, whole
from tests.fakes.nft import NftKernel
from tests.unit.proxy.config.loading import settings_of

T = TypeVar("T")
LAYOUT = Layout(NftSettings(families=FAMILIES))
WEB = make_desired("default/web", "10.1.0.1:80")


def run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(work)


async def adopt(backend: NftablesBackend, desired: Ports) -> Observed:
    observed = await backend.observe()
    await backend.apply(backend.plan(whole(desired), observed, list(desired)), observed)
    await backend.apply(backend.prune(whole(desired), observed), observed)
    return observed


@pytest.fixture
def backend(nf_tables: NftKernel) -> NftablesBackend:
    return NftablesBackend(LAYOUT)


class Watched(Nft):
    """Which threads committed how many messages, and what happens while they do."""

    def __init__(self) -> None:
        super().__init__()
        self.commits: list[tuple[bool, int]] = []
        self.pause: threading.Event | None = None
        self.has_begun = threading.Event()

    def commit(self, messages: Sequence[Request]) -> None:
        is_main = threading.current_thread() is threading.main_thread()
        self.commits.append((is_main, len(messages)))
        self.has_begun.set()
        if self.pause is not None:
            self.pause.wait(10)
        super().commit(messages)


def door(backend: NftablesBackend) -> Watched:
    assert isinstance(backend._nft, Watched)
    return backend._nft


def test_small_changes_are_made_at_once_and_large_ones_in_a_thread(
    nf_tables: NftKernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "INLINE_OBJECTS", 100)
    backend = NftablesBackend(LAYOUT, Watched)

    async def work() -> None:
        observed = await adopt(backend, desired_state(WEB))
        desired = many_services(50)
        await backend.apply(backend.plan(whole(desired), observed, list(desired)), observed)

    run(work())

    # the first to adopt, then a chain and all that leads there
    assert [is_main for is_main, _ in door(backend).commits] == [True, True, False]


def test_nobody_asks_the_kernel_while_a_thread_talks_to_it(
    nf_tables: NftKernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "INLINE_OBJECTS", 0)
    backend = NftablesBackend(LAYOUT, Watched)

    async def work() -> None:
        observed = await backend.observe()
        nf_tables.generation += 1  # somebody else's transaction
        assert backend.has_foreign_change(observed)
        door(backend).pause = go_on = threading.Event()
        desired = desired_state(WEB)
        writing = asyncio.create_task(
            backend.apply(backend.plan(whole(desired), observed, list(desired)), observed)
        )
        await asyncio.to_thread(door(backend).has_begun.wait, 10)

        assert not backend.has_foreign_change(observed)

        go_on.set()
        await writing
        assert backend.has_foreign_change(observed)

    run(work())


def test_a_table_to_be_made_anew_is_announced(backend: NftablesBackend, nft: Nft) -> None:
    async def work() -> tuple[bool, bool]:
        await adopt(backend, desired_state(WEB))
        before = (await backend.observe()).is_rebuild_due
        nft.commit([nft_messages.new_table(NFPROTO_IPV4, TABLE, is_dormant=True)])
        return before, (await backend.observe()).is_rebuild_due

    assert run(work()) == (False, True)


def test_rules_that_could_make_a_loop_announce_it_too(backend: NftablesBackend, nft: Nft) -> None:
    async def work() -> Observed:
        await adopt(backend, desired_state(WEB))
        nft.commit(
            [
                nft_messages.flush_chain(NFPROTO_IPV4, TABLE, SERVICES),
                nft_messages.new_chain(NFPROTO_IPV4, TABLE, "stranger"),
            ]
        )
        return await backend.observe()

    assert run(work()).is_rebuild_due


def test_what_is_nobodys_and_refused_is_an_error(backend: NftablesBackend, nft: Nft) -> None:
    """An element to be pruned is gone already: the process has to look again."""
    foreign = bytes([1, 2, 3, 4])
    packed = [nft_elements.pack_key_element(foreign)]

    async def work() -> None:
        observed = await adopt(backend, desired_state(WEB))
        nft.commit(nft_elements.new_elements(NFPROTO_IPV4, TABLE, CLUSTER_IPS, packed))
        observed = await backend.observe()
        await backend.apply(backend.plan(whole(desired_state(WEB)), observed, [WEB.key]), observed)
        nft.commit(nft_elements.del_elements(NFPROTO_IPV4, TABLE, CLUSTER_IPS, packed))

        with pytest.raises(RefusedElements, match="message 0"):
            await backend.apply(backend.prune(whole(desired_state(WEB)), observed), observed)

    run(work())


def test_what_is_applied_is_counted(backend: NftablesBackend) -> None:
    async def work() -> tuple[int, int]:
        observed = await adopt(backend, desired_state(WEB))
        desired = desired_state(make_desired("default/web", "10.1.0.2:80"))
        applied = await backend.apply(
            backend.plan(whole(desired), observed, list(desired)), observed
        )
        return applied.operations, applied.transactions

    assert run(work()) == (2, 1)  # one slot deleted and added


def test_a_refused_plan_names_the_service_port_and_the_reason(
    backend: NftablesBackend, nft: Nft
) -> None:
    async def work() -> None:
        observed = await adopt(backend, {})
        desired = desired_state(WEB)
        plan = backend.plan(whole(desired), observed, list(desired))
        (services_key,) = [
            e.key for b in plan.transactions[-1].adds if b.set == SERVICES for e in b.elements
        ]
        element = nft_elements.pack_element(nft_elements.Element(services_key, (0, "")))
        nft.commit(nft_elements.new_elements(NFPROTO_IPV4, TABLE, SERVICES, [element]))

        applied = await backend.apply(plan, observed)

        assert list(applied.failed) == [WEB.key]
        assert "File exists" in applied.failed[WEB.key]
        elements = observed.tables["IPv4"].elements
        assert (elements["endpoints-tcp"], elements[SERVICES]) == ({}, {services_key: "drop"})

    run(work())


def test_what_was_there_before_stays_if_the_first_elements_are_refused(
    backend: NftablesBackend, nft: Nft
) -> None:
    """Chains were laid for them; all the same the ServicePort has nothing but what an earlier process left."""
    three = ("10.1.0.1:80", "10.1.0.2:80", "10.1.0.3:80")
    node_port = Frontend("NodePort", None, 30080)

    async def work() -> None:
        before = await adopt(backend, desired_state(make_desired("default/web", *three)))
        pools = dict(before.tables["IPv4"].elements["endpoints-tcp"])
        observed = await backend.observe()
        desired = desired_state(make_desired("default/web", *three[:2], outer=(node_port,)))
        plan = backend.plan(whole(desired), observed, list(desired))
        laid, *_ = plan.transactions
        assert laid.size == len(laid.chains) > 0
        key = bytes([6, 0, 0, 0]) + (30080).to_bytes(2) + bytes(2)
        element = nft_elements.pack_element(nft_elements.Element(key, (0, "")))
        nft.commit(nft_elements.new_elements(NFPROTO_IPV4, TABLE, NODEPORTS, [element]))

        applied = await backend.apply(plan, observed)
        await backend.apply(backend.prune(whole(desired), observed), observed)

        assert list(applied.failed) == [WEB.key]
        assert observed.tables["IPv4"].elements["endpoints-tcp"] == pools

    run(work())


def test_settings_shape_the_rules(nf_tables: NftKernel) -> None:
    settings = settings_of("--masquerade-all", "--cluster-cidr=10.244.0.0/16")

    shaped = NftablesBackend.from_settings(settings).layout.settings

    assert shaped.masquerade_all
    assert shaped.cluster_cidrs == ("10.244.0.0/16",)
    assert shaped.masquerade_mark == settings.masquerade_mark
    assert IPV4 in shaped.families


@pytest.mark.parametrize(
    ("mode", "flag", "interface"),
    [
        ("BridgeInterface", "--pod-bridge-interface=cni0", "cni0"),
        ("InterfaceNamePrefix", "--pod-interface-name-prefix=cali", "cali"),
    ],
)
def test_the_interface_of_pods_is_that_of_the_mode(
    nf_tables: NftKernel, mode: str, flag: str, interface: str
) -> None:
    settings = settings_of(f"--detect-local-mode={mode}", flag)

    shaped = NftablesBackend.from_settings(settings).layout.settings

    assert (shaped.local_mode, shaped.interface, shaped.cluster_cidrs) == (mode, interface, ())


def test_closing_leaves_the_tables(backend: NftablesBackend, nft: Nft) -> None:
    run(adopt(backend, desired_state(WEB)))

    backend.close()

    assert nft.find_table(NFPROTO_IPV4, TABLE) is not None


# --- giving way


def test_giving_way_removes_our_tables_in_one_transaction_and_no_others(
    nf_tables: NftKernel, backend: NftablesBackend, nft: Nft
) -> None:
    run(adopt(backend, desired_state(WEB)))
    nft.commit([nft_messages.new_table(NFPROTO_IPV4, "others")])
    before = nf_tables.generation

    assert run(backend.retire()) == Retired(removed=("2 nftables tables",))

    assert nf_tables.generation == before + 1
    assert [table.name for table in nft.list_tables(NFPROTO_IPV4)] == ["others"]
    assert run(backend.retire()) == Retired()


class WithoutNftables(Nft):
    """The answers of a kernel that has netfilter's netlink and no nftables."""

    def find_table(self, family: int, name: str) -> Table | None:
        raise KernelError("nftables query", errno.EINVAL, "Invalid argument")


class Denying(Nft):
    def find_table(self, family: int, name: str) -> Table | None:
        raise KernelError("nftables query", errno.EPERM, "Operation not permitted")


@pytest.mark.parametrize(
    ("door", "error"), [(WithoutNftables, Unsupported), (Denying, KernelError)]
)
def test_without_nftables_there_is_nothing_to_give_way_with(
    nf_tables: NftKernel, door: type[Nft], error: type[Exception]
) -> None:
    with pytest.raises(error):
        run(NftablesBackend(LAYOUT, door).retire())


class Reading(Nft):
    """How many threads read at the same time; a reader goes on when it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.has_begun, self.may_end = threading.Event(), threading.Event()
        self.readers = self.most = 0

    def find_table(self, family: int, name: str) -> Table | None:
        self.readers += 1
        self.most = max(self.most, self.readers)
        self.has_begun.set()
        self.may_end.wait(10)
        found = super().find_table(family, name)
        self.readers -= 1
        return found


def test_a_socket_is_free_only_when_a_cancelled_verification_has_ended(
    nf_tables: NftKernel,
) -> None:
    async def work() -> int:
        backend = NftablesBackend(LAYOUT)
        observed = await adopt(backend, desired_state(WEB))
        reading = backend._background = Reading()
        cancelled = asyncio.create_task(backend.verify(observed))
        await asyncio.to_thread(reading.has_begun.wait)
        reading.has_begun.clear()
        cancelled.cancel()
        again = asyncio.create_task(backend.verify(observed))
        assert not await asyncio.to_thread(reading.has_begun.wait, 0.05)
        reading.may_end.set()
        assert await again == []
        assert cancelled.cancelled()
        return reading.most

    assert run(work()) == 1
