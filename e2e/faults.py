"""A service on the flow suite's ground whose connections are counted while something goes wrong."""

import contextlib
import re
import time
from collections.abc import Iterator, Sequence

from e2e.client import Failure, Timed
from e2e.flows.ground import Ground
from e2e.flows.objects import Wire
from e2e.flows.stage import Stage
from e2e.flows.tally import FIGURES
from e2e.manifests import address, service, slices
from e2e.processes import Load
from e2e.topology import FAMILIES, Family

BACKEND = "nftables"
PORTS = [("web", "tcp", 80)]
POD_PORTS = [("web", "tcp", 8080)]
VIP = address(10)
_RATE = 200


class Site:
    """A service of some pods on the flow suite's ground, and its daemon."""

    def __init__(self, ground: Ground, staged: Stage) -> None:
        self.ground = ground
        self.stage = staged
        self.node = ground.world.node.namespace
        self.client = ground.hosts["external"]

    def list_pods(self, names: Sequence[str], leaving: Sequence[str] = ()) -> float:
        """Have the service list these pods as ready and those as terminating; return when that was programmed."""
        self.stage.put(self.objects(names, leaving))
        return time.monotonic()

    def objects(self, names: Sequence[str], leaving: Sequence[str] = ()) -> list[Wire]:
        """The service and its slices, which list these pods as ready and those as terminating."""
        pods = [self.ground.hosts[name] for name in (*names, *leaving)]
        listed = slices("web", pods, POD_PORTS, self.ground.world)
        for each in listed:
            for endpoint in each["endpoints"][len(names) :]:
                endpoint["conditions"] = {"ready": False, "serving": True, "terminating": True}
        return [service("web", VIP, PORTS), *listed]

    def ruleset(self) -> str:
        """Our tables, in an order that does not depend on which was made first."""
        listed = [self.node.run(["nft", "list", "table", f, "sliceproxy"]) for f in ("ip", "ip6")]
        return "\n".join(listed)

    def is_whole(self, ruleset: str) -> bool:
        """Whether the rules are these, but for their order."""
        with contextlib.suppress(Exception):
            return sorted(self.ruleset().split()) == sorted(ruleset.split())
        return False

    def repairs(self) -> int:
        """How many repairs the daemon has counted."""
        return int(self.metric("sliceproxy_drift_repairs_total"))

    def metric(self, name: str) -> float:
        found = re.search(rf"^{name} (\S+)$", self.stage.page("/metrics"), re.MULTILINE)
        assert found, f"no metric {name}"
        return float(found[1])

    def degraded(self) -> list[str]:
        """What the daemon itself finds amiss, by codes."""
        state = self.stage.daemon.state()
        return [each["code"] for each in state["degraded"]] if state is not None else []

    def log(self) -> list[str]:
        return self.stage.daemon.log()

    @contextlib.contextmanager
    def under_load(self, families: Sequence[Family] = FAMILIES) -> Iterator[list[Load]]:
        """New connections to the service all the while, over each family."""
        with contextlib.ExitStack() as stack:
            yield [
                stack.enter_context(self.client.load(VIP.of(f), 80, rate=_RATE, workers=4))
                for f in families
            ]


def outcomes(loads: Sequence[Load]) -> list[Timed]:
    """Everything these loads saw; they end."""
    return [timed for load in loads for timed in load.stop()]


def lost(seen: Sequence[Timed]) -> list[Timed]:
    return [timed for timed in seen if isinstance(timed.outcome, Failure)]


def report(what: str, seen: Sequence[Timed], more: str = "") -> None:
    """Print what a fault has cost, at the end of the run."""
    failed = [timed.outcome for timed in lost(seen)]
    words = ", ".join(f"{failed.count(f)} {f.value}" for f in Failure if f in failed)
    FIGURES.append(
        f"fault: {what}: {len(failed)} of {len(seen)} connections lost"
        + (f" ({words})" if words else "")
        + (f"; {more}" if more else "")
    )
