"""Listening sockets outlive their process: the next one is passed them, and nobody is refused between the two. Shell.

Whoever listens keeps its sockets here under a key. A process that starts asks the one that runs, over a Unix socket that only its
own user can open, and is passed all of them (SCM_RIGHTS, unix(7)). From then on both accept from the same queues, until the old
process is told to stop: it closes its descriptors, and the sockets live on in the new one.

Usually there is nobody to ask. That somebody does not answer is no reason not to start: what was not passed is bound anew by
whoever wants it.
"""

import array
import asyncio
import contextlib
import errno
import fcntl
import logging
import math
import os
import resource
import secrets
import socket
import struct
import time
from pathlib import Path
from typing import Final, Self

import msgspec

from proxy.addresses import join_host_port
from proxy.model import Protocol

FILE: Final = "listeners.sock"
"""The socket's name in the directory for state."""
CLOSE_REST_S: Final = 30.0
"""How long after the start those who serve pages must have taken what they want: that is some seconds after the services.

What is of Services is closed as soon as a mode has programmed everything, which may be a later one (`descent`).
"""
LOOK_S: Final = 5.0
"""How often it is looked whether the next process would find anybody."""
ANSWER_S: Final = 3.0
"""How long a message may be waited for, from a process that has other work as well."""
AT_ONCE: Final = 200
"""Descriptors in one message; the kernel takes 253 (SCM_MAX_FD)."""
_PAUSE_S: Final = 1.0
_MESSAGE: Final = 1 << 16
_CREDENTIALS: Final = struct.Struct("iII")  # struct ucred
_SIOCGSKNS: Final = 0x894C  # linux/sockios.h
_NAMESPACE: Final = Path("/proc/self/ns/net")
_FREEBIND: Final = {
    socket.AF_INET: (socket.IPPROTO_IP, 15),
    socket.AF_INET6: (socket.IPPROTO_IPV6, 78),
}
_TYPES: Final[dict[int, str]] = {socket.SOCK_STREAM: "tcp", socket.SOCK_DGRAM: "udp"}

log = logging.getLogger(__name__)


def listener_key(protocol: Protocol, address: str, port: int) -> str:
    """Return the name of a listening socket, which says where it is bound."""
    return f"{protocol.lower()} {join_host_port(address, port)}"


def bind_freely(listener: socket.socket) -> None:
    """Let a socket be bound where no address is yet, as a Service's has to be; by this such a socket is known later on."""
    listener.setsockopt(*_FREEBIND[listener.family], 1)


def is_of_service(listener: socket.socket) -> bool:
    """Whether a socket was to be bound freely: pages are where an address of this host is."""
    return bool(listener.getsockopt(*_FREEBIND[listener.family]))


def allow_many_files() -> None:
    """Raise the soft limit of open files to the hard one, as every Go program does: each listener is one.

    Container runtimes leave it at 1024, so that old programs with `select` do not stumble.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def place_to_ask(path: Path) -> socket.socket:
    """Return the socket where the next process will ask, in place of the one where we did. Raises OSError."""
    new = path.with_name(
        f"{path.name}.{secrets.token_hex(4)}"
    )  # two containers may have one process id
    with contextlib.ExitStack() as unless_done:
        asked = unless_done.enter_context(
            socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        )
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        new.unlink(missing_ok=True)
        asked.bind(os.fspath(new))
        unless_done.callback(new.unlink, missing_ok=True)
        new.chmod(0o600)
        asked.listen(1)
        new.rename(path)
        unless_done.pop_all()
    return asked


class Listeners:
    """The listening sockets of this process, and those that the one before has passed on and nobody has taken yet."""

    def __init__(self) -> None:
        self.met_s = -math.inf
        """When the process before was asked, which may run for a while yet (monotonic seconds)."""
        self._kept: dict[str, socket.socket] = {}
        self._inherited: dict[str, socket.socket] = {}
        self._lent: dict[str, socket.socket] = {}

    @property
    def inherited(self) -> list[str]:
        """What was passed on and not taken yet."""
        return sorted(self._inherited)

    def take(self, key: str) -> socket.socket | None:
        """Return what was passed on or lent under this key, which the caller owns from now on; it is kept. None if there is nothing."""
        listener = self._inherited.pop(key, None) or self._lent.pop(key, None)
        if listener is not None:
            self._kept[key] = listener
        return listener

    def keep(self, key: str, listener: socket.socket) -> None:
        """Remember a socket of the caller's, to be passed to the next process."""
        self._kept[key] = listener

    def drop(self, key: str) -> None:
        """Forget one that its owner is about to close."""
        self._kept.pop(key, None)

    def lend(self) -> None:
        """Offer what is kept to another owner in this process, before the one of now stops listening there."""
        self.take_back()
        for key, listener in self._kept.items():
            with contextlib.suppress(OSError):  # too many open files: then it is bound anew
                self._lent[key] = listener.dup()

    def take_back(self) -> None:
        """Close what was lent and not taken: who connects there would wait for nobody."""
        while self._lent:
            _, listener = self._lent.popitem()
            listener.close()

    def close_rest(self, *, is_for_services: bool | None = None) -> None:
        """Close what nobody took: it is not wanted any more, and who connects there would wait for nobody.

        `is_for_services`: only those of Services, or only the others. None: all.
        """
        for key, listener in list(self._inherited.items()):
            if is_for_services in {None, is_of_service(listener)}:
                del self._inherited[key]
                listener.close()

    @classmethod
    def inherited_from(cls, path: Path, answer_s: float = ANSWER_S) -> Self:
        """Ask the process that runs for its sockets. Blocks, for `answer_s` at most if it hangs."""
        listeners = cls()
        allow_many_files()
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as asking:
            asking.settimeout(answer_s)
            try:
                asking.connect(os.fspath(path))
                listeners.met_s = time.monotonic()
                listeners._receive(asking)
            except OSError as error:
                if error.errno not in {errno.ENOENT, errno.ECONNREFUSED}:
                    log.warning("asked for listening sockets at %s: %s", path, error)
        if listeners._inherited:
            log.info("took over %d listening sockets", len(listeners._inherited))
        return listeners

    def _receive(self, asking: socket.socket) -> None:
        """Take in messages up to the empty one. Raises OSError."""
        while True:
            message, descriptors, flags, _ = socket.recv_fds(asking, _MESSAGE, AT_ONCE)
            sockets = [socket.socket(fileno=each) for each in descriptors]
            try:
                keys = msgspec.json.decode(message, type=list[str])
            except msgspec.DecodeError:
                keys = []
            for key, listener in zip(keys, sockets, strict=False):
                if _key(listener) == key:
                    listener.setblocking(False)
                    listener.set_inheritable(False)  # what comes by a message is not by itself
                    self._inherited[key] = listener
            for listener in set(sockets).difference(self._inherited.values()):
                listener.close()
            if not message:
                raise OSError(errno.ECONNRESET, "it ended before it had passed all")
            if not keys:
                return
            if flags & socket.MSG_CTRUNC:
                raise OSError(errno.EMFILE, "not all of them came: too many open files")
            asking.send(b"+")

    async def pass_on(self, asked: socket.socket) -> None:
        """Pass what is kept to whoever asks there, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                answering, _ = await loop.sock_accept(asked)
            except OSError as error:  # too many open files
                log.warning("could not answer the next process: %s", error)
                await asyncio.sleep(_PAUSE_S)
                continue
            with answering, contextlib.suppress(OSError, TimeoutError):
                if _peer(answering) in {0, os.geteuid()}:
                    await self._answer(answering)

    def _offered(self) -> dict[str, socket.socket]:
        """What the next process may want: also what this one was passed and has not taken yet."""
        return {**self._inherited, **self._lent, **self._kept}

    async def _answer(self, answering: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        keys = list(self._offered())
        count = 0
        for at in range(0, len(keys), AT_ONCE):
            offered = self._offered()  # some may have gone since
            some = {key: offered[key] for key in keys[at : at + AT_ONCE] if key in offered}
            if not some:
                continue
            count += len(some)
            _send(answering, some)
            async with asyncio.timeout(ANSWER_S):
                if not await loop.sock_recv(answering, 1):
                    return
        _send(answering, {})
        log.info("passed %d listening sockets to the next process", count)


def _send(answering: socket.socket, some: dict[str, socket.socket]) -> None:
    descriptors = array.array("i", [each.fileno() for each in some.values()])
    socket.send_fds(answering, [msgspec.json.encode(list(some))], descriptors)


def _key(listener: socket.socket) -> str:
    """Return the key that a socket must have, empty if it is of no use here. Raises OSError where the kernel does not tell."""
    protocol = _TYPES.get(listener.type)
    if protocol is None or listener.family not in {socket.AF_INET, socket.AF_INET6}:
        return ""
    if _namespace(listener) != _NAMESPACE.stat().st_ino:
        return ""
    address, port = listener.getsockname()[:2]
    return f"{protocol} {join_host_port(address, port)}"


def _namespace(listener: socket.socket) -> int:
    """Return the inode of the network namespace of a socket: several may share a directory for state."""
    descriptor = fcntl.ioctl(listener, _SIOCGSKNS)
    try:
        return os.fstat(descriptor).st_ino
    finally:
        os.close(descriptor)


def _peer(connection: socket.socket) -> int:
    """Return whose process it is (user id)."""
    packed = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    _, user, _ = _CREDENTIALS.unpack(packed)
    return int(user)


async def run(
    listeners: Listeners, path: Path, is_synced: asyncio.Event, look_s: float = LOOK_S
) -> None:
    """Pass listening sockets to the next process, and close those of pages that this one does not have, until cancelled.

    The next process may end without having told this one to stop. Then the one after it is to find this one again.
    """
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(_close_rest(listeners, is_synced))
        while True:
            try:
                asked = place_to_ask(path)
                ours = os.stat(path).st_ino  # noqa: PTH116 - one look at a local file
            except OSError as error:
                log.warning(
                    "no socket at %s (--state-dir), so the next process will not be passed listening sockets: %s",
                    *(path, error),
                )
                return
            with asked:
                passing = asyncio.create_task(listeners.pass_on(asked))
                try:
                    while _is_answered(path, ours):  # noqa: ASYNC110 - nobody tells
                        await asyncio.sleep(look_s)
                finally:
                    passing.cancel()
                    await asyncio.wait([passing])


def _is_answered(path: Path, ours: int) -> bool:
    """Whether some process listens there: this one, whose socket has the inode `ours`, or the next."""
    with contextlib.suppress(OSError):
        if path.stat().st_ino == ours:
            return True
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK) as asking:
        return asking.connect_ex(os.fspath(path)) not in {errno.ENOENT, errno.ECONNREFUSED}


async def _close_rest(listeners: Listeners, is_synced: asyncio.Event) -> None:
    await is_synced.wait()
    await asyncio.sleep(CLOSE_REST_S)
    listeners.close_rest(is_for_services=False)
