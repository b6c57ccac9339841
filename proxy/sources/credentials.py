"""Who we are to the API server: found out at the start, and again when it may have changed.

Shell. Reading credentials blocks (files, an exec plugin, imports of a large package), so it happens in a thread of its own,
one that ends with the process even if what it waits for never comes.

What is wrong at the start is the operator's affair and ends the program, but for a plugin that fails: it may ask a service
that is not up yet. Later nothing ends it: files are exchanged, services are down. Then the last credentials stay in use for
as long as the server accepts them.
"""

import asyncio
import logging
import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Final, TypeVar

from proxy.config.settings import Settings
from proxy.errors import ApiError, ConfigError
from proxy.sources import access, kubeconfig
from proxy.sources.access import Access

_LOG = logging.getLogger(__name__)

T = TypeVar("T")

# New credentials are fetched that long before the old ones expire; clocks differ.
_EARLY_S: Final = 30.0
# Those that were of no use are fetched again no sooner, unless a file changes: a plugin may ask a service for each node.
_AGAIN_S: Final = 10.0

_Signature = tuple[tuple[int, int, int] | None, ...]


def load(settings: Settings) -> Access:
    """Read the credentials that the settings name. Raises ConfigError, and ApiError if a plugin fails; blocks."""
    try:
        return _read(settings)
    except (ArithmeticError, AttributeError, LookupError, OSError, TypeError, ValueError) as error:
        # A kubeconfig can be wrong in more ways than are looked for, and may be exchanged while we run.
        where = settings.kubeconfig or "service account"
        raise ConfigError(f"{where}: cannot be used: {error}") from error


def _read(settings: Settings) -> Access:
    if settings.kubeconfig:
        return kubeconfig.load(
            settings.kubeconfig,
            master=settings.master,
            exec_timeout_s=settings.api_server.exec_timeout_s,
        )
    if settings.master:
        return _without_credentials(access.check_server("--master", settings.master))
    return kubeconfig.load_service_account()


def _without_credentials(server: str) -> Access:
    tls = None
    if server.startswith("https://"):
        tls = access.tls_context(
            "--master", ca_file="", cert_file="", key_file="", is_insecure=False
        )
    return Access(server=server, tls=tls, headers={}, proxy=access.proxy_for(server))


class Credentials:
    """The credentials in use. One load at a time, whoever asks."""

    def __init__(
        self, read: Callable[[], Access], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._read = read
        self._clock = clock
        self._again_s = -math.inf
        self._lock = asyncio.Lock()
        self._access: Access | None = None
        self._signature: _Signature = ()
        self._complaint = ""

    async def get(self, refused: Access | None = None) -> Access:
        """Return credentials that are as new as can be, and not those the server has `refused`.

        At the start raises ConfigError if there are none, and ApiError if there may be some later. Then raises ApiError if
        what was refused cannot be replaced.
        """
        async with self._lock:
            if self._access is None:
                return await self._load()
            is_refused = refused is self._access
            if self._is_due(self._access, is_refused=is_refused):
                return await self._reload(self._access, must_succeed=is_refused)
            return self._access

    def _is_due(self, current: Access, *, is_refused: bool) -> bool:
        if _signature(current.files) != self._signature:
            return True
        is_expired = time.time() >= current.expires_s - _EARLY_S
        is_wanted = is_refused or is_expired or bool(self._complaint)
        return is_wanted and self._clock() >= self._again_s

    async def _load(self) -> Access:
        loaded = await in_thread(self._read)
        self._access, self._signature = loaded, _signature(loaded.files)
        return loaded

    async def _reload(self, current: Access, *, must_succeed: bool) -> Access:
        try:
            loaded = await self._load()
        except (ConfigError, ApiError) as error:
            self._signature = _signature(current.files)
            if must_succeed:
                raise ApiError(
                    f"the credentials are refused, and there are no others: {error}"
                ) from error
            if str(error) != self._complaint:
                _LOG.warning("the credentials cannot be read again, the old ones stay: %s", error)
            self._complaint = str(error)
            return current
        finally:
            self._again_s = self._clock() + _AGAIN_S
        self._complaint = ""
        _LOG.info("the credentials were read again")
        return loaded


def _signature(files: tuple[str, ...]) -> _Signature:
    """Return what changes when a file does. Kubernetes exchanges mounted files by a link, so the inode does."""
    found: list[tuple[int, int, int] | None] = []
    for file in files:
        try:
            status = Path(file).stat()
        except OSError:
            found.append(None)
        else:
            found.append((status.st_ino, status.st_mtime_ns, status.st_size))
    return tuple(found)


async def in_thread(work: Callable[[], T]) -> T:
    """Run blocking work in a thread that nobody waits for at exit: it may hang for ever."""
    done: Future[T] = Future()
    done.set_running_or_notify_cancel()  # it ends by itself, also when nobody waits any more

    def run() -> None:
        try:
            done.set_result(work())
        except BaseException as error:  # noqa: BLE001 - handed to whoever waits
            done.set_exception(error)

    threading.Thread(target=run, name="credentials", daemon=True).start()
    return await asyncio.wrap_future(done)
