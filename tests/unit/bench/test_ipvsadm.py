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


class Told(ipvsadm.Ipvsadm):
    """The tool with a virtual server for each service, instead of the kernel's; it refuses what the kernel would."""

    def __init__(self) -> None:
        super().__init__("", endpoints=2)
        self.weights = {(service, each): 1 for service in (3, 4) for each in first(service)}
        self.processes = 0

    def run(self, text: str = "") -> float:
        self.processes += 1
        for option, _, vip, _, where, *rest in map(str.split, text.splitlines()):
            place = int(vip.partition(":")[0].rpartition(".")[2]), number_of(where)
            assert (place in self.weights) == (option != "-a")
            if option == "-d":
                del self.weights[place]
            else:
                self.weights[place] = int(rest[-1])
        return 0.0


def first(service: int) -> list[int]:
    return workload.endpoints_of(service, 2)


def number_of(where: str) -> int:
    _, two, three, four = map(int, where.partition(":")[0].split("."))
    return ((two - 128) * 256 + three) * 256 + four


def test_after_many_changes_everything_is_as_it_was() -> None:
    tool = Told()
    before = dict(tool.weights)

    for kind in ("replace", "add/remove", "replace"):
        tool.change(kind, 3)
        tool.change(kind, 4, count=5)
    assert sorted(weight for (service, _), weight in tool.weights.items() if service == 3) == [
        *[0, 0],
        *[1, 1, 1],
    ]
    assert tool.processes == 6

    tool.restore()
    assert tool.weights == before


def test_what_is_gone_is_deleted() -> None:
    assert ipvsadm.deletions(SERVICE, [1, 258]) == (
        "-d -t 10.64.1.44:80 -r 10.128.0.1:8080\n-d -t 10.64.1.44:80 -r 10.128.1.2:8080\n"
    )
