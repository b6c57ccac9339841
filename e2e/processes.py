"""Programs inside a namespace, held from outside: a server that answers, and a load that asks.

The programs are server.py and client.py beside this file, run by this interpreter, isolated and without site-packages.
"""

import json
import select
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from io import TextIOWrapper
from pathlib import Path
from typing import Self

from e2e.client import Timed, decode
from e2e.namespace import Namespace, TopologyError, reap
from tests.effort import patience_s

_INTERPRETER = [sys.executable, "-I", "-S"]
_HERE = Path(__file__).parent
_START_LIMIT_S = patience_s(30.0)
_STOP_LIMIT_S = patience_s(30.0)


class Server:
    """Answers on some ports of a namespace until closed, from the return of `wait_until_ready` on."""

    def __init__(self, namespace: Namespace, name: str, ports: Sequence[str]) -> None:
        self._what = f"{namespace.name}: server {name} on {' '.join(ports)}"
        argv = [*_INTERPRETER, str(_HERE / "server.py"), name, *ports]
        self._process = namespace.popen(argv, stderr=subprocess.PIPE)

    def wait_until_ready(self) -> Self:
        """Raises TopologyError if it cannot listen."""
        output = _pipe(self._process.stdout)
        is_heard = select.select([output], [], [], _START_LIMIT_S)[0]
        if not is_heard or output.readline() != "ready\n":
            self._process.kill()
            complaint = _pipe(self._process.stderr).read().strip()
            self.close()
            raise TopologyError(f"{self._what}: not listening: {complaint}")
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop listening and end every connection, at once, as when a container is killed."""
        reap(self._process)


class Load:
    """New connections from a process inside a namespace, and what became of each, in the order they ended."""

    def __init__(
        self, namespace: Namespace, question: Mapping[str, object], *, rate: float, workers: int
    ) -> None:
        """`question` holds the arguments of `client.ask`; `rate` is per second, 0 for as fast as possible."""
        self._what = f"{namespace.name}: load on {question['address']} port {question['port']}"
        order = json.dumps({"question": question, "rate": rate, "workers": workers})
        self._process = namespace.popen([*_INTERPRETER, str(_HERE / "client.py"), order])
        self._seen: list[Timed] = []
        self._is_over = False
        self._change = threading.Condition()
        self._reader = threading.Thread(
            target=self._read, args=[_pipe(self._process.stdout)], daemon=True
        )
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def outcomes(self) -> list[Timed]:
        """All up to now."""
        with self._change:
            return self._seen.copy()

    def first(self, matches: Callable[[Timed], bool], *, within_s: float) -> Timed:
        """The first outcome, past or to come, that matches. Raises TopologyError when the time is over."""
        position = 0
        deadline = time.monotonic() + within_s
        while True:
            for timed in self._from(position, deadline):
                position += 1
                if matches(timed):
                    return timed

    def wait_for_more(self, count: int, *, within_s: float) -> None:
        """Return after that many further outcomes. Raises TopologyError when the time is over."""
        deadline = time.monotonic() + within_s
        position = len(self.outcomes())
        wanted = position + count
        while position < wanted:
            position += len(self._from(position, deadline))

    def stop(self) -> list[Timed]:
        """End the load after the connections in flight, and return everything it saw. Again: the same."""
        if self._process.poll() is None:
            _pipe(self._process.stdin).close()
        self._reader.join(_STOP_LIMIT_S)
        is_stuck = self._reader.is_alive()
        reap(self._process)
        self._reader.join()
        if is_stuck or self._process.returncode != 0:
            raise TopologyError(f"{self._what}: ended with {self._process.returncode}")
        return self._seen.copy()

    def _from(self, position: int, deadline: float) -> list[Timed]:
        """What was seen from that position on: at least one outcome, or TopologyError."""
        with self._change:
            while len(self._seen) <= position:
                if self._is_over:
                    raise TopologyError(f"{self._what}: ended after {position} connections")
                if not self._change.wait(max(0.0, deadline - time.monotonic())):
                    raise TopologyError(
                        f"{self._what}: not seen in time, after {position} connections"
                    )
            return self._seen[position:]

    def _read(self, output: TextIOWrapper) -> None:
        for line in output:
            timed = decode(line)
            with self._change:
                self._seen.append(timed)
                self._change.notify_all()
        with self._change:
            self._is_over = True
            self._change.notify_all()


def _pipe(stream: object) -> TextIOWrapper:
    assert isinstance(stream, TextIOWrapper)  # popen was asked for pipes of text
    return stream
