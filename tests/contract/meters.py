"""What a backend under test asks of the kernel, counted at its doors, and a foot in them when a test wants a write to fail."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from backends.kernel.ipset import Ipset, Refusal
from backends.kernel.ipset_messages import Command
from backends.kernel.nft import Nft
from proxy.netlink import codec
from proxy.netlink.codec import Message, Request
from tests.contract.host import AnyBackend, Cost

Writes = Callable[[Message], bool]
"""Tells whether the kernel changes something by a message."""

_NFT_WRITES: Final = {0xA00 + number for number in (0, 2, 3, 5, 6, 8, 9, 11, 12, 14)}
_IPSET_READS: Final = {Command.LIST, Command.TEST}


class Meter:
    """What passed through the doors of one backend. `failure` is what the next write ends in, and whether it is done before."""

    def __init__(self) -> None:
        self.cost = Cost()
        self.failure: tuple[Exception, bool] | None = None

    def count(self, messages: int = 1, written: int = 0) -> None:
        """Count one call."""
        calls, known, before = self.cost
        self.cost = Cost(calls + 1, known + messages, before + written)

    @contextmanager
    def writing(self) -> Iterator[bool]:
        """Yield whether to do it; raise afterwards what a test wants raised."""
        failure, self.failure = self.failure, None
        yield failure is None or failure[1]
        if failure is not None:
            raise failure[0]


class _MeteredSocket:
    """A socket that tells of each system call: what was sent, or nothing for one that received."""

    def __init__(self, real: Any, meter: Meter, writes: Writes) -> None:
        self._real = real
        self._meter = meter
        self._writes = writes

    def send(self, datagram: bytes) -> Any:
        messages = list(codec.iter_messages(datagram))
        written = [m for m in messages if self._writes(m) and not _is_dump(m.flags)]
        self._meter.count(len(messages), len(written))
        return self._real.send(datagram)

    def recv_into(self, *arguments: Any) -> Any:
        self._meter.count(0)
        return self._real.recv_into(*arguments)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


def _is_dump(flags: int) -> bool:
    return flags & codec.NLM_F_DUMP == codec.NLM_F_DUMP


def metered(end: Any, meter: Meter, writes: Writes) -> None:
    """Have a netlink socket of ours count what passes."""
    vars(end)["_socket"] = _MeteredSocket(end._socket, meter, writes)


class MeteredNft(Nft):
    def __init__(self, meter: Meter) -> None:
        super().__init__()
        self._meter = meter
        for end in (self._commands, self._dumps):
            metered(end, meter, lambda message: message.kind in _NFT_WRITES)

    def commit(self, messages: Sequence[Request]) -> None:
        if not messages:
            return
        with self._meter.writing() as is_done:
            if is_done:
                super().commit(messages)


class MeteredIpset(Ipset):
    def __init__(self, meter: Meter) -> None:
        super().__init__()
        self._meter = meter
        for end in (self._commands, self._dumps):
            metered(end, meter, lambda message: message.kind & 0xFF not in _IPSET_READS)

    def carry_out(self, requests: Sequence[Request]) -> list[Refusal]:
        if not requests:
            return []
        with self._meter.writing() as is_done:
            return super().carry_out(requests) if is_done else []


class MeteredHost:
    """What hosts have in common that count what their backends ask of the kernel."""

    def __init__(self) -> None:
        self._meters: dict[int, Meter] = {}

    def _count(self, backend: AnyBackend, meter: Meter) -> None:
        """Take note that this meter is at the doors of this backend."""
        self._meters[id(backend)] = meter

    @contextmanager
    def failing(self, backend: AnyBackend, error: Exception, *, is_done: bool) -> Iterator[None]:
        """See `KernelHost`."""
        meter = self._meters[id(backend)]
        meter.failure = (error, is_done)
        yield
        assert meter.failure is None, "nothing was written"

    def spent(self, backend: AnyBackend) -> Cost:
        """See `KernelHost`."""
        meter = self._meters[id(backend)]
        cost, meter.cost = meter.cost, Cost()
        return cost
