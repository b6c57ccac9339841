"""Signals wait for a safe place, and nothing of that outlives the demo.

They are sent to the thread of the test: one sent to the process goes to any thread that does not block it, and here
the event loops of other tests may have left some. The demo has no other, which is tried in a process of its own.
"""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from e2e.demo.interruption import Interrupted, Interruption

FROM_THE_TERMINAL = (signal.SIGINT, signal.SIGHUP)


@pytest.fixture(autouse=True)
def _signals_as_before() -> Iterator[None]:
    # whoever runs the tests in the background may have them ignored
    ignored = {n: signal.getsignal(n) for n in FROM_THE_TERMINAL}
    for number in FROM_THE_TERMINAL:
        signal.signal(number, signal.SIG_DFL)
    handlers = {number: signal.getsignal(number) for number in signal.Signals}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    yield
    changed = [n.name for n, handler in handlers.items() if signal.getsignal(n) != handler]
    for number, handler in ignored.items():
        signal.signal(number, handler)
    assert changed == []
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == mask


@pytest.mark.parametrize("number", [*FROM_THE_TERMINAL, signal.SIGTERM], ids=lambda n: n.name)
def test_a_signal_is_noticed_where_we_look_and_not_before(number: signal.Signals) -> None:
    with Interruption() as interruption:
        interruption.check()
        signal.raise_signal(number)
        with pytest.raises(Interrupted, match=number.name) as caught:
            interruption.check()

    assert caught.value.number == number


def test_a_signal_to_the_whole_process_waits_as_well() -> None:
    script = """\
import os, signal
from e2e.demo.interruption import Interrupted, Interruption
with Interruption() as interruption:
    os.kill(os.getpid(), signal.SIGINT)
    try:
        interruption.check()
    except Interrupted as interrupted:
        print(interrupted)
"""

    told = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )

    assert (told.returncode, told.stdout, told.stderr) == (0, "SIGINT\n", "")


def test_once_interrupted_it_stays_so() -> None:
    with Interruption() as interruption:
        signal.raise_signal(signal.SIGINT)
        for _ in range(2):
            with pytest.raises(Interrupted):
                interruption.check()


def test_a_pause_ends_with_the_signal() -> None:
    with Interruption() as interruption:
        signal.raise_signal(signal.SIGHUP)
        begun_s = time.monotonic()
        with pytest.raises(Interrupted):
            interruption.pause(30.0)

    assert time.monotonic() - begun_s < 10.0


def test_a_pause_without_a_signal_lasts() -> None:
    with Interruption() as interruption:
        begun_s = time.monotonic()
        interruption.pause(0.02)

    assert time.monotonic() - begun_s >= 0.02


def test_signals_that_nobody_looked_for_are_gone_with_it() -> None:
    with Interruption():
        for number in FROM_THE_TERMINAL:
            signal.raise_signal(number)

    assert signal.sigpending() == set()


@pytest.mark.parametrize("number", FROM_THE_TERMINAL, ids=lambda n: n.name)
def test_what_was_ignored_before_stays_ignored(number: signal.Signals) -> None:
    previous = signal.signal(number, signal.SIG_IGN)
    try:
        with Interruption() as interruption:
            signal.raise_signal(number)
            interruption.check()
    finally:
        signal.signal(number, previous)


def test_what_we_start_does_not_hear_the_terminal_but_hears_sigterm() -> None:
    script = "import signal; print(*sorted(n.name for n in signal.pthread_sigmask(0, ())))"

    with Interruption():
        blocked = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=True
        ).stdout

    assert blocked.split() == ["SIGHUP", "SIGINT"]
