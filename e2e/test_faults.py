"""Faults while clients connect: rules others take away, kernels that refuse, updates without end. What each cost is printed.

A test says how many connections were lost and, where that is not zero, why it cannot be. Not here, because elsewhere:
kills and restarts under load (test_restart), a server that is away (test_apiserver), netlink errors of every kind at the
kernel's border (tests/contract/laws.py, tests/unit/proxy/netlink/test_socket.py), clocks that jump
(tests/unit/test_clocks.py: nothing that decides reads one that can).
"""

import contextlib
import json
import random
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from e2e import client
from e2e.client import Answer, Failure
from e2e.demo.daemon import Daemon
from e2e.faults import BACKEND, VIP, Site, lost, outcomes, report
from e2e.flows.ground import Ground, ground
from e2e.flows.objects import Wire
from e2e.flows.stage import stage
from e2e.flows.tally import FIGURES
from e2e.manifests import NODE_NAME, synced, until
from e2e.namespace import Namespace
from e2e.topology import Addresses
from e2e.tracked import tracked
from tests.builders import (
    make_bookmark,
    make_endpoint,
    make_node,
    make_service,
    make_slice,
    watch_line,
)
from tests.effort import patience_s

pytestmark = pytest.mark.requires("nftables")

NOTICED_S = 1.0
"""How soon a foreign change is noticed, by default."""
_SLACK_S = patience_s(9.0)
"""For a machine that is busy. Who does not notice looks again after a minute (verifyPeriod)."""


@pytest.fixture(scope="module")
def made() -> Iterator[Ground]:
    with ground() as each:
        yield each


@pytest.fixture
def patience() -> dict[str, str]:
    """What the daemon's own configuration file says; nothing unless a test needs it."""
    return {}


@pytest.fixture
def site(made: Ground, tmp_path: Path, patience: dict[str, str]) -> Iterator[Site]:
    file = tmp_path / "sliceproxy.conf"
    kind = {"apiVersion": "sliceproxy/v1alpha1", "kind": "SliceProxyConfiguration"}
    file.write_text(json.dumps({**kind, **patience}))
    with tracked(made.world.node.namespace) as flows:
        # A connection tried while rules were missing is tracked untranslated for two minutes, and whoever gets
        # its source port again meets that: what one test takes away may not cost another one its connections.
        flows.forget()
    with stage(made, tmp_path, ["--sliceproxy-config", str(file)]) as staged:
        staged.use(BACKEND, "default")
        yield Site(made, staged)


# --- rules that others take away


ELEMENT = f"{{ {VIP.v4} . tcp . 80 }}"
ACTS: dict[str, tuple[Sequence[str], str]] = {
    "the whole ruleset is flushed": (["flush", "ruleset"], "our table, or a chain or set in it"),
    "a table is deleted": (["delete", "table", "ip", "sliceproxy"], "our table, or a chain"),
    "a chain is flushed": (
        ["flush", "chain", "ip", "sliceproxy", "services"],
        "our table, or a chain",
    ),
    "an element is deleted": (
        ["delete", "element", "ip", "sliceproxy", "services", ELEMENT],
        "of services of default/web:web (TCP, IPv4)",
    ),
    "a set is flushed": (
        ["flush", "set", "ip6", "sliceproxy", "cluster-ips"],
        "of cluster-ips",
    ),
}


@pytest.mark.parametrize("act", ACTS)
def test_what_others_take_away_is_noticed_within_a_second_repaired_named_and_counted(
    site: Site, act: str
) -> None:
    command, named = ACTS[act]
    site.list_pods("abc")
    whole, before, counted = site.ruleset(), len(site.log()), site.repairs()

    with site.client.converse(VIP.v4, 80) as v4, site.client.converse(VIP.v6, 80) as v6:
        partners = [v4.ask().name, v6.ask().name]
        with site.under_load() as loads:
            for load in loads:
                load.wait_for_more(20, within_s=30)
            begun_s = time.monotonic()
            site.node.run(["nft", *command])
            until(lambda: site.is_whole(whole), "the rules are back")
            took_s = time.monotonic() - begun_s
            # what was tried meanwhile is tracked untranslated: who gets its source port again would meet that
            with tracked(site.node) as flows:
                flows.forget_untranslated()
            judged_s = time.monotonic()
            for load in loads:
                load.wait_for_more(20, within_s=30)
        seen = outcomes(loads)
        # what was translated once stays so: open connections do not notice
        assert [v4.ask().name, v6.ask().name] == partners

    after = [timed for timed in seen if timed.started_s > judged_s]
    assert after
    assert not lost(after)
    assert not [timed for timed in lost(seen) if timed.started_s + timed.took_s < begun_s]
    assert took_s < NOTICED_S + _SLACK_S
    said = [line for line in site.log()[before:] if "changed from outside, repairing" in line]
    assert any(named in line for line in said), said
    assert site.repairs() > counted
    report(
        act, seen, f"whole again after {took_s:.2f} s; lost is what came while rules were missing"
    )


@pytest.mark.parametrize("patience", [{"generationPollPeriod": "100ms", "verifyPeriod": "2s"}])
def test_somebody_who_keeps_undoing_repairs_is_called_contention_and_not_raced(
    site: Site,
) -> None:
    site.list_pods("abc")
    whole = site.ruleset()
    delete = ["nft", "delete", "element", "ip", "sliceproxy", "services", ELEMENT]

    with _again_and_again(lambda: site.node.run(delete)) as undone:
        until(lambda: any("contended" in line for line in site.log()), "it is called so")
        until(lambda: "contention" in site.degraded(), "its page says so too")
        repairs, begun, begun_s = site.repairs(), len(undone), time.monotonic()
        until(lambda: time.monotonic() > begun_s + 3, "three seconds of it")
        repaired, undoings = site.repairs() - repairs, len(undone) - begun
        took_s = time.monotonic() - begun_s
    until(lambda: site.is_whole(whole), "the rules are back when it ends")

    # once a verify period of 2 s, not with each of the changes seen ten times a second
    assert repaired <= 1 + took_s / 2
    FIGURES.append(
        f"fault: a foreign writer, contended: {undoings} changes and {repaired} repairs in {took_s:.0f} s, whole again at its end"
    )


@contextlib.contextmanager
def _again_and_again(act: Callable[[], object]) -> Iterator[list[float]]:
    """Do something whenever it can be done, as fast as that goes; yield when it was done."""
    stopping = threading.Event()
    done: list[float] = []

    def work() -> None:
        while not stopping.wait(0.02):
            with contextlib.suppress(Exception):  # it is not there to be deleted just now
                act()
                done.append(time.monotonic())

    worker = threading.Thread(target=work)
    worker.start()
    try:
        yield done
    finally:
        stopping.set()
        worker.join()


# --- a kernel that refuses


def test_of_a_large_batch_only_what_the_kernel_refuses_waits(site: Site) -> None:
    count = 300
    site.list_pods("a")
    number = count // 2
    # an element of somebody else, in the place of one of ours: adding ours is refused
    squatter = f"{{ {_vip(number)} . tcp . 80 : drop }}"
    many = [each for n in range(count) for each in _one_of_many(site, n)]
    with site.under_load() as loads:
        site.node.run(["nft", "add", "element", "ip", "sliceproxy", "services", squatter])
        begun_s = time.monotonic()
        site.stage.put([*site.objects("a"), *many])
        others = [_vip(n) for n in range(count) if n != number]
        until(lambda: _all_answer(site, others), "all others are served")
        took_s = time.monotonic() - begun_s
        until(lambda: _all_answer(site, [_vip(number)]), "the one in the way is served at last")
    seen = outcomes(loads)

    assert not lost(seen)
    state = site.stage.daemon.state()
    assert state is not None
    assert state["quarantined"] == []
    report(
        f"one of {count} services refused by the kernel", seen, f"all others after {took_s:.2f} s"
    )


def _all_answer(site: Site, addresses: Sequence[str]) -> bool:
    with site.client.entered():
        said = [client.ask("tcp", each, 80, timeout_s=2.0) for each in addresses]
    return all(isinstance(each, Answer) for each in said)


def _vip(number: int) -> str:
    return f"10.96.{100 + number // 200}.{1 + number % 200}"


def _one_of_many(site: Site, number: int) -> list[Wire]:
    pod = site.ground.hosts["a"].addresses.v4
    port = {"name": "web", "protocol": "TCP"}
    return [
        make_service(f"many-{number}", cluster_ips=[_vip(number)], ports=[{**port, "port": 80}]),
        make_slice(
            f"many-{number}",
            service=f"many-{number}",
            ports=[{**port, "port": 8080}],
            endpoints=[make_endpoint(pod, node=NODE_NAME)],
        ),
    ]


# --- changes without end


UPDATES = 100
SWITCHES = 100
_RATE = 50


def test_a_hundred_rolling_updates_in_a_row_refuse_no_connection(site: Site) -> None:
    site.list_pods("ab")
    gone: list[tuple[str, float, float]] = []
    with site.under_load() as loads:
        for load in loads:
            load.wait_for_more(20, within_s=30)
        running, waiting = list("ab"), list("cd")
        for _ in range(UPDATES):
            old, new = running.pop(0), waiting.pop(0)
            # whoever came last time is back in the list from here on
            written_s = time.monotonic()
            gone = [(n, a, min(b, written_s) if n == new else b) for n, a, b in gone]
            running.append(new)
            site.list_pods("".join([old, *running]))
            site.list_pods("".join(running), leaving=old)
            acknowledged_s = site.list_pods("".join(running))
            gone.append((old, acknowledged_s, float("inf")))
            waiting.append(old)
        for load in loads:
            load.wait_for_more(20, within_s=30)
    seen = outcomes(loads)

    report(f"{UPDATES} rolling updates in a row", seen)
    assert lost(seen) == []
    late = [
        (timed, name)
        for name, since_s, until_s in gone
        for timed in seen
        # it was begun and over meanwhile, wherever its client was held up
        if since_s < timed.started_s
        and timed.started_s + timed.took_s < until_s
        and isinstance(timed.outcome, Answer)
        and timed.outcome.name == name
    ]
    assert late == [], "a connection went to an endpoint whose removal had been acknowledged"


def test_features_switched_all_the_time_refuse_no_connection(site: Site) -> None:
    rng = random.Random(7)
    vip, node_port = Addresses("198.18.0.2", "2001:db8:18::2"), 30000
    clients = [
        (site.client, VIP.v4, 80),
        (site.client, VIP.v6, 80),
        (site.client, vip.v4, 80),
        (site.client, vip.v6, 80),
        (site.client, site.ground.node.addresses.v4, node_port),
        (site.ground.hosts["local-pod"], vip.v4, 80),
        (site.ground.node, vip.v4, 80),
    ]
    site.stage.put(_featured(site, random.Random(0), vip, node_port))
    with contextlib.ExitStack() as stack:
        loads = [
            stack.enter_context(host.load(ip, port, rate=_RATE, workers=1))
            for host, ip, port in clients
        ]
        for load in loads:
            load.wait_for_more(5, within_s=30)
        for _ in range(SWITCHES):
            site.stage.put(_featured(site, rng, vip, node_port))
        for load in loads:
            load.wait_for_more(5, within_s=30)
        seen = outcomes(loads)

    report(f"policies, affinity, ranges and endpoints switched {SWITCHES} times", seen)
    assert lost(seen) == []


def test_a_pod_reaches_itself_through_its_service_while_it_comes_and_goes(site: Site) -> None:
    # a packet that was given to the pod itself has to be masqueraded, also when the pod leaves the list meanwhile
    site.list_pods("ad")
    pod = site.ground.hosts["d"]
    with contextlib.ExitStack() as stack:
        loads = [stack.enter_context(pod.load(ip, 80, workers=2)) for ip in VIP]
        for _ in range(2 * UPDATES):
            site.list_pods("a")
            site.list_pods("ad")
        seen = outcomes(loads)

    report(f"a pod that asks itself comes and goes {2 * UPDATES} times", seen)
    assert lost(seen) == []


def _featured(site: Site, rng: random.Random, vip: Addresses, node_port: int) -> list[Wire]:
    """The service with features by chance, of which none keeps any of our clients out: one pod is always local."""
    names = rng.sample("abcd", rng.randint(1, 4)) + rng.sample(["r1", "r2"], rng.randint(0, 2))
    objects = site.objects(names)
    spec = objects[0]["spec"]
    spec["type"] = "LoadBalancer"
    spec["ports"][0]["nodePort"] = node_port
    spec["internalTrafficPolicy"] = rng.choice(["Cluster", "Local"])
    spec["externalTrafficPolicy"] = rng.choice(["Cluster", "Local"])
    if rng.random() < 0.5:
        spec["sessionAffinity"] = "ClientIP"
        spec["sessionAffinityConfig"] = {"clientIP": {"timeoutSeconds": rng.choice([60, 600])}}
    if rng.random() < 0.5:
        ranges = ["172.16.0.0/12", "fd00::/16", "10.0.0.0/8"]
        spec["loadBalancerSourceRanges"] = [*ranges, f"192.0.2.{rng.randint(0, 255)}/32"]
    objects[0]["status"] = {"loadBalancer": {"ingress": [{"ip": vip.v4}, {"ip": vip.v6}]}}
    return objects


def test_open_connections_outlive_changes_restarts_and_the_end_of_their_endpoint(
    site: Site,
) -> None:
    site.list_pods("abc")
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(site.client.converse(vip, 80)) for vip in [*VIP] * 6]
        partners = [each.ask() for each in opened]
        held = {each.name for each in partners}
        assert len(held) > 1
        for pods, leaving in (("abcd", ""), ("abd", ""), ("d", "abc"), ("d", "")):
            site.list_pods(pods, leaving)
            assert [each.ask() for each in opened] == partners
        site.stage.daemon.kill()
        site.stage.daemon.start()
        synced(site.stage.daemon)
        assert [each.ask() for each in opened] == partners
        assert site.stage.daemon.terminate() == 0
        site.stage.daemon.start()
        synced(site.stage.daemon)
        site.stage.put([])
        assert [each.ask() for each in opened] == partners
        assert isinstance(site.client.ask(VIP.v4, 80, timeout_s=0.2), Failure)
    FIGURES.append(
        f"fault: open connections: 0 of {len(opened)} lost over changes, the end of {len(held)} endpoints,"
        " SIGKILL, SIGTERM, and the end of the service"
    )


def test_a_restart_with_every_feature_writes_nothing_and_forgets_no_client(site: Site) -> None:
    with_features = site.objects("abc")
    spec = with_features[0]["spec"]
    spec |= {
        "type": "LoadBalancer",
        "externalTrafficPolicy": "Local",
        "externalIPs": ["198.18.0.1"],
    }
    spec |= {"sessionAffinity": "ClientIP", "loadBalancerSourceRanges": ["172.18.0.0/16"]}
    spec["sessionAffinityConfig"] = {"clientIP": {"timeoutSeconds": 600}}
    spec["ports"][0]["nodePort"] = 30000
    with_features[0]["status"] = {"loadBalancer": {"ingress": [{"ip": "198.18.0.2"}]}}
    site.stage.put(with_features)
    frontends = [(VIP.v4, 80), ("198.18.0.1", 80), ("198.18.0.2", 80), ("172.18.0.1", 30000)]

    def partners() -> set[str]:
        said = [site.client.ask(ip, port) for ip, port in frontends * 3]
        assert all(isinstance(each, Answer) for each in said), said
        return {each.name for each in said if isinstance(each, Answer)}

    before = partners()
    for _ in range(3):
        assert site.stage.daemon.terminate() == 0
        site.stage.daemon.start()
        assert synced(site.stage.daemon)["kernel"] == {"operations": 0, "transactions": 0}
        assert partners() == before
    assert len(before) == 1


# --- events twice, and in another order


def test_events_twice_and_in_another_order_lead_to_the_same_rules(tmp_path: Path) -> None:
    rng = random.Random(4)
    histories = [_history(rng, number) for number in range(30)]
    in_turn = [event for history in histories for event in history]
    stirred = _stirred(rng, histories)
    ruleset = [
        _programmed(tmp_path / name, events)
        for name, events in (("in-turn", in_turn), ("stirred", stirred))
    ]

    assert "10.96.1.1" in ruleset[0]
    assert ruleset[0] == ruleset[1]
    FIGURES.append(
        f"fault: {len(in_turn)} events of {len(histories)} services, again as {len(stirred)} in another order: same rules"
    )


def _history(rng: random.Random, number: int) -> list[tuple[str, Any]]:
    """What becomes of one service and its slice: the order of these events means something."""
    name = f"s{number}"
    told: list[tuple[str, Any]] = []
    for step in range(rng.randint(1, 6)):
        kind = "ADDED" if step == 0 else "MODIFIED"
        pods = [f"10.244.1.{rng.randint(2, 9)}" for _ in range(rng.randint(0, 5))]
        port = rng.choice([80, 81])
        told.append(
            (
                kind,
                make_service(
                    name,
                    cluster_ips=[f"10.96.1.{number + 1}"],
                    ports=[{"name": "http", "protocol": "TCP", "port": port}],
                ),
            )
        )
        told.append((kind, make_slice(name, service=name, endpoints=pods)))
    if rng.random() < 0.3:
        told.append(("DELETED", told[-2][1]))
    return told


def _stirred(
    rng: random.Random, histories: Sequence[Sequence[tuple[str, Any]]]
) -> list[tuple[str, Any]]:
    """The same events, some of them more than once, shuffled but for the order within each service."""
    left = [
        [event for event in history for _ in range(rng.randint(1, 3))] for history in histories
    ]
    told = []
    while left := [each for each in left if each]:
        told.append(rng.choice(left).pop(0))
    return told


def _programmed(directory: Path, events: Sequence[tuple[str, Any]]) -> str:
    """What a daemon that hears of these events leaves in the kernel."""
    directory.mkdir()
    file = directory / "events"
    last = make_service("last", cluster_ips=["10.96.250.250"])
    lines = [watch_line("ADDED", make_node(NODE_NAME))]
    lines += [
        watch_line("BOOKMARK", make_bookmark(k)) for k in ("Node", "Service", "EndpointSlice")
    ]
    lines += [watch_line(kind, obj) for kind, obj in [*events, ("ADDED", last)]]
    file.write_bytes(b"".join(lines))
    with Namespace("events") as namespace:
        arguments = ["--watch-events", str(file), "--proxy-mode", BACKEND]
        daemon = Daemon(namespace, NODE_NAME, arguments, directory / "log")
        daemon.start()
        synced(daemon)

        def is_last_programmed() -> bool:
            daemon.check()
            return "10.96.250.250" in namespace.run(["nft", "list", "ruleset"])

        until(is_last_programmed, "all events are programmed")
        ruleset = namespace.run(["nft", "list", "ruleset"])
        daemon.terminate()
    return "\n".join(sorted(_elements(ruleset)))


def _elements(ruleset: str) -> list[str]:
    """The lines and elements of a ruleset. Which slot an endpoint has got depends on what was there before it."""
    lines = re.sub(r",\s*", "\n", ruleset).replace("elements = {", "\n").splitlines()
    return [re.sub(r"( \. \d+) \. \d+ : ", r"\1 . SLOT : ", line.strip(" {}")) for line in lines]
