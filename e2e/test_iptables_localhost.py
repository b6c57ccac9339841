"""Node ports on loopback, which mode iptables alone serves; and that neighbours do not get to loopback because of it."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.client import Answer, Failure
from e2e.flavours import VARIANTS
from e2e.flows.ground import Ground, ground
from e2e.flows.objects import Wire
from e2e.flows.stage import Stage, stage
from e2e.manifests import service, slices
from e2e.namespace import Namespace
from e2e.topology import Addresses, Host

NODE_PORT = 30080
_PRIVATE = 9999
_VIP = Addresses("10.96.0.10", "fd00:10:96::10")
_GUARD = re.compile(
    r"^\[(\d+):\d+\] -A SLICEPROXY-INPUT .*127\.0\.0\.0/8.* -j DROP$", re.MULTILINE
)
_ROUTE_LOCALNET = Path("/proc/sys/net/ipv4/conf/all/route_localnet")

pytestmark = pytest.mark.requires("iptables-legacy", "iptables-nft", "ipset", "nftables")


@pytest.fixture(scope="module")
def made() -> Iterator[Ground]:
    with ground() as each:
        yield each


@pytest.fixture(scope="module")
def neighbour(made: Ground) -> Host:
    """A host on a link of the node that sends what is for 127.0.0.1 to the node, instead of to itself."""
    host = made.world.node.add_client("neighbour")
    with host.entered():
        _ROUTE_LOCALNET.write_text("1")
    host.namespace.ip(
        "route del local 127.0.0.0/8 dev lo table local",
        "route del local 127.0.0.1 dev lo table local",
        f"route add 127.0.0.0/8 via {made.node.addresses.v4} dev eth0 onlink"
        f" src {host.addresses.v4}",
    )
    return host


@pytest.fixture(params=VARIANTS)
def staged(made: Ground, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Stage]:
    with stage(made, tmp_path, ["--iptables-localhost-nodeports=true"]) as each:
        each.use(request.param, "default")
        yield each
        each.cleanup()


def objects(made: Ground, names: str, **spec: object) -> list[Wire]:
    pods = [made.hosts[name] for name in names]
    listed = service("web", _VIP, [("web", "tcp", 80)])
    listed["spec"] |= {"type": "NodePort", **spec}
    listed["spec"]["ports"][0]["nodePort"] = NODE_PORT
    return [listed, *slices("web", pods, [("web", "tcp", 8080)], made.world)]


@pytest.mark.parametrize("policy", ["Cluster", "Local"])
def test_the_node_reaches_every_endpoint_at_its_loopback(
    made: Ground, staged: Stage, policy: str
) -> None:
    staged.put(objects(made, "ab", externalTrafficPolicy=policy))

    said = made.node.ask_often(20, "127.0.0.1", NODE_PORT)

    assert {each.name for each in said if isinstance(each, Answer)} == {"a", "b"}
    assert all(isinstance(each, Answer) for each in said)


def test_without_endpoints_it_is_refused(made: Ground, staged: Stage) -> None:
    staged.put(objects(made, ""))

    assert made.node.ask("127.0.0.1", NODE_PORT) is Failure.REFUSED


def test_what_a_neighbour_sends_to_loopback_is_dropped(
    made: Ground, staged: Stage, neighbour: Host
) -> None:
    staged.put(objects(made, "ab"))
    with made.node.entered():
        assert _ROUTE_LOCALNET.read_text().strip() == "1", "else there is nothing to guard"
    flavour = VARIANTS[staged.variant]
    before = guarded(made.node.namespace, flavour)

    with made.node.serve(f"udp:{_PRIVATE}"):
        said = neighbour.ask("127.0.0.1", _PRIVATE, protocol="udp", timeout_s=0.2)

    assert said is Failure.TIMEOUT
    assert guarded(made.node.namespace, flavour) == before + 1


def guarded(node: Namespace, flavour: str) -> int:
    """How many packets the guard has dropped."""
    saved = node.run([f"iptables-{flavour}-save", "-c", "-t", "filter"])
    found = _GUARD.search(saved)
    assert found, "there is no guard"
    return int(found[1])
