"""Which program is kept for the next text; programs are scripts of the shell."""

import logging
import os
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from backends.kernel import xtables_kept
from backends.kernel.xtables_fed import Ended, FedProgram
from backends.kernel.xtables_kept import KeptProgram
from proxy.errors import KernelError

_REPEATS = """#!/bin/sh
echo $$ >> {place}/started
while IFS= read -r line; do
    case $line in "#"*) echo "$line" ;; *) {at_line} ;; esac
done
"""


class Site:
    """A directory with a program, and who keeps it."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.program = place / "restore"
        self.install(":")
        self.kept = KeptProgram(["restore"], dict(os.environ))

    def install(self, at_line: str) -> None:
        """Put a program there, in the place of the one there was."""
        self.write(_REPEATS.format(place=self.place, at_line=at_line))

    def write(self, script: str) -> None:
        new = self.place / "new"
        new.write_text(script)
        new.chmod(0o755)
        new.rename(self.program)

    def carry_out(self) -> Ended | None:
        call = self.kept.begin("request", "text\n", 20.0, waits=True)
        return call.finish() if call is not None else None

    def started(self) -> list[int]:
        """The processes that were started."""
        return [int(line) for line in (self.place / "started").read_text().split()]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    made = Site(tmp_path)
    yield made
    made.kept.close()
    assert not any(Path("/proc", str(pid)).exists() for pid in made.started())


def test_one_process_takes_all_texts(site: Site) -> None:
    # two lines each with their comments, and one comment at the start
    assert [site.carry_out() for _ in range(3)] == [Ended(0, "", 1 + 2 * n) for n in range(3)]
    assert len(site.started()) == 1


def test_after_a_failure_another_one_is_started(site: Site) -> None:
    site.install("echo no >&2; exit 1")
    assert [site.carry_out() for _ in range(2)] == [Ended(1, "no\n", 1)] * 2
    assert len(site.started()) == 2


def test_one_that_has_ended_meanwhile_is_given_no_text(site: Site) -> None:
    site.carry_out()
    (first,) = site.started()
    os.kill(first, signal.SIGKILL)
    os.waitid(os.P_PID, first, os.WEXITED | os.WNOWAIT)

    assert site.kept.begin("request", "text\n", 20.0, waits=False) is None
    assert site.carry_out() == Ended(0, "", 1)
    assert len(site.started()) == 2


def test_one_whose_file_was_replaced_is_let_go(site: Site) -> None:
    site.carry_out()
    site.install("echo new >&2; exit 3")

    assert site.carry_out() == Ended(3, "new\n", 1)


def test_one_that_has_grown_is_let_go(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(xtables_kept, "_LARGEST", 1 << 16)

    assert [site.carry_out() for _ in range(3)] == [Ended(0, "", 1)] * 3

    assert len(site.started()) == 3
    # the last one may take its time to end, the others are gone
    assert not any(Path("/proc", str(pid)).exists() for pid in site.started()[:-1])


def test_one_that_reads_everything_first_is_not_kept_nor_tried_again(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Running(FedProgram):
        """The time it has to answer begins when its shell has come so far."""

        def __init__(self, argv: Sequence[str], environment: Mapping[str, str]) -> None:
            super().__init__(argv, environment)
            until_s = time.monotonic() + 20
            while not (site.place / "started").exists():
                assert time.monotonic() < until_s
                time.sleep(0.001)

    caplog.set_level(logging.INFO)
    site.write(f"#!/bin/sh\necho $$ >> {site.place}/started\nexec cat > /dev/null\n")

    with monkeypatch.context() as patch:
        patch.setattr(xtables_kept, "_ANSWER_S", 0.5)
        patch.setattr(xtables_kept, "FedProgram", Running)
        assert [site.carry_out() for _ in range(3)] == [None] * 3
    assert len(site.started()) == 1
    assert [record.message for record in caplog.records] == [
        f"{site.program} reads everything before it begins: one for each call"
    ]

    site.install(":")
    assert site.carry_out() == Ended(0, "", 1)


def test_one_that_is_late_once_is_kept_the_next_time(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = f"#!/bin/sh\n[ -e {site.place}/awake ] || exec sleep 100\n"
    site.write(late + _REPEATS.format(place=site.place, at_line=":"))

    with monkeypatch.context() as patch:
        patch.setattr(xtables_kept, "_ANSWER_S", 0.1)
        assert site.carry_out() is None
    (site.place / "awake").touch()

    assert [site.carry_out() for _ in range(2)] == [Ended(0, "", 1), Ended(0, "", 3)]
    assert len(site.started()) == 1


def test_one_that_ends_at_once_is_not_kept_and_tried_again(site: Site) -> None:
    site.write(f"#!/bin/sh\necho $$ >> {site.place}/started\nexit 1\n")
    assert [site.carry_out() for _ in range(2)] == [None] * 2
    site.write(f"#!/bin/sh\necho $$ >> {site.place}/started\nexit 0\n")
    assert site.carry_out() is None
    site.install(":")
    assert site.carry_out() == Ended(0, "", 1)


def test_where_there_is_no_program_none_is_kept(site: Site) -> None:
    site.carry_out()
    site.program.rename(site.place / "away")
    assert site.carry_out() is None
    site.program.touch()  # nobody may execute it
    assert site.carry_out() is None


def test_it_takes_one_text_at_a_time(site: Site) -> None:
    site.carry_out()
    first = site.kept.begin("request", "text\n", 20.0, waits=False)
    assert first is not None
    assert site.kept.begin("request", "text\n", 20.0, waits=False) is None
    assert first.finish() == Ended(0, "", 3)
    second = site.kept.begin("request", "text\n", 20.0, waits=False)
    assert second is not None
    assert second.finish() == Ended(0, "", 5)


def test_after_an_unknown_outcome_another_one_is_started(site: Site) -> None:
    site.carry_out()
    call = site.kept.begin("request", "text\n", 0.0, waits=False)
    assert call is not None
    while not call.talk.go_on():
        pass
    assert call.finish().status == 0  # it was in time, however little there was

    site.install("exec sleep 100")
    call = site.kept.begin("request", "text\n", 0.2, waits=True)
    assert call is not None
    with pytest.raises(KernelError, match="no end"):
        call.finish()
    site.install(":")
    assert site.carry_out() == Ended(0, "", 1)


def test_time_that_was_waited_before_counts(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.install("exec sleep 100")
    call = site.kept.begin("request", "text\n", 20.0, waits=True)
    assert call is not None
    now = time.monotonic
    began_s = now()
    monkeypatch.setattr(time, "monotonic", lambda: now() + 21)

    with pytest.raises(KernelError, match="no end within 20 s"):
        call.finish()

    assert now() - began_s < 15
    site.install(":")


def test_the_kernels_time_is_that_of_the_one_that_is_there(site: Site) -> None:
    assert site.kept.system_s() == 0
    site.carry_out()
    assert 0 <= site.kept.system_s() < 10
    site.kept.close()
    assert site.kept.system_s() == 0
