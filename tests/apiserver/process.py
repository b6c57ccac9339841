"""A server in a process of its own, held from a test: as in life, what blocks the test does not block the server."""

import contextlib
import select
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Self

from tests.apiserver.kubeconfig import Credentials
from tests.apiserver.remote import Remote
from tests.apiserver.resources import Object

_ROOT = Path(__file__).parents[2]
_START_LIMIT_S = 30.0
Popen = Callable[[Sequence[str]], "subprocess.Popen[str]"]


class StandIn:
    """Serves from the beginning of its `with` block to its end. Its files are in `directory`."""

    def __init__(
        self,
        directory: Path,
        *,
        popen: Popen | None = None,
        host: str = "127.0.0.1",
        is_tls: bool = True,
        credentials: Credentials = "token",
        manifests: Path | None = None,
        window: int = 20_000,
    ) -> None:
        """`popen` starts a program with its stdout as a pipe of text, perhaps in some namespace."""
        directory.mkdir(exist_ok=True)
        self.kubeconfig = directory / "kubeconfig"
        self.token_file = directory / "token"
        self.authority = directory / "tls" / "ca.crt"
        self.remote = Remote(directory / "control")
        self._argv = [
            # wherever the tests were started from
            *("env", f"PYTHONPATH={_ROOT}", sys.executable, "-m", "tests.apiserver"),
            *("--host", host, "--control", str(directory / "control")),
            *("--kubeconfig", str(self.kubeconfig), "--token-file", str(self.token_file)),
            *("--credentials", credentials, "--window", str(window)),
            *(("--tls-dir", str(directory / "tls")) if is_tls else ()),
            *(("--manifests", str(manifests)) if manifests else ()),
        ]
        self._popen = popen or _popen
        self._process: subprocess.Popen[str] | None = None
        self.url = ""

    def __enter__(self) -> Self:
        self._process = self._popen(self._argv)
        output = self._process.stdout
        assert output is not None
        with contextlib.ExitStack() as undo:
            undo.callback(self.close)
            if not select.select([output], [], [], _START_LIMIT_S)[0]:
                raise RuntimeError(f"the stand-in says nothing within {_START_LIMIT_S:g} s")
            self.url = output.readline().strip()
            if not self.url.startswith("http"):
                raise RuntimeError(f"the stand-in did not start: {self.url!r}")
            undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def put(self, *objects: Object) -> None:
        """Create or replace objects."""
        self.remote.put(*objects)

    def delete(self, objects: Iterable[Object]) -> None:
        """Delete objects."""
        self.remote.delete(*objects)

    def close(self) -> None:
        """End it."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()


def _popen(argv: Sequence[str]) -> "subprocess.Popen[str]":
    return subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
