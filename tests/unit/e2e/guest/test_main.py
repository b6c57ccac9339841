"""Where the tests run, and what becomes of their exit status."""

import sys
from pathlib import Path

import pytest

from e2e.guest import __main__ as guest
from e2e.guest import machine, selection
from e2e.guest.kernel import GuestError


class Machine:
    """In the place of the virtual machine: keeps what it is to run, and ends as it is told."""

    def __init__(self) -> None:
        self.ran: list[tuple[list[str], float]] = []
        self.status = 0
        self.error = ""

    def run(self, command: list[str], environment: dict[str, str], limit_s: float) -> int:
        assert "ipvs" in environment["E2E_REQUIRED"]
        self.ran.append((command, limit_s))
        if self.error:
            raise GuestError(self.error)
        return self.status


@pytest.fixture
def booted(monkeypatch: pytest.MonkeyPatch) -> Machine:
    fake = Machine()
    monkeypatch.setattr(machine, "run", fake.run)
    monkeypatch.setattr(guest, "missing", lambda _: "IPVS: none")
    return fake


def test_without_ipvs_here_the_usual_tests_run_in_the_guest(booted: Machine) -> None:
    assert guest.main([]) == 0

    ((command, limit_s),) = booted.ran
    assert command == [sys.executable, "-m", "pytest", *selection.usual()]
    assert limit_s == selection.LIMIT_S


def test_all_tests_have_more_time(booted: Machine) -> None:
    guest.main(["--all"])

    ((command, limit_s),) = booted.ran
    assert command[3:] == selection.everything()
    assert limit_s == selection.LIMIT_OF_EVERYTHING_S


def test_a_command_is_run_as_it_stands(booted: Machine) -> None:
    guest.main(["--limit-s", "5", "--run", "ls", "--all"])

    assert booted.ran == [(["ls", "--all"], 5.0)]


def test_the_exit_status_is_that_of_the_tests(booted: Machine) -> None:
    booted.status = 1

    assert guest.main([]) == 1


def test_a_guest_that_does_not_work_is_told_apart_from_failed_tests(
    booted: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    booted.error = "no kernel"

    assert guest.main([]) == 2
    assert capsys.readouterr().err == "guest: no kernel\n"


def test_with_ipvs_here_they_run_here(
    booted: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(guest, "missing", lambda _: "")
    seen = tmp_path / "seen"

    status = guest.main(["--run", "sh", "-c", f'echo "$E2E_REQUIRED" >{seen}; exit 3'])

    assert (status, booted.ran) == (3, [])
    assert seen.read_text().strip() == ",".join(selection.REQUIRED)


@pytest.mark.parametrize(("reason", "status"), [("IPVS: none", 0), ("", 1)])
def test_whether_the_guest_is_needed_is_an_exit_status(
    monkeypatch: pytest.MonkeyPatch, reason: str, status: int
) -> None:
    monkeypatch.setattr(guest, "missing", lambda _: reason)

    assert guest.main(["--is-needed"]) == status


@pytest.fixture(autouse=True)
def _signals_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("signal.signal", lambda *_: None)
