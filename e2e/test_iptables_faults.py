"""Mode iptables under programs that fail: whatever becomes of single calls, in the end all is as it should be.

A daemon hears of thousands of random changes while one of three calls of `iptables-restore` fails. What is in the kernel
after that is compared with what another daemon programs, which hears of the outcome alone and whose programs work.
"""

import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from backends.iptables.model import CHAINS, SETS
from backends.kernel.xtables_text import Flavour
from e2e.demo.daemon import Daemon
from e2e.failing import KINDS, FailingPrograms
from e2e.flavours import VARIANTS, have_kubelet_use
from e2e.flows.tally import FIGURES
from e2e.manifests import NODE_NAME, synced
from e2e.namespace import Namespace, TopologyError
from e2e.topology import CLUSTER_CIDRS
from tests.builders import (
    make_bookmark,
    make_endpoint,
    make_node,
    make_service,
    make_slice,
    watch_line,
)
from tests.effort import examples, patience_s

CHANGES: Final = 10_000 if os.environ.get("LONG") else examples(200)
"""LONG=1 in the environment: as many as it takes to meet everything more than once, some minutes."""
SERVICES: Final = 40
CONVERGES_S: Final = patience_s(90.0)
"""As long as what was refused may be set aside at most, and more."""
_BURST: Final = 9
"""So many changes at a time, at most."""
_IN_HAND_S: Final = patience_s(0.5)
_POLL_S: Final = 0.002
_OWN: Final = (CHAINS, *SETS.values())
_POLICY: Final = re.compile(r"^(:\S+ [A-Z]+) \[\d+:\d+\]$")
_PENDING: Final = re.compile(r"_changes_pending(\{.*\})? [1-9]")
_COUNTERS: Final = re.compile(r"^\[\d+:\d+\] ")
_PROGRAMS: Final = tuple(
    [f"{stem}-{flavour}" for flavour in Flavour for stem in ("iptables", "ip6tables")]
)
_THEIRS: Final = """*nat
:THEIRS - [0:0]
[3:180] -A PREROUTING -p udp -m udp --dport 9 -j THEIRS
[2:120] -A POSTROUTING -p udp -m udp --dport 9 -j RETURN
[1:60] -A THEIRS -m comment --comment "somebody else's" -j RETURN
COMMIT
*filter
:KUBE-FIREWALL - [0:0]
[7:420] -A INPUT -p udp -m udp --dport 9 -j KUBE-FIREWALL
[5:300] -A FORWARD -m mark --mark 0x8000/0x8000 -j DROP
[4:240] -A KUBE-FIREWALL -m mark --mark 0x8000/0x8000 -j DROP
COMMIT
"""

Objects = dict[str, Any]


@pytest.mark.timeout(1500)
@pytest.mark.parametrize(
    "variant",
    [pytest.param(each, marks=pytest.mark.requires(each, "ipset")) for each in VARIANTS],
)
def test_random_changes_converge_though_calls_fail_and_nothing_foreign_is_touched(
    variant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flavour, seed = VARIANTS[variant], random.randrange(1 << 30)
    rng, final = random.Random(seed), dict[str, Objects]()
    monkeypatch.setenv("XTABLES_LOCKFILE", str(tmp_path / "lock"))
    usual = os.environ["PATH"]
    failing = FailingPrograms(tmp_path / "programs", flavour)
    with host(flavour) as namespace:
        before = _but_for_counters(foreign(namespace), flavour)
        monkeypatch.setenv("PATH", f"{failing.directory}:{usual}")
        with running(namespace, tmp_path / "failing") as told:
            failing.fail()
            made = 0
            while made < CHANGES:
                calls, burst = failing.ended().total(), rng.randint(1, _BURST)
                told.hear(*[changed(rng, final) for _ in range(burst)])
                made += burst
                # else all of it would be one change
                told.wait_while(lambda n=calls: failing.ended().total() <= n, _IN_HAND_S)
            failing.work()
            monkeypatch.setenv("PATH", usual)
            with host(flavour) as other, running(other, tmp_path / "working") as well:
                well.hear(*[("ADDED", obj) for obj in final.values()])
                wanted = settled(other, well)
            told.wait_while(lambda: own(namespace) != wanted, CONVERGES_S)
            assert own(namespace) == wanted, f"seed {seed}"
            assert told.set_aside() == []
            assert _but_for_counters(foreign(namespace), flavour) == before
        counted = foreign(namespace)
        assert cleaned(namespace) == []
        assert foreign(namespace) == counted
    ended = failing.ended()
    assert all(ended[kind] for kind in KINDS if kind != "lock"), ended
    assert ended["lock"] or flavour is Flavour.NFT
    said = ", ".join(f"{count} {kind}" for kind, count in sorted(ended.items()))
    FIGURES.append(
        f"fault: {CHANGES} changes with failing programs, {variant}: converged ({said})"
    )


class Told:
    """A daemon that hears of objects through a pipe."""

    def __init__(self, daemon: Daemon, pipe: Path) -> None:
        self.daemon = daemon
        self._pipe = os.open(pipe, os.O_RDWR)  # a daemon that reads is waited for by nobody

    def close(self) -> None:
        os.close(self._pipe)

    def hear(self, *events: tuple[str, Objects]) -> None:
        """Tell it; waits for a daemon that does not read."""
        for kind, obj in events:
            line = memoryview(watch_line(kind, obj))
            while line:
                line = line[os.write(self._pipe, line) :]

    def wait_while(self, is_so: Any, limit_s: float) -> None:
        """Wait as long as something is so, but no longer than that."""
        deadline_s = time.monotonic() + limit_s
        while is_so() and time.monotonic() < deadline_s:
            self.daemon.check()
            time.sleep(_POLL_S)

    def set_aside(self) -> list[Any]:
        """What it says that the kernel refuses."""
        state = self.daemon.state()
        assert state is not None
        listed: list[Any] = state["quarantined"]
        return listed


@contextmanager
def host(flavour: Flavour) -> Iterator[Namespace]:
    """A host where others have rules in both flavours, and sets."""
    with Namespace("faults") as namespace:
        have_kubelet_use(namespace, flavour)
        for program in _PROGRAMS:
            restore = [f"{program}-restore", "--noflush", "--counters"]
            namespace.run(restore, stdin=_THEIRS)
        namespace.run(["ipset", "restore"], stdin="create their-ports bitmap:port range 1-99\n")
        yield namespace


@contextmanager
def running(namespace: Namespace, directory: Path) -> Iterator[Told]:
    directory.mkdir()
    pipe = directory / "events"
    os.mkfifo(pipe)
    arguments = [
        *("--watch-events", str(pipe), "--proxy-mode", "iptables"),
        *("--iptables-min-sync-period", "1ms", "--cluster-cidr", ",".join(CLUSTER_CIDRS)),
    ]
    daemon = Daemon(namespace, NODE_NAME, arguments, directory / "log")
    told = Told(daemon, pipe)
    try:
        daemon.start()
        told.hear(("ADDED", make_node(NODE_NAME)))
        told.hear(*[("BOOKMARK", make_bookmark(k)) for k in ("Node", "Service", "EndpointSlice")])
        synced(daemon)
        yield told
        daemon.terminate()
    except (AssertionError, TopologyError) as error:
        error.add_note("the daemon's last words:\n" + "\n".join(daemon.log()[-30:]))
        raise
    finally:
        told.close()


# --- random changes


def changed(rng: random.Random, objects: dict[str, Objects]) -> tuple[str, Objects]:
    """Change one object, or make or delete one; return the event that tells of it."""
    number = rng.randrange(SERVICES)
    name = f"s{number}"
    family = rng.choice(["v4", "v6"])
    place = name if rng.random() < 0.3 else f"{name}-{family}"
    kind = "MODIFIED" if place in objects else "ADDED"
    if kind == "MODIFIED" and rng.random() < 0.1:
        return "DELETED", objects.pop(place)
    objects[place] = (
        service(rng, number) if place == name else endpoints(rng, name, is_v6=family == "v6")
    )
    return kind, objects[place]


def service(rng: random.Random, number: int) -> Objects:
    """A service with whatever features chance gives it. Some external IPs are asked for by several."""
    ports = [{"name": "http", "protocol": "TCP", "port": rng.choice([80, 81])}]
    if rng.random() < 0.3:
        ports.append({"name": "dns", "protocol": "UDP", "port": 53})
    spec: Objects = {"internalTrafficPolicy": rng.choice(["Cluster", "Cluster", "Local"])}
    ingress: Sequence[Objects] = ()
    if rng.random() < 0.4:
        spec |= {"type": "LoadBalancer", "externalTrafficPolicy": rng.choice(["Cluster", "Local"])}
        ingress = [{"ip": f"198.18.0.{number + 1}"}, {"ip": f"2001:db8:18::{number + 1:x}"}]
        for index, port in enumerate(ports):
            port["nodePort"] = 30_000 + 2 * number + index
    if rng.random() < 0.3:
        spec["externalIPs"] = [f"198.19.0.{rng.randint(1, 5)}"]
    if rng.random() < 0.3:
        spec["loadBalancerSourceRanges"] = ["192.0.2.0/24", f"10.{rng.randint(0, 9)}.0.0/16"]
    if rng.random() < 0.3:
        timeout = {"clientIP": {"timeoutSeconds": rng.choice([60, 600])}}
        spec |= {"sessionAffinity": "ClientIP", "sessionAffinityConfig": timeout}
    addresses = [f"10.96.0.{number + 10}", f"fd00:10:96::{number + 16:x}"]
    return make_service(f"s{number}", cluster_ips=addresses, ports=ports, ingress=ingress, **spec)


def endpoints(rng: random.Random, name: str, *, is_v6: bool) -> Objects:
    """A slice of none to some twenty endpoints; more than sixteen take a tree."""
    count = rng.choice([0, 1, 1, 2, 3, 5, 9, 20])
    stem = "fd00:10:244:1::" if is_v6 else "10.244.1."
    chosen = rng.sample(range(2, 60), count)
    return make_slice(
        f"{name}-{'v6' if is_v6 else 'v4'}",
        service=name,
        address_type="IPv6" if is_v6 else "IPv4",
        endpoints=[
            make_endpoint(f"{stem}{n}", node=rng.choice([NODE_NAME, "elsewhere"])) for n in chosen
        ],
        ports=[
            {"name": "http", "protocol": "TCP", "port": 8080},
            {"name": "dns", "protocol": "UDP", "port": 53},
        ],
    )


# --- what is there


def own(namespace: Namespace) -> Mapping[str, list[str]]:
    """Everything of ours on a host, without what the kernel adds and the order of chains: by where it is, sorted."""
    found = {}
    for program in _PROGRAMS:
        lines = namespace.run([f"{program}-save"]).splitlines()
        # rules of one chain have an order, which the mark in its first rule stands for
        found[program] = sorted([line for line in lines if CHAINS in line])
    listed = namespace.run(["ipset", "save"]).splitlines()
    found["ipset"] = sorted(
        [" ".join(line.split()[:3]) for line in listed if line.split()[1].startswith(_OWN)]
    )
    return found


def settled(namespace: Namespace, told: Told) -> Mapping[str, list[str]]:
    """What is there when it has not changed for longer than anything takes."""
    state, since_s = own(namespace), time.monotonic()
    while time.monotonic() < since_s + patience_s(3.0):
        told.daemon.check()
        page = told.daemon.page("/metrics") or ""  # a daemon that is held up does not answer
        if (now := own(namespace)) != state or not page or _PENDING.search(page):
            state, since_s = now, time.monotonic()
    return state


def foreign(namespace: Namespace) -> Mapping[str, list[str]]:
    """Everything of others with its counters, in order; but for what a policy has counted, which every packet moves."""
    found = {}
    for program in _PROGRAMS:
        lines = namespace.run([f"{program}-save", "-c"]).splitlines()
        kept = [line for line in lines if CHAINS not in line and not line.startswith("#")]
        found[program] = [_POLICY.sub(r"\1", line) for line in kept]
    listed = namespace.run(["ipset", "save"]).splitlines()
    found["ipset"] = [line for line in listed if not line.split()[1].startswith(_OWN)]
    return found


def _but_for_counters(found: Mapping[str, list[str]], written: Flavour) -> Mapping[str, list[str]]:
    """The same without the counters of legacy tables that were written.

    Legacy exchanges a table and then adds what the old one had counted: who is killed in between leaves zeroes.
    """
    lost = [program for program in found if written is Flavour.LEGACY and "legacy" in program]
    return {
        program: [_COUNTERS.sub("", line) for line in lines] if program in lost else lines
        for program, lines in found.items()
    }


def cleaned(namespace: Namespace) -> list[str]:
    """What of ours is left after the command that removes it."""
    with namespace.entered():
        command = [sys.executable, "-I", "-m", "proxy", "cleanup", "--mode", "iptables"]
        subprocess.run(command, check=True, capture_output=True)
    return [line for lines in own(namespace).values() for line in lines]
