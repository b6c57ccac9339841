"""deploy/daemonset.yaml at work: what the Dockerfile installs, with the manifest's command line, files and rights.

There is no container, but all that a container would take away: the steps of the Dockerfile fill an empty virtual
environment, and the program starts from it with the capabilities of the manifest, no new privileges, every file system
read-only and an environment of its own. The stand-in serves as the control plane, and remembers what it was asked.
"""

import contextlib
import http.client
import os
import re
import shutil
import signal
import subprocess
import sys
import venv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from backends.ipvs import deadlines
from backends.ipvs.model import Place
from backends.kernel import xtables_library
from backends.kernel.ipvs_objects import ServerId
from backends.kernel.xtables_text import Flavour
from e2e import topology
from e2e.capabilities import UNSHARE
from e2e.client import Answer
from e2e.flavours import have_kubelet_use
from e2e.manifests import NODE_NAME, address, node, service, slices, until
from e2e.topology import CLUSTER_CIDRS, Host, World
from tests import deployment
from tests.apiserver.access import SERVICE_ACCOUNT
from tests.apiserver.process import StandIn
from tests.deployment import Permission

# the first one installs what the others run
pytestmark = [pytest.mark.requires("nftables", "capsh"), pytest.mark.timeout(300)]

VIP = address(10)
ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
_INSTALL_LIMIT_S = 280.0
_WHEELS = "/wheels"
_NOT_HERE = ["apt-get", "requirements-dev.lock", "compileall"]
"""Steps that the machine has taken already, or that are about the image alone."""
if not xtables_library.is_installed():  # where there is no compiler it could not be built
    _NOT_HERE.append("requirements-iptables.lock")

# kube-proxy's: labels, fields
SELECTORS = {
    "services": ("!service.kubernetes.io/service-proxy-name", "spec.clusterIP!=None"),
    "endpointslices": ("!service.kubernetes.io/headless", ""),
    "nodes": ("", f"metadata.name={NODE_NAME}"),
    "servicecidrs": ("", ""),
}


# --- the image


@pytest.fixture(scope="session")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an empty environment in which the Dockerfile's steps have installed the program."""
    directory = tmp_path_factory.mktemp("image")
    context, wheels, last = (directory / name for name in ("context", "wheels", "last"))
    context.mkdir()
    venv.create(last, with_pip=True)
    for step in deployment.steps():
        if step.instruction == "COPY":
            for name in step.copied():
                _copy(deployment.ROOT / name, context / name)
        # what builds the wheels is in the environment of the tests, from the same lock; and the interpreter is not ours
        elif step.instruction == "RUN" and not re.search("|".join(_NOT_HERE), step.rest):
            interpreter = Path(sys.executable) if step.stage else last / "bin/python"
            _run(step.rest.replace(_WHEELS, str(wheels)), interpreter, context)
    return last / "bin/python"


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copy(source, target)


def _run(step: str, interpreter: Path, context: Path) -> None:
    """What a RUN does, but that packages may come out of the cache of this machine."""
    command = re.sub(r"--mount=\S+ |--no-cache-dir ", "", step)
    done = subprocess.run(
        ["sh", "-c", command],
        cwd=context,
        env={**os.environ, "PATH": f"{interpreter.parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
        timeout=_INSTALL_LIMIT_S,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"


# --- the pod


class Pod:
    """The manifest's container on a node, with the control plane beside it."""

    def __init__(
        self, python: Path, world: World, server: StandIn, directory: Path, mode: str = ""
    ) -> None:
        self._python = python
        self._mode = mode
        self._world = world
        self._directory = directory
        self._log = directory / "log"
        self._state = directory / "state"
        self._state.mkdir()
        self._lock: Path | None = None
        if any(each["name"] == "xtables-lock" for each in deployment.pod(mode)["volumes"]):
            self._lock = directory / "xtables.lock"
            self._lock.touch()
        self._process: subprocess.Popen[str] | None = None
        self.server = server
        self.arguments = [self._here(each) for each in deployment.arguments(NODE_NAME)]
        self._write_files()

    def _write_files(self) -> None:
        account = self._directory / "account"
        account.mkdir()
        # rotated tokens appear here too
        (account / "token").symlink_to(self.server.kubeconfig.with_name("token"))
        (account / "ca.crt").symlink_to(self.server.kubeconfig.with_name("tls") / "ca.crt")
        for path, text in deployment.configuration().items():
            file = Path(self._here(path))
            file.parent.mkdir(exist_ok=True)
            # what is marked SET
            told = text.replace("https://CONTROL-PLANE:PORT", self.server.url)
            told = re.sub("clusterCIDR: .*", f"clusterCIDR: {','.join(CLUSTER_CIDRS)}", told)
            # the limit of connections is the whole machine's, and no namespace may change it
            told = told.replace('mode: ""', "conntrack: {maxPerCore: 0}")
            told = told.replace("verifyPeriod:", f'mode: "{self._mode}"\nverifyPeriod:')
            file.write_text(self._here(told))

    def _here(self, text: str) -> str:
        """Paths of the container, mapped."""
        config = deployment.mount("config")["mountPath"]
        text = text.replace(config, str(self._directory / "config"))
        return text.replace(ACCOUNT, str(self._directory / "account"))

    @property
    def kept(self) -> list[str]:
        """The capabilities that the manifest leaves, as the tools call them."""
        capabilities = deployment.container(self._mode)["securityContext"]["capabilities"]
        assert capabilities["drop"] == ["ALL"]
        return [f"cap_{name.lower()}" for name in capabilities["add"]]

    def start(self, *, kept: Sequence[str] | None = None) -> None:
        """Start what runs before it and then itself, with other capabilities than the manifest's if they are given."""
        (asked,) = {*deployment.init_container()["args"]} - {*deployment.container()["args"]}
        self.command(*self.arguments, asked)
        kept = self.kept if kept is None else kept
        dropped = [name for name in _capabilities("CapBnd", os.getpid()) if name not in kept]
        (entry,) = (step for step in deployment.steps() if step.instruction == "ENTRYPOINT")
        program, *first = entry.words()
        assert program == self._python.name
        argv = [
            *(*UNSHARE, "sh", "-c", _READ_ONLY, str(self._state)),
            *(deployment.mount("state")["mountPath"], str(self._lock) if self._lock else ""),
            *("capsh", f"--drop={','.join(dropped)}", "--no-new-privs"),
            *(f"--shell={self._python}", "--", *first, *self.arguments),
        ]
        with self._log.open("a") as log:
            self._process = self._world.node.namespace.popen(
                argv, stdout=log, stderr=log, environment=self._environment()
            )

    def _environment(self) -> dict[str, str]:
        """What the kubelet gives. The Service `kubernetes` cannot be reached here: nothing serves its cluster IP."""
        service = {"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "443"}
        return {"PATH": os.environ["PATH"], "NODE_NAME": NODE_NAME, **service}

    def list_pods(self, pods: Sequence[Host]) -> None:
        """Make these the endpoints of the service."""
        self.server.put(*slices("web", pods, [("web", "tcp", 8080)], self._world))

    def probe(self, name: str) -> bool:
        """Whether one of the manifest's probes succeeds now."""
        asked = deployment.container()[name]["httpGet"]
        with self._world.node.entered(), contextlib.suppress(ConnectionError):
            connection = http.client.HTTPConnection(asked["host"], asked["port"], timeout=20.0)
            try:
                connection.request("GET", asked["path"])
                return 200 <= connection.getresponse().status < 400
            finally:
                connection.close()
        return False

    def wait_until_ready(self) -> None:
        """Raises AssertionError if it ends instead."""

        def is_ready() -> bool:
            assert self.process.poll() is None, self.log()
            return self.probe("readinessProbe")

        until(is_ready, "the pod is ready")

    def end(self) -> int:
        """What the kubelet does; the exit status. Raises subprocess.TimeoutExpired where it would kill."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(deployment.pod()["terminationGracePeriodSeconds"])

    def command(self, *arguments: str) -> str:
        """What a command of the image says on the node, where it succeeds."""
        argv = [str(self._python), "-I", "-m", "proxy", *arguments]
        return self._world.node.namespace.run(argv)

    def deadlines(self) -> dict[tuple[ServerId, Place], float]:
        """Until when endpoints drain, as the node keeps it."""
        return deadlines.load(self._state / deadlines.FILE)

    def ruleset(self) -> str:
        return self._world.node.namespace.run(["nft", "list", "ruleset"])

    @property
    def process(self) -> "subprocess.Popen[str]":
        assert self._process is not None
        return self._process

    def log(self) -> str:
        return self._log.read_text()


# Makes read-only what is so in a container: all but the volumes of the node, and but /proc, of which only the kernel's settings.
_READ_ONLY = """
cd /
mount -t tmpfs run "${1%/*}"
mkdir "$1"
mount --bind "$0" "$1"
lock="${1%/*}/xtables.lock"
if [ "$2" ]; then touch "$lock" && mount --bind "$2" "$lock"; fi
mount --bind /proc/sys /proc/sys
while read -r _ target type _; do
    case "$type:$target" in proc:/proc | *:"$1" | *:"$lock") ;; *) mount -o remount,bind,ro "$target" 2>/dev/null ;; esac
done </proc/self/mounts
if [ -w "$0" ] || [ -w "${1%/*}" ] || [ -w /proc/sys/net ]; then echo "something is not read-only" >&2; exit 99; fi
shift 2
exec "$@"
"""


def _status(process_id: int) -> dict[str, str]:
    lines = Path(f"/proc/{process_id}/status").read_text().splitlines()
    return dict(line.split(":\t", 1) for line in lines)


def _capabilities(which: str, process_id: int) -> set[str]:
    """The names of a process's capabilities."""
    mask = _status(process_id)[which]
    decoded = subprocess.run(
        ["capsh", f"--decode={mask}"], capture_output=True, text=True, check=True
    )
    _, _, names = decoded.stdout.strip().partition("=")
    return {name for name in names.split(",") if name}


@contextlib.contextmanager
def _pod(python: Path, directory: Path, mode: str = "") -> Iterator[Pod]:
    with topology.world(pods=2) as world:
        topology.serve_on(world.pods, "tcp:8080")
        with StandIn(directory / "api", popen=world.node.namespace.popen) as server:
            server.put(node(world), service("web", VIP, [("web", "tcp", 80)]))
            pod = Pod(python, world, server, directory, mode)
            pod.list_pods(world.pods)
            yield pod


@pytest.fixture
def pod(python: Path, tmp_path: Path) -> Iterator[Pod]:
    """Ready to be started, with one service of two pods."""
    with _pod(python, tmp_path) as pod:
        yield pod


def serving(pod: Pod) -> set[str]:
    """Who answers at the service's address from outside."""
    outcomes = pod._world.client.ask_often(30, VIP.v4, 80)
    assert all(isinstance(outcome, Answer) for outcome in outcomes), outcomes
    return {outcome.name for outcome in outcomes if isinstance(outcome, Answer)}


# --- what it does


def test_the_pod_becomes_ready_and_serves_with_no_rights_but_two(pod: Pod) -> None:
    pod.start()
    pod.wait_until_ready()

    assert pod.probe("startupProbe")
    assert pod.probe("livenessProbe")
    assert serving(pod) == {"a", "b"}
    process_id = pod.process.pid
    for which in ("CapEff", "CapPrm", "CapBnd"):
        assert _capabilities(which, process_id) == {"cap_net_admin", "cap_net_bind_service"}
    assert _status(process_id)["NoNewPrivs"] == "1"
    assert "default/web" in pod.command("explain", "web")


def test_nothing_is_wrong_in_its_log(pod: Pod) -> None:
    pod.start()
    pod.wait_until_ready()
    pod.end()

    lines = [line for line in pod.log().splitlines() if " INFO " not in line]
    assert lines == []


def test_its_end_leaves_the_rules_and_cleanup_removes_them(pod: Pod) -> None:
    pod.start()
    pod.wait_until_ready()
    ruleset = pod.ruleset()

    assert pod.end() == 0

    assert "table ip sliceproxy" in ruleset
    assert pod.ruleset() == ruleset
    assert serving(pod) == {"a", "b"}
    assert "removed" in pod.command("cleanup")
    assert pod.ruleset() == ""


@pytest.mark.requires("ipvs", "dummy")
def test_in_mode_ipvs_the_next_pod_knows_until_when_endpoints_drain(tmp_path: Path) -> None:
    with _pod(Path(sys.executable), tmp_path, mode="ipvs") as pod:
        pod.start()
        pod.wait_until_ready()
        assert serving(pod) == {"a", "b"}
        conversations = [pod._world.client.converse(VIP.v4, 80) for _ in range(4)]
        pod.list_pods([])
        # of each endpoint, two connections; its address in the other family has none
        until(lambda: len(pod.deadlines()) == 2, "what drains is written down")
        before = pod.deadlines()
        pod.end()
        pod.start()
        pod.wait_until_ready()

        assert pod.deadlines() == before
        for conversation in conversations:
            conversation.close()
        # that no setting is left to be written, and that the file could be: a slow machine may have other warnings
        assert " ERROR " not in pod.log()
        assert "could not be written" not in pod.log()


@pytest.mark.requires("ipset")
@pytest.mark.parametrize(
    "flavour",
    [pytest.param(each, marks=pytest.mark.requires(f"iptables-{each}")) for each in Flavour],
)
def test_in_mode_iptables_it_serves_with_three_rights(
    python: Path, flavour: Flavour, tmp_path: Path
) -> None:
    with _pod(python, tmp_path, mode="iptables") as pod:
        have_kubelet_use(pod._world.node.namespace, flavour)
        pod.start()
        pod.wait_until_ready()
        assert serving(pod) == {"a", "b"}
        pod.list_pods(pod._world.pods[:1])
        until(lambda: serving(pod) == {"a"}, "the change is in force")

        rights = {"cap_net_admin", "cap_net_bind_service", "cap_net_raw"}
        assert _capabilities("CapBnd", pod.process.pid) == rights
        assert f"iptables flavour {flavour}" in pod.log()
        # nothing is missing but what the page says of NodePorts at 127.0.0.1
        (error,) = (line for line in pod.log().splitlines() if " ERROR " in line)
        assert "route_localnet" in error
        assert pod.end() == 0


@pytest.mark.requires("ipset", "iptables-legacy", "iptables-nft")
@pytest.mark.parametrize("flavour", Flavour)
def test_without_the_third_right_mode_iptables_does_not_start(
    python: Path, flavour: Flavour, tmp_path: Path
) -> None:
    with _pod(python, tmp_path, mode="iptables") as pod:
        have_kubelet_use(pod._world.node.namespace, flavour)
        pod.start(kept=["cap_net_admin", "cap_net_bind_service"])

        assert pod.process.wait(60) == 1
        assert "iptables: needs the capability NET_RAW" in pod.log().splitlines()[-1]


def test_in_mode_userspace_it_serves_with_the_rights_of_every_pod_and_not_with_less(
    python: Path, tmp_path: Path
) -> None:
    with _pod(python, tmp_path, mode="userspace") as pod:
        pod.start(kept=["cap_net_admin"])
        assert pod.process.wait(60) == 1
        assert "NET_BIND_SERVICE" in pod.log().splitlines()[-1]

        pod.start()
        pod.wait_until_ready()
        assert serving(pod) == {"a", "b"}
        assert pod.end() == 0


def test_without_its_capability_it_says_what_is_missing(pod: Pod) -> None:
    pod.start(kept=[])

    assert pod.process.wait(20) == 1
    assert "needs the capability NET_ADMIN" in pod.log()
    assert pod.ruleset() == ""


def test_what_it_asks_the_api_server_for_is_what_its_role_allows(pod: Pod) -> None:
    asked: set[Permission] = set()
    for watch_list in ("served", "refused"):
        pod.server.remote.break_(watch_list=watch_list)
        pod.server.remote.forget_requests()
        pod.start()
        pod.wait_until_ready()
        requests = pod.server.remote.requests()
        pod.end()

        asked |= {Permission(one["group"], one["resource"], one["verb"]) for one in requests}
        assert {one["user"] for one in requests} == {SERVICE_ACCOUNT}
        assert {one["code"] for one in requests if one["resource"] == "events"} == {201}
        watched = [one for one in requests if one["resource"] != "events"]
        assert [one for one in watched if one["name"] or one["namespace"]] == []
        for one in watched:
            assert _selectors(one) == SELECTORS[one["resource"]]

    # what has happened once is created; that it happens again has tests of its own
    asked.add(Permission("events.k8s.io", "events", "patch"))
    # both ways: whatever the role allows besides would be too much
    assert asked == deployment.permissions()


def _selectors(request: dict[str, Any]) -> tuple[str, str]:
    query = request["query"]
    return query.get("labelSelector", ""), query.get("fieldSelector", "")
