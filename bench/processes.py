"""The measured process and the one that feeds it, in a namespace of their own, and how they are spoken to."""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Literal

from e2e.namespace import Namespace


def say(text: str) -> None:
    """Report progress, apart from the results."""
    print(f"… {text}", file=sys.stderr, flush=True)


Transport = Literal["pipe", "http", "https"]


class Measured:
    """A measured process in a namespace of its own, which reads from the source that `flags` name."""

    def __init__(self, namespace: Namespace, *flags: str) -> None:
        enter = ["ip", "netns", "exec", namespace.name]
        self._node = subprocess.Popen(
            [*enter, sys.executable, "-m", "bench.node", *flags],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, **command: object) -> dict[str, Any]:
        """Ask the measured process and wait for its answer."""
        _tell(self._node.stdin, command)
        assert self._node.stdout is not None
        line = self._node.stdout.readline()
        if not line:
            raise SystemExit("the measured process has died")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def stop(self) -> None:
        """End the process; the rules stay in the namespace."""
        self._node.kill()
        self._node.wait()


class Node(Measured):
    """A measured process that is fed, through a pipe or by an API server, and the process that feeds it."""

    def __init__(
        self,
        namespace: Namespace,
        directory: Path,
        services: int,
        endpoints: int,
        *,
        transport: Transport = "pipe",
        has_features: bool = False,
        more: Sequence[str] = (),
    ) -> None:
        """`more` are flags of the measured process besides."""
        fifo = directory / f"{namespace.name}.fifo"
        if transport == "pipe":
            os.mkfifo(fifo)
            source = ["bench.source", str(fifo)]
        else:
            source = ["bench.apiserver", str(directory), *["--tls"] * (transport == "https")]
        self._source = subprocess.Popen(
            ["ip", "netns", "exec", namespace.name, sys.executable, "-m", *source],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.feed(do="load", services=services, endpoints=endpoints, has_features=has_features)
        assert self._source.stdout is not None
        answer = self._source.stdout.readline().strip()  # all objects are made
        flags = ["--watch-events", str(fifo)] if transport == "pipe" else ["--kubeconfig", answer]
        super().__init__(namespace, *flags, *more)

    def feed(self, **command: object) -> None:
        """Have the source write; returns at once."""
        _tell(self._source.stdin, command)

    def stop(self) -> None:
        """End both processes; the rules stay in the namespace."""
        super().stop()
        self._source.kill()
        self._source.wait()


def _tell(pipe: IO[str] | None, command: dict[str, object]) -> None:
    assert pipe is not None
    pipe.write(json.dumps(command) + "\n")
    pipe.flush()


@contextlib.contextmanager
def node(
    services: int,
    endpoints: int,
    *,
    transport: Transport = "pipe",
    has_features: bool = False,
    more: Sequence[str] = (),
) -> Iterator[tuple[Node, Namespace]]:
    """Yield a measured process in a new namespace, which is about to read these services."""
    with tempfile.TemporaryDirectory() as directory, Namespace("bench") as namespace:
        measured = Node(
            namespace,
            Path(directory),
            services,
            endpoints,
            transport=transport,
            has_features=has_features,
            more=more,
        )
        try:
            yield measured, namespace
        finally:
            measured.stop()
