"""Calls of iptables-restore: the lock is waited for with a bound, and what they cost is counted."""

import asyncio
import os
import resource
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from backends.iptables import restoring
from backends.iptables.restoring import INLINE_LINES, LOCK_TRIES, Restoring
from backends.kernel.xtables import Begun, LockHeld, Programs, Refused, Xtables
from backends.kernel.xtables_text import Flavour, Version
from proxy.errors import KernelError
from proxy.model import IPV4
from proxy.schedule import Backoff
from proxy.threads import to_thread
from tests.fakes.xtables import FakeXtables, XtablesKernel, killed, locked
from tests.unit.backends.iptables.machine import run

LINES = [":A - [0:0]"]


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(restoring, "_PAUSE", Backoff(first_s=0.0, last_s=0.0))


@pytest.fixture
def door() -> Iterator[FakeXtables]:
    made = XtablesKernel().door(Flavour.LEGACY, "IPv4")
    yield made
    assert made.ends == []


def counted(calls: Restoring) -> dict[str, float]:
    return dict(calls.figures()[0].values)


def test_a_lock_that_is_given_back_in_time_costs_only_time(
    door: FakeXtables, caplog: pytest.LogCaptureFixture
) -> None:
    calls = Restoring()
    door.ends = [locked] * (LOCK_TRIES - 1)

    run(calls.restore(door, "nat", LINES))

    assert "A" in door.save("nat")
    assert counted(calls) == {"done": 1, "refused": 0, "locked": LOCK_TRIES - 1}
    assert all("lock was held" in message for message in caplog.messages)
    assert len(caplog.messages) == LOCK_TRIES - 1


def test_a_lock_that_is_never_given_back_is_given_up(door: FakeXtables) -> None:
    calls = Restoring()
    door.ends = [locked] * LOCK_TRIES

    with pytest.raises(LockHeld):
        run(calls.restore(door, "nat", LINES))

    assert door.save("nat") == {}
    assert counted(calls)["locked"] == LOCK_TRIES


def test_what_is_refused_is_not_tried_again(door: FakeXtables) -> None:
    calls = Restoring()

    with pytest.raises(Refused):
        run(calls.restore(door, "nat", ["-X NONE"]))

    assert counted(calls) == {"done": 0, "refused": 1, "locked": 0}


def test_of_a_program_that_was_killed_nothing_is_known(door: FakeXtables) -> None:
    calls = Restoring()
    door.ends = [killed]

    with pytest.raises(KernelError, match="killed by signal 9"):
        run(calls.restore(door, "nat", LINES))

    assert counted(calls) == {"done": 0, "refused": 0, "locked": 0}


def test_time_is_counted_whatever_the_end(
    door: FakeXtables, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = iter([10.0, 12.5, 20.0, 21.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(now))
    calls = Restoring()

    run(calls.restore(door, "nat", LINES))
    with pytest.raises(Refused):
        run(calls.restore(door, "nat", ["-X NONE"]))

    assert calls.figures()[1].values["all"] == 3.5


def test_the_kernels_time_for_a_program_that_is_still_there_counts_and_never_falls(
    door: FakeXtables, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended_s = resource.getrusage(resource.RUSAGE_CHILDREN).ru_stime
    calls = Restoring()
    run(calls.restore(door, "nat", LINES))

    monkeypatch.setattr(door, "system_s", lambda: 100.0)
    assert calls.figures()[1].values["kernel"] == pytest.approx(ended_s + 100, abs=10)
    monkeypatch.setattr(door, "system_s", lambda: 0.0)
    assert calls.figures()[1].values["kernel"] == pytest.approx(ended_s + 100, abs=10)


# --- with a program that is kept: one of the shell's, which speaks as those of iptables


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Xtables]:
    """A door whose program does what stands in the file `then` at a COMMIT; it has carried out one call."""
    program = tmp_path / "iptables-nft-restore"
    program.write_text(
        f"""#!/bin/sh
        while IFS= read -r line; do
            case $line in
            "#"*) echo "$line" ;;
            COMMIT) [ ! -e {tmp_path}/then ] || . {tmp_path}/then ;;
            esac
        done"""
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    made = Xtables(Programs(IPV4, "iptables-nft", Version(Flavour.NFT, (1, 8, 9))))
    made.restore("nat", LINES)
    yield made
    made.close()


def test_short_texts_take_no_thread_and_long_ones_do(
    kept: Xtables, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[int] = []

    async def noted(call: Any, *arguments: Any) -> Any:
        threads.append(len(arguments[1]))
        return await to_thread(call, *arguments)

    monkeypatch.setattr(restoring, "to_thread", noted)
    calls = Restoring()
    for count in (1, INLINE_LINES, INLINE_LINES + 1, 1):
        run(calls.restore(kept, "nat", LINES * count))

    assert threads == [INLINE_LINES + 1]
    assert counted(calls) == {"done": 4, "refused": 0, "locked": 0}


def test_an_answer_that_is_there_already_is_not_waited_for(
    kept: Xtables, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = kept.begin

    def answered(table: str, lines: Sequence[str]) -> Begun | None:
        begun = begin(table, lines)
        assert begun is not None
        begun._call.talk.wait(20)
        return begun

    monkeypatch.setattr(kept, "begin", answered)
    calls = Restoring()

    run(asyncio.wait_for(calls.restore(kept, "nat", LINES), 20))

    assert counted(calls)["done"] == 1


def test_more_than_fits_into_a_pipe_is_given_piece_by_piece(kept: Xtables, tmp_path: Path) -> None:
    (tmp_path / "then").write_text("sleep 0.1")
    calls = Restoring()
    lines = [f"-A A -m comment --comment {'x' * 2000}"] * INLINE_LINES

    run(calls.restore(kept, "nat", lines))
    run(calls.restore(kept, "nat", LINES))

    assert counted(calls)["done"] == 2


@pytest.mark.parametrize(
    ("then", "error"),
    [
        ("echo refused >&2; exit 1", Refused),
        ("echo holding the xtables lock >&2; exit 4", LockHeld),
        ("kill -9 $$", KernelError),
        ("exit 0", KernelError),
    ],
)
def test_what_becomes_of_a_short_text_is_told_as_of_any(
    kept: Xtables, tmp_path: Path, then: str, error: type[KernelError]
) -> None:
    (tmp_path / "then").write_text(then)

    with pytest.raises(error) as raised:
        run(Restoring().restore(kept, "nat", LINES))

    assert type(raised.value) is error


def test_a_short_text_that_is_not_done_in_time_ends_its_program(
    kept: Xtables, tmp_path: Path
) -> None:
    (tmp_path / "then").write_text("exec sleep 100")
    program = kept._kept._fed
    assert program is not None
    kept._limit_s = 0.3

    with pytest.raises(KernelError, match="no end within 0 s"):
        run(Restoring().restore(kept, "nat", LINES))

    kept.close()
    assert not Path("/proc", str(program._process.pid)).exists()


def test_who_is_cancelled_waits_for_the_answer_so_that_it_is_not_taken_for_the_next_one(
    kept: Xtables, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "then").write_text(f"read -r _ < {tmp_path}/pipe; echo >> {tmp_path}/committed")
    calls = Restoring()

    async def cancelled() -> None:
        work = asyncio.create_task(calls.restore(kept, "nat", LINES))
        await asyncio.sleep(0)
        work.cancel()
        (tmp_path / "pipe").write_text("go on\n")
        with pytest.raises(asyncio.CancelledError):
            await work

    run(cancelled())
    assert (tmp_path / "committed").read_text() == "\n"
    (tmp_path / "then").write_text(f"echo >> {tmp_path}/committed")
    run(calls.restore(kept, "nat", LINES))
    assert (tmp_path / "committed").read_text() == "\n\n"
