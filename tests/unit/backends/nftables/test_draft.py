"""What a change of frontends and policies writes, and in how many steps."""

import pytest

from backends.nftables.belief import Observed
from backends.nftables.model import EXTERNALS, NODEPORTS, SERVICES
from backends.nftables.plan import plan
from backends.nftables.planned import NftPlan
from backends.nftables.prune import prune
from proxy.desired import DesiredPort, Frontend
from proxy.desired_node import DesiredNode
from tests.desired_strategies import make_desired, whole
from tests.model_builders import make_endpoint
from tests.unit.backends.nftables.planning import (
    LAYOUT,
    A,
    B,
    C,
    D,
    believing,
    carry_out,
    left,
    plan_for,
    steps,
    written,
)

NODE_PORT = Frontend("NodePort", None, 30080)
EXTERNAL_IP = Frontend("ExternalIP", "198.51.100.1", 80)
VIP = Frontend("LoadBalancer", "203.0.113.1", 80)
ALL = (NODE_PORT, EXTERNAL_IP, VIP)


def service(*endpoints: str, local: tuple[str, ...] = (), **options: object) -> DesiredPort:
    """The service with every kind of frontend."""
    here = [make_endpoint(address, is_local=True) for address in local]
    return make_desired("default/web", *endpoints, *here, **{"outer": ALL, **options})  # type: ignore[arg-type] # options are its own


def verdicts(observed: Observed, name: str) -> set[object]:
    return set(observed.tables["IPv4"].elements[name].values())


def test_each_frontend_has_slots_of_its_own() -> None:
    observed = believing(service(A, B, C))

    assert written_counts(observed, service(A, B, D)) == [
        {"endpoints-tcp": 3, "nodeport-endpoints-tcp": 1}
    ]
    assert verdicts(observed, SERVICES) == {"goto pick-tcp-4"}
    assert verdicts(observed, EXTERNALS) == {"goto external-tcp-4"}
    assert verdicts(observed, NODEPORTS) == {"goto external-nodeport-tcp-4"}


def written_counts(observed: Observed, *ports: DesiredPort) -> list[dict[str, int]]:
    return steps(plan_for(observed, *ports))


def test_a_change_of_one_service_touches_nothing_of_another() -> None:
    other = make_desired(
        "default/api", A, cluster_ip="10.96.0.11", outer=(Frontend("NodePort", None, 30081),)
    )
    observed = believing(service(A, B, C), other)

    planned = plan_for(observed, service(A, B, D), other)

    owners = {
        element.owner.name.name
        for transaction in planned.transactions
        for batch in (*transaction.deletes, *transaction.adds)
        for element in batch.elements
        if element.owner is not None
    }
    assert owners == {"web"}
    assert steps(planned) == [{"endpoints-tcp": 3, "nodeport-endpoints-tcp": 1}]


def test_to_policy_local_the_local_slots_come_with_the_verdict() -> None:
    observed = believing(service(A, local=(B,)))

    written = written_counts(observed, service(A, local=(B,), external_local=True))

    assert written == [
        {"externals": 2, "nodeports": 1, "endpoints-tcp": 2, "nodeport-endpoints-tcp": 1}
    ]


def test_to_policy_cluster_the_local_slots_stay_for_a_while() -> None:
    observed = believing(service(A, local=(B,), external_local=True))

    planned = plan_for(observed, service(A, local=(B,)))

    assert steps(planned) == [{"externals": 2, "nodeports": 1}]
    assert left(planned) == {"endpoints-tcp": 2, "nodeport-endpoints-tcp": 1}


def test_to_internal_policy_local_new_slots_come_with_the_verdict_and_old_ones_stay() -> None:
    observed = believing(
        make_desired("default/web", A, make_endpoint(B, is_local=True), outer=(VIP,))
    )
    to = make_desired(
        "default/web", A, make_endpoint(B, is_local=True), outer=(VIP,), internal_local=True
    )

    planned = plan_for(observed, to)

    assert steps(planned) == [{"services": 1, "endpoints-tcp": 1}]
    assert left(planned) == {"endpoints-tcp": 2}


def test_the_last_local_endpoint_goes_in_one_step_and_its_masquerading_stays_for_a_while() -> None:
    observed = believing(service(A, local=(B,), external_local=True))

    planned = plan_for(observed, service(A, external_local=True))

    # from the cluster lists and from the local ones
    assert steps(planned) == [
        {
            "endpoints-tcp": 5,
            "nodeport-endpoints-tcp": 2,
            "services": 1,
            "externals": 2,
            "nodeports": 1,
        }
    ]
    assert left(planned) == {"hairpin": 1}


# --- what stays for a while


FAR = make_desired("default/web", A, B)
NEAR = make_desired("default/web", make_endpoint(A, is_local=True), B, internal_local=True)


def sweep(observed: Observed, *ports: DesiredPort) -> NftPlan:
    planned = plan(whole({port.key: port for port in ports}), observed, [], LAYOUT)
    carry_out(planned, observed)
    return planned


def test_what_is_left_goes_with_the_second_sweep_so_that_it_stays_for_a_whole_period() -> None:
    observed = believing(FAR)
    carry_out(plan_for(observed, NEAR), observed)

    assert len(observed.leaving) == 2
    assert steps(sweep(observed, NEAR)) == []
    assert steps(sweep(observed, NEAR)) == [{"endpoints-tcp": 2}]
    assert not observed.is_sweep_due
    assert not sweep(observed, NEAR)


def test_slots_that_are_needed_again_meanwhile_stay_for_good() -> None:
    observed = believing(FAR)
    carry_out(plan_for(observed, NEAR), observed)
    sweep(observed, NEAR)

    back = plan_for(observed, FAR)

    assert steps(back) == [{"services": 1}]
    carry_out(back, observed)
    for _ in range(2):
        sweep(observed, FAR)
    assert len(observed.tables["IPv4"].elements["endpoints-tcp"]) == 2
    assert not plan_for(observed, FAR)
    assert not prune(whole({FAR.key: FAR}), observed, LAYOUT)


def test_a_frontend_that_goes_takes_with_it_what_was_left_for_packets_on_their_way() -> None:
    observed = believing(FAR)
    carry_out(plan_for(observed, NEAR), observed)

    carry_out(plan_for(observed, gone=["default/web"]), observed)

    assert observed.tables["IPv4"].elements["endpoints-tcp"] == {}


def test_a_frontend_that_another_service_takes_over_keeps_nothing_of_what_was_left() -> None:
    observed = believing(FAR)
    carry_out(plan_for(observed, NEAR), observed)
    carry_out(plan_for(observed, gone=["default/web"]), observed)
    other = make_desired("default/other", C, D)

    carry_out(plan_for(observed, other), observed)
    for _ in range(2):
        sweep(observed, other)

    assert not plan_for(observed, other)
    assert not prune(whole({other.key: other}), observed, LAYOUT)


def test_an_address_of_this_node_that_comes_back_meanwhile_is_masqueraded_for_good() -> None:
    here = make_desired("default/web", make_endpoint(A, is_local=True))
    observed = believing(here)
    carry_out(plan_for(observed, make_desired("default/web", A)), observed)
    carry_out(plan_for(observed, here), observed)

    for _ in range(2):
        sweep(observed, here)

    assert len(observed.tables["IPv4"].elements["hairpin"]) == 1


# --- the rest


def test_chains_that_mark_come_after_those_they_lead_to() -> None:
    transaction = plan_for(believing(), service(A, external_local=True)).transactions[0]

    made = [spec.name for _, spec in transaction.chains]
    for kind in ("", "-nodeport"):
        split = made.index(f"split{kind}-tcp-1-of-1")
        marking = made.index(f"external{kind}-tcp-1")
        assert made.index(f"pick{kind}-tcp-1") < marking < split
        assert made.index(f"pick{kind}-local-tcp-1") < split


def test_an_empty_pool_keeps_the_verdicts_of_its_class() -> None:
    observed = believing(service(A, B, C))
    carry_out(plan_for(observed, service(is_any_usable=True)), observed)

    assert verdicts(observed, EXTERNALS) == {"goto external-tcp-4"}
    carry_out(plan_for(observed, service(is_any_usable=True, external_local=True)), observed)
    assert verdicts(observed, EXTERNALS) == {"goto split-tcp-1-of-1"}


def test_without_local_endpoints_the_verdict_keeps_room_for_those_it_had() -> None:
    observed = believing(service(A, local=(B, C), external_local=True))
    assert verdicts(observed, EXTERNALS) == {"goto split-tcp-2-of-4"}

    carry_out(plan_for(observed, service(A, B, C, external_local=True)), observed)
    assert verdicts(observed, EXTERNALS) == {"goto split-tcp-2-of-4"}
    carry_out(plan_for(observed, service(A, external_local=True)), observed)
    assert verdicts(observed, EXTERNALS) == {"goto split-tcp-1-of-1"}


@pytest.mark.parametrize("old_goes_first", [True, False])
def test_an_address_that_becomes_another_kind_of_frontend_leaves_nothing_behind(
    old_goes_first: bool,
) -> None:
    before = make_desired(
        "default/old", A, make_endpoint(B, is_local=True), cluster_ip=None, external_local=True,
        outer=(Frontend("ExternalIP", "10.96.0.10", 80),), affinity_timeout_s=None,
    )  # fmt: skip
    observed = believing(before)
    without = make_desired("default/old", A, cluster_ip=None)
    after = make_desired("default/web", C)

    for port in (without, after) if old_goes_first else (after, without):
        desired = whole({port.key: port} if port is without else {after.key: after})
        carry_out(plan(desired, observed, [port.key], LAYOUT), observed)

    both = {after.key: after, without.key: without}
    assert not prune(whole(both), observed, LAYOUT).transactions
    elements = observed.tables["IPv4"].elements
    assert (len(elements["endpoints-tcp"]), elements[EXTERNALS]) == (1, {})


# --- the node itself


def test_addresses_to_listen_on_are_elements_and_where_there_are_none_all_are() -> None:
    observed = believing(service(A))
    some = DesiredNode(node_port_addresses={"IPv4": ("192.0.2.1",)})

    planned = plan(whole({}, some), observed, [], LAYOUT)

    (transaction,) = planned.transactions
    assert [spec.name for _, spec in transaction.chains] == ["services"]
    assert steps(planned) == [{"nodeport-ips": 1}]
    carry_out(planned, observed)
    assert not plan(whole({}, some), observed, [], LAYOUT)
    others = DesiredNode(node_port_addresses={"IPv4": ("192.0.2.2", "192.0.2.1")})
    assert steps(plan(whole({}, others), observed, [], LAYOUT)) == [{"nodeport-ips": 1}]


def test_unused_addresses_are_dropped_only_once_all_services_are_there() -> None:
    node = DesiredNode(service_cidrs=("10.96.0.0/16",))
    port = service(A)
    desired = whole({port.key: port}, node)
    observed = believing()
    observed.node = None  # as after a start

    planned = plan(desired, observed, [port.key], LAYOUT)
    assert "service-cidrs" not in steps(planned)[0]
    carry_out(planned, observed)
    pruning = prune(desired, observed, LAYOUT)
    assert written(pruning) == {"service-cidrs": {b"\n`\0\0\0": None, b"\na\0\0\1": None}}
    carry_out(pruning, observed)

    wider = DesiredNode(service_cidrs=("10.96.0.0/15",))
    later = plan(whole({port.key: port}, wider), observed, [], LAYOUT)
    assert steps(later) == [
        {"service-cidrs": 3}
    ]  # one bound of two is the same, and written all the same


def test_who_was_stopped_half_way_through_taking_a_frontend_over_leaves_no_slots_there() -> None:
    loser = make_desired("default/web", A, B, C, outer=(NODE_PORT,))
    winner = make_desired(
        "default/api", D, cluster_ip="10.96.0.11", outer=(NODE_PORT,), affinity_timeout_s=60
    )
    observed = believing(loser)
    rest = make_desired("default/web", A, B, C)

    stopped = plan_for(observed, winner, rest)
    assert len(stopped.transactions) > 1
    observed.fold(stopped.transactions[0])
    observed.begin(stopped)
    carry_out(plan_for(observed, winner, rest), observed)
    for _ in range(2):  # what is left for packets on their way goes as well
        carry_out(plan_for(observed), observed)

    assert observed.tables["IPv4"].elements["nodeport-endpoints-tcp"] == {}
    assert len(verdicts(observed, NODEPORTS)) == 1
