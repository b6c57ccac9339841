"""That the kernel takes every line of our layout, and that what is read back is what was believed: both flavours and families.

What packets meet is told by the fake of tests/unit/backends/iptables/test_plan_packets.py; here it is asked of the kernel, for some.
"""

import errno
import random
import socket
import time
from collections.abc import Iterator, Mapping, Sequence

import pytest

from backends.iptables.adopt import adopt
from backends.iptables.belief import Observed
from backends.iptables.layout import IptablesSettings, Layout
from backends.iptables.model import SETS, TABLES, IptablesPlan, TableStep
from backends.iptables.plan import plan
from backends.iptables.prune import prune
from backends.kernel.ipset import Ipset
from backends.kernel.xtables import Xtables, find_programs
from backends.kernel.xtables_text import Chain, Flavour
from e2e.namespace import Namespace
from proxy.desired import DesiredPort, Frontend
from proxy.desired_node import DesiredNode
from proxy.model import FAMILIES, Family, PortKey
from proxy.netlink.codec import Request
from tests.desired_strategies import Ports, desired_state, make_desired, random_states, whole
from tests.effort import patience_s

pytestmark = pytest.mark.requires("ipset")

NODE = DesiredNode(service_cidrs=("10.96.0.0/16", "fd00:10:96::/112"))
PODS = ("10.244.1.0/24", "fd00:10:244:1::/64")
OWN: dict[Family, str] = {"IPv4": "192.0.2.1", "IPv6": "2001:db8:1::1"}
POD: dict[Family, str] = {"IPv4": "10.244.1.1", "IPv6": "fd00:10:244:1::1"}
VIP: dict[Family, str] = {"IPv4": "10.96.0.10", "IPv6": "fd00:10:96::a"}


class Kernel:
    """The tables of one flavour in a namespace of their own, with what is believed of them."""

    def __init__(
        self, ipset: Ipset, flavour: Flavour, families: Sequence[Family], **settings: str
    ) -> None:
        self.families = families
        self.layout = Layout(
            IptablesSettings(families=tuple(families), cluster_cidrs=PODS, **settings)  # type: ignore[arg-type] # of any kind
        )
        self.doors = {family: Xtables(find_programs(family)[flavour]) for family in families}
        self.ipset = ipset
        self.observed = self.read()

    def read(self) -> Observed:
        listed = [state.set for state in self.ipset.list_sets()]
        return adopt(
            {
                family: {table: door.save(table) for table in TABLES}
                for family, door in self.doors.items()
            },
            {
                family: {
                    each.name: (
                        each,
                        [m for piece in self.ipset.members(each.name) for m in piece],
                    )
                    for each in listed
                    if each.name.startswith(SETS[family])
                }
                for family in self.families
            },
        )

    def program(self, ports: Ports, changed: Sequence[PortKey], node: DesiredNode = NODE) -> None:
        self.apply(plan(whole(ports, node), self.observed, changed, self.layout))

    def prune(self, ports: Ports, node: DesiredNode = NODE) -> None:
        self.apply(prune(whole(ports, node), self.observed, self.layout))

    def apply(self, planned: IptablesPlan) -> None:
        for step in planned.steps:
            if isinstance(step, TableStep):
                lines = [line.text for line in step.lines()]
                self.doors[step.family].restore(step.table, lines)
            else:
                self.carry_out(step.requests())
            self.observed.fold(step)
        self.observed.occupy(planned)

    def carry_out(self, requests: Sequence[Request]) -> None:
        """The kernel may take a moment to notice that no rule asks a set any more."""
        until_s = time.monotonic() + patience_s(5.0)
        while refusals := self.ipset.carry_out(requests):
            requests = [requests[refusal.index] for refusal in refusals]
            assert time.monotonic() < until_s, refusals

    def differences(self) -> list[object]:
        """Return where belief and kernel differ."""
        found = self.read()
        pairs: list[tuple[object, object]] = []
        for family, facts in self.observed.facts.items():
            there = found.facts[family]
            pairs += [(facts.chains, there.chains), (facts.sets, there.sets)]
            pairs += [(facts.jumps[t].keys(), there.jumps[t].keys()) for t in TABLES]
            pairs += [
                (facts.members.get(name, set()), there.members[name])
                for name, made in there.sets.items()
                if made.timeout_s is None
            ]
        pairs += [
            (tree.fronts(), found.trees[at].fronts()) for at, tree in self.observed.trees.items()
        ]
        return [pair for pair in pairs if pair[0] != pair[1]]


@pytest.fixture(
    params=[
        pytest.param(flavour, marks=pytest.mark.requires(f"iptables-{flavour}"))
        for flavour in Flavour
    ]
)
def flavour(request: pytest.FixtureRequest) -> Flavour:
    chosen: Flavour = request.param
    return chosen


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    """A host that is its own pod, entered."""
    with Namespace("iptables") as made:
        made.ip(
            "link add out type veth peer name beyond",
            "link set beyond up",
            "link set out up",
            "addr add 192.0.2.1/24 dev out",
            "addr add 2001:db8:1::1/64 dev out nodad",
            "addr add 10.244.1.1/32 dev lo",
            "addr add fd00:10:244:1::1/128 dev lo nodad",
            "route add default dev out",
            "route add ::/0 dev out",
        )
        with made.entered():
            yield made


@pytest.fixture
def ipset(namespace: Namespace) -> Iterator[Ipset]:
    del namespace  # it is entered
    with Ipset() as door:
        yield door


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_kernel_holds_what_is_believed_whatever_is_asked_for(
    ipset: Ipset, flavour: Flavour, seed: int
) -> None:
    kernel, rng = Kernel(ipset, flavour, FAMILIES), random.Random(seed)
    before: Ports = {}
    for ports in random_states(seed, 3):
        changed = sorted({**before, **ports}, key=lambda key: key not in ports)
        kernel.program(ports, changed)
        assert kernel.differences() == []
        if rng.random() < 0.5:
            kernel.program(ports, [])
        before = ports
    kernel.prune(before)
    assert kernel.differences() == []
    assert not kernel.observed.is_sweep_due

    kernel.observed = kernel.read()
    assert (
        not plan(whole(before, NODE), kernel.observed, list(before), kernel.layout) or not before
    )
    kernel.apply(plan(whole(before, NODE), kernel.observed, list(before), kernel.layout))
    assert not prune(whole(before, NODE), kernel.observed, kernel.layout)


@pytest.mark.parametrize("family", FAMILIES)
def test_trees_lists_and_affinity_of_any_size_are_taken(
    ipset: Ipset, flavour: Flavour, family: Family
) -> None:
    """As deep as can be: frontends that differ in few bits or in their ports alone, with hundreds of endpoints."""
    kernel = Kernel(ipset, flavour, [family])
    vip, service, pod = {
        "IPv4": ("203.0.113.7", "10.96.{}.7", "10.244.{}.{}:80"),
        "IPv6": ("2001:db8::7", "fd00:10:96::{}:7", "[fd00:10:244:{}::{}]:80"),
    }[family]
    pool = [pod.format(n >> 6, 1 + (n & 63)) for n in range(64, 364)]
    vips = tuple([Frontend("LoadBalancer", vip, port) for port in range(7000, 7040)])
    ports = desired_state(
        make_desired(
            "default/large", *pool, cluster_ip=service.format(99), outer=vips, external_local=True
        ),
        make_desired(
            "default/sticky", *pool[:40], cluster_ip=service.format(98), affinity_timeout_s=9
        ),
        *[
            make_desired(f"default/s{n}", pool[0], cluster_ip=service.format(n))
            for n in range(1, 41)
        ],
    )

    kernel.program(ports, list(ports))
    assert kernel.differences() == []
    assert deepest(kernel.doors[family].save("nat"), "PREROUTING") == 15
    kernel.program({}, list(ports))
    kernel.program({}, [])

    assert kernel.differences() == []
    assert not kernel.observed.is_sweep_due
    assert len(kernel.read().facts[family].chains["nat"]) == 6


def deepest(chains: Mapping[str, Chain], chain: str) -> int:
    """Return how deep the chains behind one lead to each other."""
    targets = {word for rule in chains[chain].rules for word in rule.split() if word in chains}
    return max([1 + deepest(chains, each) for each in targets], default=0)


@pytest.mark.parametrize("mode", ["ClusterCIDR", "BridgeInterface", "InterfaceNamePrefix"])
def test_every_setting_makes_rules_that_are_taken(
    ipset: Ipset, flavour: Flavour, mode: str
) -> None:
    kernel = Kernel(ipset, flavour, FAMILIES, local_mode=mode, interface="cni0")
    node = DesiredNode(node_port_addresses={"IPv4": ("192.0.2.1",), "IPv6": ()})

    kernel.program({}, [])
    kernel.program({}, [], node)

    assert kernel.differences() == []


def test_a_set_of_another_shape_is_made_anew_with_all_that_asks_it(
    ipset: Ipset, flavour: Flavour
) -> None:
    kernel = Kernel(ipset, flavour, ["IPv4"])
    ports = desired_state(make_desired("default/web", "10.244.1.1:80"))
    kernel.program(ports, list(ports))
    name = "sliceproxy4-frontends"
    kernel.observed.misshapen["IPv4"].add(name)  # as if read so

    kernel.program(ports, list(ports))

    assert not kernel.observed.is_rebuild_due
    assert kernel.differences() == []


@pytest.mark.parametrize("family", FAMILIES)
def test_connections_from_the_node_are_served_or_refused(
    ipset: Ipset, flavour: Flavour, family: Family
) -> None:
    kernel = Kernel(ipset, flavour, [family])
    with listening(family) as server:
        host = f"[{POD[family]}]" if family == "IPv6" else POD[family]
        port = f"{host}:{server.getsockname()[1]}"
        web = make_web(family, port)
        kernel.program({web.key: web}, [web.key])
        assert connect(family, VIP[family], 80) == OWN[family]
        assert connect(family, OWN[family], 30080) == OWN[family]
        assert connect(family, VIP[family], 81) == errno.ECONNREFUSED

        empty = make_web(family)
        kernel.program({web.key: empty}, [web.key])
        assert connect(family, VIP[family], 80) == errno.ECONNREFUSED
        assert connect(family, OWN[family], 30080) == errno.ECONNREFUSED

        sticky = make_web(family, port, affinity_timeout_s=60)
        kernel.program({web.key: sticky}, [web.key])
        assert connect(family, VIP[family], 80) == OWN[family]
        assert connect(family, VIP[family], 80) == OWN[family]
        (known,) = kernel.observed.rendered[web.key].sets
        assert len([each for piece in kernel.ipset.members(known) for each in piece]) == 1
    kernel.program({}, [web.key])
    kernel.program({}, [])
    assert kernel.differences() == []


def make_web(family: Family, *pool: str, affinity_timeout_s: int | None = None) -> DesiredPort:
    return make_desired(
        "default/web",
        *pool,
        cluster_ip=VIP[family],
        outer=(Frontend("NodePort", None, 30080),),
        affinity_timeout_s=affinity_timeout_s,
    )


def listening(family: Family) -> socket.socket:
    kind = socket.AF_INET6 if family == "IPv6" else socket.AF_INET
    return socket.create_server((POD[family], 0), family=kind)


def connect(family: Family, address: str, port: int) -> str | int:
    """Return the client's own address once it is served, or the number of the error."""
    kind = socket.AF_INET6 if family == "IPv6" else socket.AF_INET
    with socket.socket(kind) as client:
        client.settimeout(2)
        client.bind((OWN[family], 0))
        code = client.connect_ex((address, port))
        return str(client.getsockname()[0]) if code == 0 else code
