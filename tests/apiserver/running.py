"""A server in this process, for as long as a block takes."""

import contextlib
import tempfile
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import NamedTuple

from tests.apiserver import certificates, control, kubeconfig
from tests.apiserver.access import Access
from tests.apiserver.certificates import Files
from tests.apiserver.kubeconfig import Credentials
from tests.apiserver.resources import Object
from tests.apiserver.server import ApiServer
from tests.apiserver.store import Store


class Running(NamedTuple):
    """The server, and what its clients need. `files` is None without TLS."""

    server: ApiServer
    kubeconfig: Path
    token_file: Path
    files: Files | None


@contextlib.asynccontextmanager
async def running(
    objects: Iterable[Object] = (),
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    is_tls: bool = False,
    credentials: Credentials = "none",
    window: int = 20_000,
    directory: Path | None = None,
    kubeconfig_file: Path | None = None,
    token_file: Path | None = None,
) -> AsyncIterator[Running]:
    """Serve some objects. Whoever asks needs the credentials, if they are not "none"."""
    with contextlib.ExitStack() as stack:
        if directory is None:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        files = certificates.make(directory, _names(host)) if is_tls else None
        token_file = token_file or directory / "token"
        access = Access(is_open=credentials == "none", token_file=token_file)
        tls = certificates.server_context(files) if files else None
        server = ApiServer(Store(window=window), access, host=host, port=port, tls=tls)
        control.put_all(server, list(objects))
        await server.start()
        try:
            path = kubeconfig_file or directory / "kubeconfig"
            kubeconfig.write(
                path,
                server=server.url,
                files=files,
                credentials=credentials,
                token_file=token_file,
            )
            yield Running(server, path, token_file, files)
        finally:
            await server.stop()


def _names(host: str) -> list[str]:
    return list(dict.fromkeys([host, "127.0.0.1", "::1", "localhost"]))
