"""The real daemon in the namespace of its node: started as an operator would, ended by signals, asked on its own page."""

import http.client
import json
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from e2e.namespace import Namespace, TopologyError, reap
from tests.effort import patience_s

# isolated, as in the image: neither the directory nor the environment we are started in has a say
_COMMAND = [sys.executable, "-I", "-m", "proxy"]
_STOP_LIMIT_S = patience_s(30.0)
_DEBUG_PORT = 10249


class Daemon:
    """One daemon after the other on the same node; all write to the same log."""

    def __init__(self, namespace: Namespace, node: str, source: Sequence[str], log: Path) -> None:
        """`source` are the arguments that say where objects come from."""
        self._namespace = namespace
        self.arguments = ["run", *source, "--hostname-override", node]
        self.launcher: list[str] = []
        """A program that becomes the daemon, with its arguments."""
        self.environment: dict[str, str] | None = None
        """What it finds instead of the environment of this process."""
        self._log = log
        self._process: subprocess.Popen[str] | None = None
        self._before: subprocess.Popen[str] | None = None

    def start(self) -> float:
        """Start it, and return the time just before."""
        with self._log.open("a") as log:
            started_s = time.monotonic()
            self._process = self._namespace.popen(
                [*self.launcher, *_COMMAND, *self.arguments],
                stdout=log,
                stderr=log,
                environment=self.environment,
            )
        return started_s

    def plan(self, *more: str) -> subprocess.CompletedProcess[str]:
        """What a start with the same flags would do, by its own account."""
        argv = [*_COMMAND, "plan", *self.arguments[1:], *more]
        with self._namespace.entered():
            return subprocess.run(argv, capture_output=True, text=True, check=False)

    def start_beside(self) -> float:
        """Start one beside that which runs, as an upgrade does; return the time just before."""
        self._before = self._running()
        return self.start()

    def tell_old_to_stop(self) -> None:
        """Send SIGTERM to the one that ran before the last start."""
        assert self._before is not None, "there is only one"
        self._before.send_signal(signal.SIGTERM)

    def old_status(self) -> int | None:
        """The exit status of the one before, None as long as it runs."""
        assert self._before is not None, "there is only one"
        status = self._before.poll()
        if status is not None:
            reap(self._before)
        return status

    def check(self) -> None:
        """Raise TopologyError if it should run and does not."""
        if self._process is not None and self._process.poll() is not None:
            raise TopologyError(f"the daemon ended by itself with {self._process.returncode}")

    def kill(self) -> int:
        """End it with SIGKILL: no chance to say or do anything. Return the process id it had."""
        process = self._running()
        process.kill()
        reap(process)
        self._process = None
        return process.pid

    def terminate(self) -> int:
        """End it with SIGTERM and return its exit status."""
        process = self._running()
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(_STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            raise TopologyError(f"the daemon outlives SIGTERM by {_STOP_LIMIT_S:g} s") from None
        finally:
            reap(process)
            self._process = None
        return process.returncode

    def wait(self) -> int:
        """Return its exit status once it has ended by itself."""
        process = self._running()
        try:
            return process.wait(_STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            raise TopologyError(f"the daemon still runs after {_STOP_LIMIT_S:g} s") from None
        finally:
            reap(process)
            self._process = None

    def state(self) -> dict[str, Any] | None:
        """What its page /debug/state says; None as long as there is no page."""
        page = self.page("/debug/state")
        return None if page is None else json.loads(page)

    def page(self, path: str, port: int = _DEBUG_PORT) -> str | None:
        """What one of its pages says, whatever its status; None as long as nobody listens."""
        with self._namespace.entered():
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=patience_s(20.0))
            try:
                connection.request("GET", path)
                return connection.getresponse().read().decode()
            except ConnectionError:
                return None
            finally:
                connection.close()

    def log(self) -> list[str]:
        """What all of them have logged."""
        return self._log.read_text().splitlines() if self._log.exists() else []

    def log_count(self, words: str) -> int:
        """How many lines of the log hold some words."""
        return sum(words in line for line in self.log())

    def _running(self) -> "subprocess.Popen[str]":
        if self._process is None:
            raise TopologyError("the daemon is not running")
        return self._process
