"""The real daemon on the ground: restarted for other settings, told of objects, waited for until they are programmed.

Waiting is for the daemon's own word, never for time. Each change comes with a marker, a service whose port has a name that
was never used; all is one file, the marker last. When the journal says that the marker is programmed, so is all else.
"""

import contextlib
import http.client
import itertools
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from e2e.demo.daemon import Daemon
from e2e.flavours import BESIDE, FLAVOURS, have_kubelet_leave, have_kubelet_use, mode_of
from e2e.flows.ground import Ground
from e2e.flows.objects import NAMESPACE, Allocator, Wire
from e2e.flows.settings import CONFIGURATIONS, SETTINGS, SETTINGS_OF_MODES
from e2e.flows.watching import Watch
from e2e.manifests import NODE_NAME, synced
from e2e.namespace import TopologyError
from tests.builders import make_node, make_service
from tests.effort import patience_s

PORT: Final = 10249
_LIMIT_S: Final = patience_s(60.0)
_POLL_S: Final = patience_s(0.005)
_MARKER: Final = "marker"
_BESIDE: Final = Path(__file__).with_name("beside_iptables.py")


class Stage:
    """One daemon after the other, and the objects of one scenario after the other."""

    def __init__(self, ground: Ground, directory: Path, extra: Sequence[str] = ()) -> None:
        """`extra` are further arguments of every daemon."""
        self.ground = ground
        self._extra = tuple(extra)
        self.watch = Watch(ground.node)
        self.allocator = Allocator()
        self._left_by = ""
        self._log = directory / "log"
        self._file = directory / "manifests" / "objects.json"
        self._file.parent.mkdir()
        self._running: tuple[str, str] | None = None
        self._daemon: Daemon | None = None
        self._marks = itertools.count(1)
        self._marker_ip = self.allocator.cluster_ips().v4

    def use(self, backend: str, setting: str) -> None:
        """Have a daemon of that mode, or variant of a mode, with those settings run.

        It finds what one with other settings left, and has to make its own of it; what another mode left is gone.
        """
        if self._running == (backend, setting):
            return
        self.close()
        self._make_way(backend)
        self._write(self._world_objects())
        arguments = ["--manifests", str(self._file.parent)]
        arguments += self._configured(backend, setting)
        daemon = Daemon(
            self.ground.world.node.namespace,
            NODE_NAME,
            [*arguments, *SETTINGS[setting], *self._extra],
            self._log,
        )
        if backend in BESIDE:
            daemon.launcher = [sys.executable, "-I", str(_BESIDE)]
        daemon.start()
        self._daemon = daemon
        synced(daemon)
        self._running = backend, setting

    @property
    def daemon(self) -> Daemon:
        """The one that runs. Raises TopologyError before the first `use`."""
        if self._daemon is None:
            raise TopologyError("no daemon was started yet")
        return self._daemon

    def put(self, objects: Sequence[Wire]) -> None:
        """Make these all the objects there are; they are programmed when this returns. Raises TopologyError."""
        port_name = f"m{next(self._marks)}"
        marker = make_service(
            _MARKER,
            NAMESPACE,
            cluster_ips=[self._marker_ip],
            ports=[{"name": port_name, "protocol": "TCP", "port": 9}],
        )
        own = [] if any(each["kind"] == "Node" for each in objects) else self._world_objects()
        self._write([*own, *objects, marker])
        self._await(f"{NAMESPACE}/{_MARKER}:{port_name}")

    def page(self, path: str) -> str:
        """What one of the daemon's own pages says."""
        with self.ground.node.entered():
            connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=patience_s(20.0))
            with contextlib.closing(connection):
                connection.request("GET", path)
                return connection.getresponse().read().decode()

    def log(self, lines: int) -> list[str]:
        """The last lines of the log."""
        return self._log.read_text().splitlines()[-lines:] if self._log.exists() else []

    @property
    def variant(self) -> str:
        """The mode of what is programmed, or the variant of a mode."""
        return self._left_by

    def cleanup(self) -> None:
        """End the daemon and remove its rules."""
        self.close()
        self._make_way("")

    def close(self) -> None:
        """End the daemon. Its rules stay."""
        if self._daemon is not None:
            with contextlib.suppress(TopologyError):
                self._daemon.terminate()
        self._daemon = self._running = None

    def _configured(self, backend: str, setting: str) -> list[str]:
        """The settings as arguments: flags, or the name of a file that makes flags count for nothing.

        The mode stands in a file of ours, since kube-proxy's may only name what kube-proxy knows.
        """
        if setting not in CONFIGURATIONS:
            return ["--proxy-mode", mode_of(backend), *SETTINGS_OF_MODES.get(mode_of(backend), ())]
        own = self._write_configuration(
            "sliceproxy/v1alpha1", "SliceProxyConfiguration", {"mode": mode_of(backend)}
        )
        file = self._write_configuration(
            "kubeproxy.config.k8s.io/v1alpha1", "KubeProxyConfiguration", CONFIGURATIONS[setting]
        )
        return ["--config", str(file), "--sliceproxy-config", str(own)]

    def _write_configuration(self, version: str, kind: str, fields: Mapping[str, object]) -> Path:
        file = self._file.parent.parent / f"{kind}.json"
        file.write_text(json.dumps({"apiVersion": version, "kind": kind, **fields}))
        return file

    def _make_way(self, backend: str) -> None:
        """Have nothing on the node that speaks for another mode, or another variant of it."""
        if self._left_by == backend:
            return
        node = self.ground.node.namespace
        if self._left_by:
            self._cleanup()
        if self._left_by in FLAVOURS:
            have_kubelet_leave(node, FLAVOURS[self._left_by])
        if backend in FLAVOURS:
            have_kubelet_use(node, FLAVOURS[backend])
        self._left_by = backend

    def _cleanup(self) -> None:
        with self.ground.node.entered():
            done = subprocess.run(
                [sys.executable, "-I", "-m", "proxy", "cleanup"],
                capture_output=True,
                text=True,
                check=False,
            )
        if done.returncode:
            raise TopologyError(f"cleanup failed: {done.stderr.strip()}")

    def _world_objects(self) -> list[Wire]:
        node = self.ground.world.node
        return [
            make_node(NODE_NAME, internal_ips=list(node.addresses), pod_cidrs=list(node.pod_cidrs))
        ]

    def _write(self, objects: Sequence[Wire]) -> None:
        listed = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
        new = self._file.parent.parent / ".new"
        new.write_text(json.dumps(listed))
        new.replace(self._file)

    def _await(self, marker: str) -> None:
        deadline_s = time.monotonic() + _LIMIT_S
        while not any(marker == entry["servicePort"] for entry in self._changes()):
            self.daemon.check()
            if time.monotonic() > deadline_s:
                said = "\n".join(self.log(20))
                raise TopologyError(f"not programmed within {_LIMIT_S:g} s; the daemon:\n{said}")
            time.sleep(_POLL_S)

    def _changes(self) -> list[dict[str, Any]]:
        """What the journal says of the marker; nothing as long as it is not known."""
        page = self.page(f"/debug/services/{NAMESPACE}/{_MARKER}?output=json")
        changes = json.loads(page)["changes"] if page.startswith("{") else []
        return [entry for entry in changes if not entry["error"]]


@contextlib.contextmanager
def stage(ground: Ground, directory: Path, extra: Sequence[str] = ()) -> Iterator[Stage]:
    """A stage without a daemon yet, which `use` starts."""
    made = Stage(ground, directory, extra)
    try:
        yield made
    finally:
        made.close()
