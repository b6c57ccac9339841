"""The interfaces of pods here, where `detectLocalMode` tells pods by them: read once, then followed by what is announced. Shell."""

import contextlib
import socket
from collections.abc import Callable, Iterable

from backends.kernel.links import LinkNews
from backends.userspace.here import Detector

Listed = Iterable[tuple[int, str]]


class PodInterfaces:
    """The numbers of those interfaces, in the network namespace of the thread that makes this object."""

    def __init__(
        self,
        detector: Detector,
        *,
        open_news: Callable[[], LinkNews] = LinkNews,
        listed: Callable[[], Listed] = socket.if_nameindex,
    ) -> None:
        """Raises KernelError, and OSError, where the kernel does not tell."""
        self._detector = detector
        self._listed = listed
        self._is_stale = False
        self._news = open_news()
        try:
            self.numbers = self._of(listed())
        except OSError:
            self._news.close()
            raise

    def look(self) -> bool:
        """Take in what has changed since; return whether the interfaces are others. One system call where nothing has."""
        before, news = self.numbers, self._news.take()
        self._is_stale |= news is None
        if self._is_stale:
            self._read()
        elif news:
            self.numbers = before.difference(news) | self._of(news.items())
        return self.numbers != before

    def _read(self) -> None:
        with contextlib.suppress(OSError):  # too many open files: then later
            self.numbers = self._of(self._listed())
            self._is_stale = False

    def close(self) -> None:
        self._news.close()

    def _of(self, listed: Listed) -> frozenset[int]:
        is_of_pods = self._detector.is_pod_interface
        return frozenset([number for number, name in listed if is_of_pods(name)])
