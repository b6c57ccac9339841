"""Work in a thread that has left for another namespace. That it is another one is e2e/test_kernel_xtables_library.py."""

import ctypes
import errno
import threading
from collections.abc import Callable

import pytest

from backends.kernel import throwaway
from backends.kernel.throwaway import in_throwaway_namespace
from proxy.errors import KernelError


class Library:
    """libc, with an unshare that is noted, or refused."""

    def __init__(self, refusal: int = 0) -> None:
        self.refusal = refusal
        self.left: list[tuple[threading.Thread, int]] = []

    def unshare(self, flags: int) -> int:
        self.left.append((threading.current_thread(), flags))
        return -1 if self.refusal else 0


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], Library]:
    def put(refusal: int = 0) -> Library:
        library = Library(refusal)
        monkeypatch.setattr(throwaway, "_libc", library)
        monkeypatch.setattr(ctypes, "get_errno", lambda: refusal)
        return library

    return put


def test_what_is_called_has_a_thread_of_its_own_which_left_first(
    install: Callable[..., Library],
) -> None:
    library = install()

    thread, left = in_throwaway_namespace(lambda: (threading.current_thread(), list(library.left)))

    assert left == [(thread, 0x40000000)]
    assert thread is not threading.current_thread()
    assert not thread.is_alive()


def test_what_it_raises_is_raised(install: Callable[..., Library]) -> None:
    install()

    with pytest.raises(ZeroDivisionError):
        in_throwaway_namespace(lambda: 1 // 0)


def test_without_the_right_to_leave_nothing_is_called(install: Callable[..., Library]) -> None:
    install(errno.EPERM)
    called: list[int] = []

    with pytest.raises(KernelError) as raised:
        in_throwaway_namespace(lambda: called.append(1))

    assert raised.value.errno == errno.EPERM
    assert called == []
