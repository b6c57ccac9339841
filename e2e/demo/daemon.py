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
_STOP_LIMIT_S = patience_s(10.0)
_DEBUG_PORT = 10249


class Daemon:
    """One daemon after the other on the same node; all write to the same log."""

    def __init__(self, namespace: Namespace, node: str, source: Sequence[str], log: Path) -> None:
        """`source` are the arguments that say where objects come from."""
        self._namespace = namespace
        self.arguments = ["run", *source, "--hostname-override", node]
        self._log = log
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> float:
        """Start it, and return the time just before."""
        with self._log.open("a") as log:
            started_s = time.monotonic()
            self._process = self._namespace.popen(
                [*_COMMAND, *self.arguments], stdout=log, stderr=log
            )
        return started_s

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

    def state(self) -> dict[str, Any] | None:
        """What its page /debug/state says; None as long as there is no page."""
        with self._namespace.entered():
            connection = http.client.HTTPConnection(
                "127.0.0.1", _DEBUG_PORT, timeout=patience_s(2.0)
            )
            try:
                connection.request("GET", "/debug/state")
                state: dict[str, Any] = json.load(connection.getresponse())
            except ConnectionError:
                return None
            finally:
                connection.close()
        return state

    def log(self) -> list[str]:
        """What all of them have logged."""
        return self._log.read_text().splitlines() if self._log.exists() else []

    def _running(self) -> "subprocess.Popen[str]":
        if self._process is None:
            raise TopologyError("the daemon is not running")
        return self._process
