"""The daemon as an operator runs it: restarts, kills, repairs, changes of manifests, and what it leaves behind."""

import json
import random
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from backends.kernel.nft import Nft
from e2e import topology
from e2e.client import Answer, Failure, Outcome
from e2e.demo.daemon import Daemon
from e2e.demo.source import Manifests
from e2e.manifests import NODE_NAME, Directory, address, node, service, slices, synced, until
from e2e.topology import CLUSTER_CIDRS, Host, World

pytestmark = pytest.mark.requires("nftables", "iptables")

PORTS = [("web", "tcp", 80)]
POD_PORTS = [("web", "tcp", 8080)]
VIP = address(10)
OTHER = address(11)


class Site:
    """A node with three pods that serve, its manifests and its daemon."""

    def __init__(self, world: World, tmp: Path) -> None:
        self.world = world
        self.node = world.node.namespace
        self.directory = Directory(tmp / "manifests")
        self.daemon = Daemon(
            self.node, NODE_NAME, Manifests(self.directory.path).arguments, tmp / "log"
        )
        self.directory.put("node", node(world))
        self.directory.put("service", service("web", VIP, PORTS))
        self.list_pods(*world.pods[:2])

    def list_pods(self, *pods: Host) -> None:
        """Make these the endpoints of the service."""
        self.directory.put("slices", *slices("web", pods, POD_PORTS, self.world))

    def ask(self, vip: str = VIP.v4) -> Outcome:
        return self.world.client.ask(vip, 80)

    def serving(self, vip: str = VIP.v4) -> set[str]:
        """The pods that answer just now. Raises AssertionError if anything else comes back."""
        outcomes = self.world.client.ask_often(30, vip, 80)
        assert all(isinstance(outcome, Answer) for outcome in outcomes), outcomes
        return {outcome.name for outcome in outcomes if isinstance(outcome, Answer)}

    def generation(self) -> int:
        """The number of nftables transactions in the node's namespace."""
        with self.node.entered():
            door = Nft()
        with door:
            return door.generation()

    def ruleset(self) -> str:
        return self.node.run(["nft", "list", "ruleset"])

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """What one of our own commands says on the node."""
        argv = [sys.executable, "-I", "-m", "proxy", *arguments]
        with self.node.entered():
            return subprocess.run(argv, capture_output=True, text=True, check=False)

    def warnings(self) -> list[str]:
        """What was said since the start that should not happen."""
        return [line for line in self.daemon.log() if " WARNING " in line or " ERROR " in line]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with topology.world(pods=3) as world:
        topology.serve_on(world.pods, "tcp:8080")
        yield Site(world, tmp_path)


def start(site: Site) -> dict[str, int]:
    """Start the daemon; return what it has written by the time everything is programmed."""
    site.daemon.start()
    written: dict[str, int] = synced(site.daemon)["kernel"]
    return written


# --- starting and ending


def test_a_start_on_an_unchanged_kernel_writes_nothing(site: Site) -> None:
    first = start(site)
    site.daemon.kill()
    ruleset, generation = site.ruleset(), site.generation()

    again = start(site)

    assert first["operations"] > 0
    assert again == {"operations": 0, "transactions": 0}
    assert site.generation() == generation
    assert site.ruleset() == ruleset
    assert site.serving() == {"a", "b"}


def test_what_changed_while_nobody_watched_is_all_that_is_written(site: Site) -> None:
    start(site)
    site.daemon.kill()
    site.list_pods(site.world.pods[0], site.world.pods[2])

    written = start(site)

    # a plan: a slot deleted and added, and the new pod may reach itself; then prune: the old one may not; each twice
    assert written == {"operations": 8, "transactions": 2}
    assert site.serving() == {"a", "c"}


def test_a_plan_says_what_a_start_writes_and_writes_nothing(site: Site) -> None:
    assert planned(site) == (3, {"program"})
    first = start(site)
    assert planned(site) == (0, set())
    site.daemon.kill()
    site.list_pods(site.world.pods[0], site.world.pods[2])
    ruleset = site.ruleset()

    answer = site.daemon.plan()

    assert site.ruleset() == ruleset
    *_, last = answer.stdout.splitlines()
    assert last == "8 objects to be written or removed; nothing was changed"
    assert (
        f"{site.world.pods[2].addresses.v4} . 8080  # default/web:web (TCP, IPv4)" in answer.stdout
    )
    assert first["operations"] > start(site)["operations"] == 8
    assert planned(site) == (0, set())


def planned(site: Site) -> tuple[int, set[str]]:
    """Whether a start would write anything, as exit status, and in which phases."""
    answer = site.daemon.plan("--exit-code", "-o", "json")
    return answer.returncode, {each["phase"] for each in json.loads(answer.stdout)["operations"]}


def test_the_end_of_the_daemon_leaves_everything_in_place(site: Site) -> None:
    start(site)
    ruleset = site.ruleset()

    with site.world.client.load(VIP.v4, 80, rate=200) as load:
        load.wait_for_more(20, within_s=30)
        assert site.daemon.terminate() == 0
        load.wait_for_more(40, within_s=30)
        outcomes = [timed.outcome for timed in load.stop()]

    assert all(isinstance(outcome, Answer) for outcome in outcomes)
    assert site.ruleset() == ruleset


def test_a_daemon_killed_at_any_moment_is_taken_over_without_a_refused_connection(
    site: Site,
) -> None:
    rng = random.Random(20260101)
    pods = site.world.pods
    start(site)

    with site.world.client.load(VIP.v4, 80, rate=200) as load:
        for _ in range(6):
            # changes come faster than they can be followed, so that the kill meets all kinds of work
            for _ in range(rng.randint(1, 12)):
                site.list_pods(*rng.sample(pods, rng.randint(1, 3)))
                load.wait_for_more(rng.randint(0, 3), within_s=30)
            site.daemon.kill()
            site.list_pods(*pods[:2])
            assert start(site)["transactions"] <= 2  # one plan, and what it leaves to prune
            assert site.serving() == {"a", "b"}
        outcomes = [timed.outcome for timed in load.stop()]

    refused = [outcome for outcome in outcomes if not isinstance(outcome, Answer)]
    assert refused == [], f"{len(refused)} of {len(outcomes)}"
    assert len(outcomes) > 200


def test_a_daemon_killed_during_its_first_start_is_taken_over(site: Site) -> None:
    """Killed after its first transaction, its last, and some between: while it tries the kernel and while it programs it."""
    with site.node.entered():
        door = Nft()
    with door:
        untouched = door.generation()
        start(site)
        site.daemon.terminate()
        whole = door.generation() - untouched
        for part in sorted({1, whole // 2, whole - 1, whole}):
            site.command("cleanup")
            begun = door.generation()
            site.daemon.start()
            while door.generation() < begun + part:
                site.daemon.check()
            site.daemon.kill()

            start(site)
            assert site.serving() == {"a", "b"}
            assert "probe" not in site.ruleset()
            site.daemon.kill()


# --- repair


def test_rules_flushed_by_somebody_are_repaired_and_this_is_logged(site: Site) -> None:
    start(site)
    ruleset = site.ruleset()

    site.node.run(["nft", "flush", "table", "ip", "sliceproxy"])

    until(lambda: site.ruleset() == ruleset, "the rules are back")
    assert site.serving() == {"a", "b"}
    (line,) = site.warnings()
    assert "changed from outside, repairing: IPv4: our table, or a chain or set in it" in line


def test_a_table_deleted_by_somebody_is_repaired(site: Site) -> None:
    start(site)
    ruleset = sorted(site.ruleset().split())

    site.node.run(["nft", "delete", "table", "ip", "sliceproxy"])

    until(lambda: sorted(site.ruleset().split()) == ruleset, "the table is back")
    assert site.serving() == {"a", "b"}


def test_an_element_deleted_by_somebody_is_repaired_and_named(site: Site) -> None:
    start(site)
    ruleset = site.ruleset()

    element = f"{{ {VIP.v4} . tcp . 80 }}"
    site.node.run(["nft", "delete", "element", "ip", "sliceproxy", "services", element])

    until(lambda: site.ruleset() == ruleset, "the element is back")
    (line,) = site.warnings()
    key = "0a60000a" + "06000000" + "00500000"
    assert f"missing element {key} of services of default/web:web (TCP, IPv4)" in line


@pytest.mark.parametrize(
    ("set_name", "element", "named"),
    [
        pytest.param("cluster-ips", "192.0.2.1", "foreign element c0000201 of", id="an address"),
        pytest.param("services", "* : drop", "foreign element  of", id="all others"),
    ],
)
def test_a_foreign_element_in_our_maps_is_removed_again(
    site: Site, set_name: str, element: str, named: str
) -> None:
    start(site)
    ruleset = site.ruleset()

    site.node.run(["nft", "add", "element", "ip", "sliceproxy", set_name, f"{{ {element} }}"])

    until(lambda: site.ruleset() == ruleset, "the element is gone")
    assert any(f"{named} {set_name}" in line for line in site.warnings())


# --- what is not ours

FOREIGN_TABLE = """
table ip mine {
    set services { type ipv4_addr; elements = { 10.96.0.10 }; }
    chain services { ip saddr @services counter packets 3 bytes 5 comment "mine"; }
    chain forward { type filter hook forward priority 10; policy accept; jump services; }
}
"""
FOREIGN_RULES = """*nat
:MINE - [0:0]
-A PREROUTING -d 203.0.113.1/32 -p tcp -m tcp --dport 9 -j MINE
-A MINE -p tcp -j DNAT --to-destination 192.0.2.1
COMMIT
"""


def foreign(site: Site) -> list[str]:
    """Every table that is not ours, and the rules of iptables, as the stock tools print them."""
    tables = site.node.run(["nft", "list", "tables"]).splitlines()
    others = [line.split() for line in tables if line.split()[2] != "sliceproxy"]
    listed = [site.node.run(["nft", "--handle", "list", *words]) for words in others]
    saved = [site.node.run([name]) for name in ("iptables-save", "ip6tables-save")]
    return listed + [re.sub("^#.*\n", "", text, flags=re.MULTILINE) for text in saved]


def test_what_others_made_is_byte_identical_before_during_and_after(site: Site) -> None:
    site.node.run(["nft", "-f", "-"], stdin=FOREIGN_TABLE)
    site.node.run(["iptables-restore"], stdin=FOREIGN_RULES)
    before = foreign(site)

    start(site)
    site.list_pods(*site.world.pods)
    until(lambda: site.serving() == {"a", "b", "c"}, "the third pod serves")
    during = foreign(site)
    site.daemon.terminate()
    cleanup = site.command("cleanup")

    assert cleanup.returncode == 0
    assert "nftables: removed 2 objects" in cleanup.stdout
    assert "sliceproxy" not in site.ruleset()
    assert before == during == foreign(site)


def test_cleaning_up_twice_is_fine(site: Site) -> None:
    start(site)
    site.daemon.terminate()

    first, second = site.command("cleanup"), site.command("run", "--cleanup")

    assert (first.returncode, second.returncode) == (0, 0)
    assert second.stdout == "nothing of ours was found\n"
    assert site.ruleset() == ""


def test_checking_before_the_start_leaves_nothing_behind(site: Site) -> None:
    done = site.command("run", "--init-only", "--cluster-cidr", ",".join(CLUSTER_CIDRS))

    assert done.returncode == 0
    assert site.ruleset() == ""


# --- manifests


def test_a_changed_manifest_is_followed(site: Site) -> None:
    start(site)

    with site.world.client.load(VIP.v4, 80, rate=200) as load:
        site.list_pods(site.world.pods[2])
        load.first(lambda t: isinstance(t.outcome, Answer) and t.outcome.name == "c", within_s=30)
        assert site.serving() == {"c"}
        outcomes = [timed.outcome for timed in load.stop()]

    assert all(isinstance(outcome, Answer) for outcome in outcomes)


def test_services_come_and_go_with_their_files(site: Site) -> None:
    start(site)
    assert site.ask(OTHER.v4) is Failure.UNREACHABLE

    pods = site.world.pods[2:]
    site.directory.put(
        "other", service("other", OTHER, PORTS), *slices("other", pods, POD_PORTS, site.world)
    )
    until(lambda: isinstance(site.ask(OTHER.v4), Answer), "the new service answers")
    assert site.serving(OTHER.v6) == {"c"}

    site.directory.remove("other")
    until(lambda: site.ask(OTHER.v4) is Failure.UNREACHABLE, "the service is gone")
    assert site.serving() == {"a", "b"}


def test_a_service_without_endpoints_refuses_until_it_has_one(site: Site) -> None:
    start(site)

    site.list_pods()
    until(lambda: site.ask() is Failure.REFUSED, "connections are refused")
    site.list_pods(site.world.pods[1])
    until(lambda: isinstance(site.ask(), Answer), "connections are answered")

    assert site.serving() == {"b"}


def test_a_manifest_that_cannot_be_read_changes_nothing(site: Site) -> None:
    start(site)

    site.directory.put_text("slices", "apiVersion: v1\nkind: [")
    until(lambda: any("slices.yaml" in line for line in site.warnings()), "it is said")
    site.directory.put(
        "other", service("other", OTHER, PORTS), *slices("other", [], POD_PORTS, site.world)
    )
    until(lambda: site.ask(OTHER.v4) is Failure.REFUSED, "others are followed")

    assert site.serving() == {"a", "b"}
    site.directory.remove("other")
    until(lambda: site.ask(OTHER.v4) is Failure.UNREACHABLE, "others are followed")
    site.list_pods(site.world.pods[2])
    until(lambda: site.serving() == {"c"}, "the repaired manifest is followed")


def test_one_object_that_makes_no_sense_costs_only_itself(site: Site) -> None:
    start(site)
    broken = service("broken", OTHER, [("web", "tcp", 80)])
    broken["spec"]["ports"][0]["port"] = 0
    third = address(12)

    site.directory.put(
        "other",
        broken,
        service("fine", third, PORTS),
        *slices("fine", site.world.pods[2:], POD_PORTS, site.world),
    )

    until(lambda: isinstance(site.ask(third.v4), Answer), "the other one is served")
    state = site.daemon.state()
    assert state is not None
    (rejected,) = state["rejected"]
    assert (rejected["kind"], "broken" in rejected["name"]) == ("Service", True)
    assert site.ask(OTHER.v4) is Failure.UNREACHABLE
