"""The stock tool makes the very change that our planner makes."""

import pytest

from backends.ipvs.model import IpvsStep, Operation
from backends.kernel.ipvs_objects import Destination
from bench import ipvsadm, workload
from proxy.desired import DesiredPort
from tests.desired_strategies import make_desired
from tests.model_builders import make_endpoint
from tests.unit.backends.ipvs.planning import believing, plan_for

SERVICE = 300
OPTIONS = {"add destination": "-a", "set destination": "-e", "del destination": "-d"}


def port(endpoints: list[int]) -> DesiredPort:
    return make_desired(
        "default/web",
        *[
            make_endpoint(f"{workload.endpoint_ip(each)}:{workload.TARGET_PORT}", node_name="n2")
            for each in endpoints
        ],
        cluster_ip=workload.cluster_ip(SERVICE),
    )


def line(operation: Operation) -> str:
    assert isinstance(operation.spec, Destination)
    option = OPTIONS[operation.verb]
    where = f"-t {operation.server.address}:{operation.server.port} -r {operation.spec}"
    return f"{option} {where} -m -w {operation.spec.weight}"


@pytest.mark.parametrize(
    ("before", "after"), [([1, 2], [3, 2]), ([1, 2], [1, 2, 3]), ([1, 2, 3], [1, 2])]
)
def test_the_commands_are_what_our_planner_sends(before: list[int], after: list[int]) -> None:
    (step,) = plan_for(believing(port(before)), port(after)).steps
    assert isinstance(step, IpvsStep)

    asked = ipvsadm.commands(SERVICE, before, after).splitlines()

    assert asked == [line(each) for each in step.operations]


def test_what_is_gone_is_deleted() -> None:
    assert ipvsadm.deletions(SERVICE, [1, 258]) == (
        "-d -t 10.64.1.44:80 -r 10.128.0.1:8080\n-d -t 10.64.1.44:80 -r 10.128.1.2:8080\n"
    )
