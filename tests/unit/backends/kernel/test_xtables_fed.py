"""A program that takes one text after the other, played by scripts of the shell."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from backends.kernel.xtables_fed import Ended, FedProgram
from proxy.errors import KernelError

Start = Callable[[str], FedProgram]

_REPEATS = 'while IFS= read -r line; do case $line in "#"*) echo "$line" ;; *) %s ;; esac; done'


@pytest.fixture
def start() -> Iterator[Start]:
    """Start a program that repeats comments and does something at each other line."""
    started: list[FedProgram] = []

    def run(at_line: str) -> FedProgram:
        made = FedProgram(["/bin/sh", "-c", _REPEATS % at_line], {"PATH": "/usr/bin:/bin"})
        started.append(made)
        return made

    yield run
    for each in started:
        each.end()


def carry_out(fed: FedProgram, text: str, limit_s: float = 20.0) -> Ended:
    talk = fed.give(text)
    talk.wait(limit_s)
    return fed.ended("request", talk, limit_s)


def pid_of(fed: FedProgram) -> int:
    return fed._process.pid


def test_each_text_is_answered_when_it_has_been_carried_out(start: Start, tmp_path: Path) -> None:
    fed = start(f'echo "$line" >> {tmp_path}/done')

    for count in range(1, 4):
        assert carry_out(fed, "one\ntwo\n") == Ended(0, "", 3 * (count - 1))
        assert (tmp_path / "done").read_text() == "one\ntwo\n" * count

    assert fed.is_there()


def test_a_text_is_not_answered_before_it_was_carried_out(start: Start, tmp_path: Path) -> None:
    fed = start(f"read -r _ < {tmp_path}/pipe")
    os.mkfifo(tmp_path / "pipe")

    talk = fed.give("one\n")
    talk.wait(0.1)
    assert talk.is_given
    assert not talk.is_over

    (tmp_path / "pipe").write_text("go on\n")
    talk.wait(20)
    assert talk.is_done


def test_what_it_says_besides_is_no_answer(start: Start) -> None:
    fed = start('echo "# 1 done, nearly"; echo "# 1 don"; echo "$line"')
    assert carry_out(fed, "# another comment\none\n").status == 0
    assert carry_out(fed, "one\n").status == 0


def test_texts_larger_than_a_pipe_are_written_while_answers_are_read(start: Start) -> None:
    fed = start('echo "$line"; echo "$line" >&2')
    text = ("x" * 99 + "\n") * 5000

    ended = carry_out(fed, text)

    assert ended.status == 0
    assert carry_out(fed, "y\n").lines_before == 5001


def test_the_words_and_status_of_one_that_ends_are_told(start: Start) -> None:
    fed = start('printf "no \\\\377" >&2; exit 4')
    assert carry_out(fed, "one\n") == Ended(4, "no \udcff")
    assert not fed.is_there()


def test_one_that_is_killed_has_a_status_below_zero(start: Start) -> None:
    assert carry_out(start("kill -9 $$"), "one\n").status == -signal.SIGKILL


def test_one_that_was_killed_before_is_seen_to_be_gone(start: Start) -> None:
    fed = start(":")
    os.kill(pid_of(fed), signal.SIGKILL)
    # it dies without our waiting for it
    os.waitid(os.P_PID, pid_of(fed), os.WEXITED | os.WNOWAIT)

    assert not fed.is_there()
    assert fed.size() == 0
    assert fed.system_s() == 0


def test_one_that_ends_without_a_word_may_have_done_it_or_not(start: Start) -> None:
    with pytest.raises(KernelError, match="before it had said"):
        carry_out(start("exit 0"), "one\n")


def test_one_that_is_not_done_in_time_is_killed(start: Start) -> None:
    fed = start("exec sleep 100")

    with pytest.raises(KernelError, match="no end within 0 s"):
        carry_out(fed, "one\n", limit_s=0.2)

    assert not fed.is_there()


def test_one_that_cannot_be_started_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        FedProgram([str(tmp_path / "none")], {})


def test_memory_and_time_are_known_while_it_is_there(start: Start) -> None:
    fed = start(":")
    assert carry_out(fed, "one\n").status == 0
    assert 1 << 16 < fed.size() < 1 << 26
    assert 0 <= fed.system_s() < 10


def test_it_ends_with_its_object_and_leaves_neither_process_nor_descriptor(start: Start) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    fed = FedProgram(["/bin/sh", "-c", _REPEATS % ":"], {})
    pid = pid_of(fed)
    assert carry_out(fed, "one\n").status == 0

    del fed

    assert not Path("/proc", str(pid)).exists()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_it_ends_when_whoever_keeps_it_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "keeps.py"
    script.write_text(
        "import sys, time\n"
        "from backends.kernel.xtables_fed import FedProgram\n"
        f"fed = [FedProgram(['/bin/sh', '-c', {_REPEATS % ':'!r}], {{}}) for _ in range(2)]\n"
        "print(*[each._process.pid for each in fed], flush=True)\n"
        "time.sleep(100)\n"
    )
    with subprocess.Popen(
        [sys.executable, script],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[4])},
    ) as keeper:
        assert keeper.stdout is not None
        kept = [Path("/proc", pid) for pid in keeper.stdout.readline().split()]
        assert all(each.exists() for each in kept)
        keeper.kill()

    deadline_s = time.monotonic() + 20
    while any(is_running(each) for each in kept):
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def is_running(process: Path) -> bool:
    """Whether it has not ended; who takes care of orphans may let them lie."""
    try:
        return " Z " not in (process / "stat").read_text()
    except OSError:
        return False


def test_what_it_has_not_read_is_known_even_after_its_end(start: Start) -> None:
    fed = start(":")
    carry_out(fed, "one\n")
    assert fed.has_read()

    os.kill(pid_of(fed), signal.SIGSTOP)
    fed.give("two\n")
    assert not fed.has_read()

    os.kill(pid_of(fed), signal.SIGKILL)
    os.waitid(os.P_PID, pid_of(fed), os.WEXITED | os.WNOWAIT)
    assert not fed.has_read()
