"""The network the other tests stand on: what it carries, what it refuses, and that it goes away."""

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from e2e import client, topology
from e2e.capabilities import CAPABILITIES, missing
from e2e.client import Answer, Failure
from e2e.host_state import differences, host_state
from e2e.namespace import Namespace, TopologyError, run
from e2e.topology import FAMILIES, Family, World

SLEEPER = [sys.executable, "-I", "-S", "-c", "print('up', flush=True); input()"]

both_families = pytest.mark.parametrize("family", FAMILIES)


def namespace_names() -> set[str]:
    return {entry.name for entry in Path("/run/netns").iterdir()}


# --- what it carries


@both_families
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_pods_reach_each_other_across_the_node_under_their_own_address(
    world: World, family: Family, protocol: str
) -> None:
    asking, answering = world.pods[:2]
    answering.serve(f"{protocol}:80")

    answer = asking.ask(answering.addresses.of(family), 80, protocol=protocol)

    assert isinstance(answer, Answer)
    assert (answer.name, answer.source) == (answering.name, asking.addresses.of(family))


@pytest.mark.requires("sctp")
@both_families
def test_pods_reach_each_other_over_sctp(world: World, family: Family) -> None:
    asking, answering = world.pods[:2]
    answering.serve("sctp:80")

    answer = asking.ask(answering.addresses.of(family), 80, protocol="sctp")

    assert isinstance(answer, Answer)
    assert answer.name == answering.name


@both_families
def test_the_client_outside_reaches_a_pod(world: World, family: Family) -> None:
    pod = world.pods[0]
    pod.serve("tcp:80")

    answer = world.client.ask(pod.addresses.of(family), 80)

    assert isinstance(answer, Answer)
    assert (answer.name, answer.source) == (pod.name, world.client.addresses.of(family))


@both_families
def test_pods_on_two_nodes_reach_each_other(family: Family) -> None:
    with topology.world(pods=1, remote_pods=2) as world:
        assert world.remote is not None
        here, there = world.pods[0], world.remote.pods["r2"]
        topology.serve_on([here, there], "tcp:80")

        outcomes = [
            here.ask(there.addresses.of(family), 80),
            there.ask(here.addresses.of(family), 80),
            world.client.ask(there.addresses.of(family), 80),
        ]

    assert [outcome[:2] for outcome in outcomes if isinstance(outcome, Answer)] == [
        ("r2", here.addresses.of(family)),
        (here.name, there.addresses.of(family)),
        ("r2", world.client.addresses.of(family)),
    ]


@both_families
def test_a_datagram_is_answered_from_the_address_it_was_sent_to(
    world: World, family: Family
) -> None:
    # for the way back the node would itself choose the address on the pod's link
    world.node.serve("udp:53")

    answer = world.pods[0].ask(world.node.addresses.of(family), 53, protocol="udp")

    assert isinstance(answer, Answer)
    assert answer.name == "node"


@both_families
@pytest.mark.requires("nftables")
def test_a_service_address_comes_to_the_node_which_can_send_it_on(
    world: World, family: Family
) -> None:
    address = {"IPv4": "10.96.0.10", "IPv6": "fd00:10:96::a"}[family]
    word = {"IPv4": "ip", "IPv6": "ip6"}[family]
    pod, asking = world.pods[:2]
    pod.serve("tcp:80")

    before = world.client.ask(address, 80), asking.ask(address, 80)
    world.node.namespace.run(
        ["nft", "-f", "-"],
        stdin=f"""table {word} t {{ chain c {{ type nat hook prerouting priority dstnat;
            {word} daddr {address} dnat to {pod.addresses.of(family)}
        }}\n}}""",
    )
    after = world.client.ask(address, 80), asking.ask(address, 80)

    assert before == (Failure.UNREACHABLE, Failure.UNREACHABLE)
    assert [answer[:2] for answer in after if isinstance(answer, Answer)] == [
        (pod.name, world.client.addresses.of(family)),
        (pod.name, asking.addresses.of(family)),
    ]


# --- what it refuses


@both_families
def test_a_pod_is_unreachable_before_it_is_there_and_after_it_went(
    world: World, family: Family
) -> None:
    first = world.node.add_pod("first")
    world.node.remove_pod("first")

    before = world.client.ask(first.addresses.of(family), 80)
    second = world.node.add_pod("second")
    second.serve("tcp:80")
    meanwhile = world.client.ask(second.addresses.of(family), 80)
    world.node.remove_pod("second")
    after = world.client.ask(second.addresses.of(family), 80)

    assert before is Failure.UNREACHABLE
    assert isinstance(meanwhile, Answer)
    assert after is Failure.UNREACHABLE
    assert first.addresses != second.addresses


@both_families
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_a_closed_port_refuses(world: World, family: Family, protocol: str) -> None:
    pod = world.pods[0]
    server = pod.serve(f"{protocol}:80")

    open_port = world.client.ask(pod.addresses.of(family), 80, protocol=protocol)
    server.close()
    closed_port = world.client.ask(pod.addresses.of(family), 80, protocol=protocol)

    assert isinstance(open_port, Answer)
    assert closed_port is Failure.REFUSED


def filter_port_80(world: World, verdict: str) -> None:
    world.node.namespace.run(
        ["nft", "-f", "-"],
        stdin=f"""table inet t {{ chain c {{ type filter hook forward priority 0;
            tcp dport 80 {verdict}
        }}\n}}""",
    )


@both_families
@pytest.mark.requires("nftables")
@pytest.mark.parametrize(
    ("verdict", "failure"),
    [
        ("reject with icmpx port-unreachable", Failure.REFUSED),
        ("reject with icmpx no-route", Failure.UNREACHABLE),
        ("reject with tcp reset", Failure.REFUSED),
    ],
    ids=["port unreachable", "no route", "reset"],
)
def test_a_node_that_rejects_is_heard_at_once_and_every_time(
    world: World, family: Family, verdict: str, failure: Failure
) -> None:
    pod = world.pods[0]
    pod.serve("tcp:80")
    filter_port_80(world, verdict)

    # an answer that only the second SYN brings would come after a second
    outcomes = world.client.ask_often(10, pod.addresses.of(family), 80, timeout_s=0.8)

    assert outcomes == [failure] * 10


@both_families
@pytest.mark.requires("nftables")
def test_what_the_node_drops_is_not_heard_of(world: World, family: Family) -> None:
    pod = world.pods[0]
    pod.serve("tcp:80")
    filter_port_80(world, "drop")

    assert world.client.ask(pod.addresses.of(family), 80, timeout_s=0.2) is Failure.TIMEOUT


def test_a_connection_that_ends_before_the_answer_is_told_from_a_refused_one(world: World) -> None:
    pod = world.pods[0]
    with pod.serve("tcp:80"):
        conversation = world.client.converse(pod.addresses.v4, 80)
        conversation.ask()

    with conversation, pytest.raises(ConnectionResetError):
        conversation.ask()


# --- the programs that talk


def test_a_conversation_stays_with_its_server(world: World) -> None:
    pod = world.pods[0]
    pod.serve("tcp:80")

    with world.client.converse(pod.addresses.v4, 80) as conversation:
        answers = {conversation.ask() for _ in range(20)}

    assert {(answer.name, answer.source) for answer in answers} == {
        (pod.name, world.client.addresses.v4)
    }
    assert len(answers) == 1


@both_families
@pytest.mark.requires("nftables")
def test_an_icmp_error_does_not_end_a_conversation(world: World, family: Family) -> None:
    pod = world.pods[0]
    pod.serve("tcp:80")

    with world.client.converse(pod.addresses.of(family), 80, timeout_s=0.6) as conversation:
        conversation.ask()
        filter_port_80(world, "reject with icmpx no-route")

        # the segment is sent again, after 0.2 s at first, and might still arrive
        with pytest.raises(TimeoutError):
            conversation.ask()


def test_a_question_can_come_from_a_second_address(world: World) -> None:
    pod, asking = world.pods[:2]
    pod.serve("tcp:80")
    asking.namespace.ip("address add 192.0.2.7/32 dev eth0")
    world.node.namespace.ip(f"route add 192.0.2.7/32 via {asking.addresses.v4}")

    answer = asking.ask(pod.addresses.v4, 80, source="192.0.2.7")

    assert isinstance(answer, Answer)
    assert answer.source == "192.0.2.7"


def test_a_load_keeps_its_rate_and_loses_nothing(world: World) -> None:
    pod = world.pods[0]
    pod.serve("tcp:80")

    begun_s = time.monotonic()
    with world.client.load(pod.addresses.v4, 80, rate=200) as load:
        load.wait_for_more(100, within_s=30)
    seen = load.stop()
    took_s = time.monotonic() - begun_s

    assert {outcome.name for _, _, outcome in seen if isinstance(outcome, Answer)} == {pod.name}
    assert all(isinstance(timed.outcome, Answer) for timed in seen)
    assert len(seen) <= 200 * took_s + 1  # it may come late, but not early
    assert load.outcomes() == seen


def test_a_load_sees_a_change_when_it_happens(world: World) -> None:
    pod = world.pods[0]
    server = pod.serve("tcp:80")

    with world.client.load(pod.addresses.v4, 80, rate=200) as load:
        answered = load.first(lambda timed: isinstance(timed.outcome, Answer), within_s=30)
        server.close()
        refused = load.first(lambda timed: timed.outcome is Failure.REFUSED, within_s=30)

    assert answered.started_s < refused.started_s


def test_waiting_for_what_a_load_never_sees_ends_with_an_error(world: World) -> None:
    with (
        world.client.load(world.pods[0].addresses.v4, 80, rate=200) as load,
        pytest.raises(TopologyError, match="not seen in time"),
    ):
        load.first(lambda timed: isinstance(timed.outcome, Answer), within_s=0.1)


def test_a_load_that_breaks_says_so(world: World) -> None:
    load = world.client.load("not an address", 80)

    with pytest.raises(TopologyError, match="ended"):
        load.wait_for_more(1, within_s=30)
    with pytest.raises(TopologyError, match="ended with"):
        load.stop()


def test_a_server_that_cannot_listen_says_why(world: World) -> None:
    pod = world.pods[0]
    pod.serve("tcp:80")

    with pytest.raises(TopologyError, match="Address already in use"):
        pod.serve("tcp:80")


# --- coming and going


def test_names_are_of_this_run_and_never_twice() -> None:
    before = namespace_names()
    with Namespace("twin") as one, Namespace("twin") as other:
        created = namespace_names() - before

        assert {one.name, other.name} <= created
        assert one.name != other.name
        assert one.name.endswith("-twin")
    assert not {one.name, other.name} & namespace_names()


def test_a_world_leaves_nothing_behind() -> None:
    before = host_state()
    with topology.world(pods=2, remote_pods=1) as world:
        topology.serve_on(world.pods, "tcp:80")
        inside = host_state()

    assert [line[:15] for line in differences(before, inside)] == ["+ namespaces: s"] * 6
    assert differences(before, host_state()) == []


def test_a_world_that_fails_inside_leaves_nothing_behind() -> None:
    before = host_state()

    with pytest.raises(ZeroDivisionError), topology.world(pods=1):
        raise ZeroDivisionError

    assert differences(before, host_state()) == []


def test_a_pod_of_a_name_that_is_taken_is_refused_and_leaves_nothing_behind(world: World) -> None:
    before = host_state()

    with pytest.raises(TopologyError, match="has a a already"):
        world.node.add_pod("a")

    assert differences(before, host_state()) == []


def test_leaving_a_namespace_ends_whatever_still_runs_inside() -> None:
    with Namespace("busy") as namespace:
        process = namespace.popen(SLEEPER)
        with namespace.entered():  # nobody told the namespace about this one
            stranger = subprocess.Popen(SLEEPER, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

        assert {process.pid, stranger.pid} <= set(namespace.process_ids())

    with stranger:
        assert stranger.wait(timeout=0) == -signal.SIGKILL
    assert process.returncode == -signal.SIGKILL


def test_a_namespace_that_somebody_else_removed_is_reported() -> None:
    with (
        pytest.raises(TopologyError, match="removed by somebody else"),
        Namespace("gone") as namespace,
    ):
        run(["ip", "netns", "delete", namespace.name])


def test_a_thread_comes_back_from_where_it_was_even_after_an_error() -> None:
    here = Path("/proc/thread-self/ns/net")
    home, seen = here.readlink(), []

    def look_and_fail() -> None:
        seen.append(here.readlink())
        raise ZeroDivisionError

    with Namespace("visited") as namespace:
        with pytest.raises(ZeroDivisionError), namespace.entered():
            look_and_fail()

        assert here.readlink() == home
    assert seen != [home]


def test_only_the_thread_that_enters_moves() -> None:
    here = Path("/proc/thread-self/ns/net")
    seen: list[Path] = []
    may_look, has_looked = threading.Event(), threading.Event()

    def look() -> None:
        may_look.wait(10)
        seen.append(here.readlink())
        has_looked.set()

    home = here.readlink()
    bystander = threading.Thread(target=look)
    bystander.start()
    with Namespace("visited") as namespace, namespace.entered():
        may_look.set()
        has_looked.wait(10)
    bystander.join()

    assert seen == [home]


def test_entering_what_is_not_there_is_reported() -> None:
    never_made = Namespace("never")

    with pytest.raises(TopologyError, match="cannot open the network namespace"):
        never_made.entered().__enter__()


def test_a_command_that_fails_is_reported_in_its_own_words() -> None:
    with Namespace("wrong") as namespace, pytest.raises(TopologyError, match="Cannot find device"):
        namespace.ip("link set nothing up")


# --- what watches over the host


@pytest.mark.requires("nftables")
def test_a_change_to_links_or_rules_is_noticed() -> None:
    with Namespace("watched") as namespace, namespace.entered():
        before = host_state()
        namespace.ip("link add left type veth peer name right")
        namespace.run(["nft", "add", "table", "inet", "leftover"])

        changes = differences(before, host_state())

    assert "+ links: left" in changes
    assert "+ links: right" in changes
    assert "+ nftables: table inet leftover {" in changes


@pytest.mark.requires("nftables", "iptables")
def test_packets_that_are_counted_are_no_change() -> None:
    with Namespace("watched") as namespace, namespace.entered():
        namespace.run(
            ["nft", "add table ip t; add chain ip t c { type filter hook input priority 0; }"]
        )
        namespace.run(["nft", "add rule ip t c counter"])
        namespace.run(["iptables", "-A", "INPUT", "-j", "ACCEPT"])
        before = host_state()
        client.ask("udp", "127.0.0.1", 9)

        assert differences(before, host_state()) == []
        assert "packets 0" not in namespace.run(["nft", "list", "table", "ip", "t"])


@pytest.mark.requires("iptables")
def test_a_change_to_iptables_is_noticed() -> None:
    with Namespace("watched") as namespace, namespace.entered():
        namespace.run(["iptables", "-t", "nat", "-N", "KEPT"])
        before = host_state()
        namespace.run(["iptables", "-t", "nat", "-N", "LEFTOVER"])

        changes = differences(before, host_state())

    assert "+ iptables: :LEFTOVER - " in [line.rstrip() + " " for line in changes]


def test_every_capability_can_be_probed_and_leaves_nothing_behind() -> None:
    before = host_state()

    reasons = {name: missing(name) for name in CAPABILITIES}

    assert reasons["namespaces"] == ""
    assert differences(before, host_state()) == []
