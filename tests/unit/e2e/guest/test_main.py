"""Where the tests run, and what becomes of their exit status."""

import sys
from pathlib import Path

import pytest

from e2e.guest import __main__ as guest
from e2e.guest import machine, selection
from e2e.guest.kernel import GuestError
from e2e.guest.selection import Run


class Machine:
    """In the place of the virtual machine: keeps what it is to run, and ends as it is told."""

    def __init__(self) -> None:
        self.ran: list[tuple[list[str], float, int]] = []
        self.efforts: list[str] = []
        self.statuses = [0, 0]
        self.error = ""

    def run(
        self, command: list[str], environment: dict[str, str], limit_s: float, processors: int
    ) -> int:
        assert "ipvs" in environment["E2E_REQUIRED"]
        assert environment["TEST_PATIENCE"] == selection.PATIENCE
        self.efforts.append(environment["TEST_EFFORT"])
        self.ran.append((list(command), limit_s, processors))
        if self.error:
            raise GuestError(self.error)
        return self.statuses.pop(0)


@pytest.fixture
def booted(monkeypatch: pytest.MonkeyPatch) -> Machine:
    fake = Machine()
    monkeypatch.setattr(machine, "run", fake.run)
    monkeypatch.setattr(guest, "missing", lambda _: "IPVS: none")
    return fake


def in_pytest(run: Run) -> list[str]:
    return [sys.executable, "-m", "pytest", *run.arguments]


def test_without_ipvs_here_the_usual_tests_run_in_the_guest(booted: Machine) -> None:
    assert guest.main([]) == 0

    (usual,) = selection.usual()
    assert booted.ran == [(in_pytest(usual), usual.limit_s, usual.processors)]
    assert booted.efforts == [usual.effort]


def test_everything_takes_several_boots_and_ends_with_the_worst_status(booted: Machine) -> None:
    booted.statuses = [1, 0, 0]

    assert guest.main(["--all"]) == 1
    assert [command for command, _, _ in booted.ran] == [
        in_pytest(each) for each in selection.everything()
    ]


def test_a_command_is_run_as_it_stands(booted: Machine) -> None:
    booted.statuses = [7]

    assert guest.main(["--limit-s", "5", "--processors", "2", "--run", "ls", "--all"]) == 7
    assert booted.ran == [(["ls", "--all"], 5.0, 2)]


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

    status = guest.main(
        ["--run", "sh", "-c", f'echo "$E2E_REQUIRED $TEST_PATIENCE" >{seen}; exit 3']
    )

    assert (status, booted.ran) == (3, [])
    assert seen.read_text() == f"{','.join(selection.REQUIRED)} 1\n"


@pytest.mark.parametrize(("reason", "status"), [("IPVS: none", 0), ("", 1)])
def test_whether_the_guest_is_needed_is_an_exit_status(
    monkeypatch: pytest.MonkeyPatch, reason: str, status: int
) -> None:
    monkeypatch.setattr(guest, "missing", lambda _: reason)

    assert guest.main(["--is-needed"]) == status


@pytest.fixture(autouse=True)
def _signals_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("signal.signal", lambda *_: None)
