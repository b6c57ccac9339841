"""What the loop does about what concerns the whole node, and about what is due later."""

import pytest

from proxy.desired import DesiredState
from proxy.desired_node import NodeSettings
from tests.daemon import Daemon, make_daemon
from tests.model_builders import make_endpoint, make_node, make_service, make_slice

SETTINGS = NodeSettings(node_port_addresses=("192.0.2.0/24",))
WORLD = (make_node(addresses=("192.0.2.1",)), make_service(), make_slice("web-a", make_endpoint()))


@pytest.fixture
def daemon(monkeypatch: pytest.MonkeyPatch) -> Daemon:
    return make_daemon(monkeypatch)


def configure(daemon: Daemon, settings: NodeSettings) -> None:
    daemon.desired = daemon.reconciler.desired = DesiredState(settings)


def listening(daemon: Daemon) -> list[tuple[str, ...] | None]:
    return [node.node_port_addresses.get("IPv4") for node in daemon.backend.told]


def test_a_new_address_of_the_host_is_planned_once_and_at_once(daemon: Daemon) -> None:
    configure(daemon, SETTINGS)

    async def life() -> None:
        daemon.reconciler.hear_host_addresses(frozenset(["192.0.2.1"]))
        daemon.tell_all(*WORLD)
        await daemon.pass_s()
        daemon.reconciler.hear_host_addresses(frozenset(["192.0.2.1", "192.0.2.2"]))
        await daemon.pass_s()
        daemon.reconciler.hear_host_addresses(frozenset(["192.0.2.2", "192.0.2.1"]))
        await daemon.pass_s(10)

    daemon.live(life)

    assert listening(daemon) == [("192.0.2.1", "192.0.2.2")]
    assert daemon.desired.node == daemon.backend.told[-1]


def test_an_address_that_is_in_no_range_is_nobodys_concern(daemon: Daemon) -> None:
    configure(daemon, SETTINGS)

    async def life() -> None:
        daemon.reconciler.hear_host_addresses(frozenset(["192.0.2.1"]))
        daemon.tell_all(*WORLD)
        await daemon.pass_s()
        daemon.reconciler.hear_host_addresses(frozenset(["192.0.2.1", "10.1.2.3"]))
        await daemon.pass_s(10)

    daemon.live(life)

    assert listening(daemon) == []


def test_a_change_of_the_own_node_that_matters_is_planned(daemon: Daemon) -> None:
    configure(daemon, NodeSettings(uses_pod_cidrs=True))

    async def life() -> None:
        daemon.tell_all(*WORLD)
        await daemon.pass_s()
        daemon.tell(make_node(addresses=("192.0.2.1",), pod_cidrs=("10.244.1.0/24",)))
        await daemon.pass_s()

    daemon.live(life)

    assert [node.pod_cidrs for node in daemon.backend.told] == [("10.244.1.0/24",)]


@pytest.mark.parametrize("uses", [True, False])
def test_whether_ranges_of_pods_are_needed_is_part_of_the_condition(
    daemon: Daemon, *, uses: bool
) -> None:
    configure(daemon, NodeSettings(uses_pod_cidrs=uses))

    assert daemon.reconciler.condition(daemon.now_s).uses_pod_cidrs is uses


def test_what_a_batch_has_left_for_later_is_planned_when_it_is_due(daemon: Daemon) -> None:
    configure(daemon, NodeSettings())

    async def life() -> None:
        daemon.backend.again_s = 1.0
        daemon.tell_all(*WORLD)
        await daemon.pass_s(0.9)
        assert daemon.backend.told == []
        await daemon.pass_s(0.2)
        assert len(daemon.backend.told) == 1
        await daemon.pass_s(20)

    daemon.live(life)

    assert len(daemon.backend.told) == 1
