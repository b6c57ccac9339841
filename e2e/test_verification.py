"""A verification that finds nothing wrong writes nothing, whatever clients leave in the sets and whatever changes meanwhile."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from backends.kernel.nft import Nft
from e2e.client import Answer
from e2e.faults import BACKEND, VIP, Site
from e2e.flows.ground import Ground, ground
from e2e.flows.objects import Wire
from e2e.flows.stage import stage
from e2e.manifests import address, until

pytestmark = pytest.mark.requires("nftables")

_LOOKS = 20
_CHANGES = 30


@pytest.fixture(scope="module")
def made() -> Iterator[Ground]:
    with ground() as each:
        yield each


@pytest.fixture
def site(made: Ground, tmp_path: Path) -> Iterator[Site]:
    """A node whose daemon verifies all the time, with a service that has session affinity and source ranges."""
    file = tmp_path / "sliceproxy.conf"
    kind = {"apiVersion": "sliceproxy/v1alpha1", "kind": "SliceProxyConfiguration"}
    file.write_text(json.dumps(kind | {"verifyPeriod": "1ms", "generationPollPeriod": "1ms"}))
    with stage(made, tmp_path, ["--sliceproxy-config", str(file)]) as staged:
        staged.use(BACKEND, "default")
        site = Site(made, staged)
        staged.put(_objects(site, "abc"))
        yield site


def _objects(site: Site, pods: str) -> list[Wire]:
    service, *listed = site.objects(pods)
    service["spec"] |= {
        "type": "LoadBalancer",
        "sessionAffinity": "ClientIP",
        "loadBalancerSourceRanges": ["192.0.2.0/24", "198.51.100.0/25"],
        "externalTrafficPolicy": "Local",
    }
    service["spec"]["ports"][0]["nodePort"] = 30080
    service["status"] = {"loadBalancer": {"ingress": [{"ip": ip} for ip in address(11)]}}
    return [service, *listed]


def _generation(site: Site) -> int:
    """The number of nftables transactions in the node's namespace, whoever made them."""
    with site.node.entered():
        door = Nft()
    with door:
        return door.generation()


def _verified(site: Site) -> float:
    return site.metric("sliceproxy_verifications_total")


def _written(site: Site) -> float:
    return site.metric("sliceproxy_kernel_transactions_total")


def _settle(site: Site) -> None:
    """Wait until what goes late has gone: nothing was written between two verifications."""
    seen: list[tuple[float, float]] = []

    def is_settled() -> bool:
        seen.append((_verified(site), _written(site)))
        return any(v + _LOOKS <= seen[-1][0] and w == seen[-1][1] for v, w in seen)

    until(is_settled, "nothing is written any more")


def test_verification_of_what_is_as_it_should_be_writes_nothing(site: Site) -> None:
    _settle(site)
    generation, begun = _generation(site), _verified(site)

    for vip in VIP:  # who connects is remembered in a set of ours
        outcomes = site.client.ask_often(10, vip, 80)
        assert all(isinstance(outcome, Answer) for outcome in outcomes)
    until(lambda: _verified(site) >= begun + _LOOKS, f"{_LOOKS} verifications")

    assert _generation(site) == generation
    assert site.repairs() == 0
    assert not [line for line in site.log() if "changed from outside" in line]


def test_verification_beside_changes_repairs_nothing_and_writes_no_more_than_they_need(
    site: Site,
) -> None:
    _settle(site)
    begun, generation, written = _verified(site), _generation(site), _written(site)

    for turn in range(_CHANGES):
        site.stage.put(_objects(site, ("ab", "abc", "bc")[turn % 3]))
    until(lambda: _verified(site) >= begun + _LOOKS, f"{_LOOKS} verifications")
    _settle(site)

    # every generation is one of the daemon's own transactions, and no change led to a repair
    assert _generation(site) - generation == _written(site) - written > 0
    assert site.repairs() == 0
    assert site.metric("sliceproxy_drifted_objects_total") == 0
