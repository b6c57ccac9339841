"""The load generators: what they say is what went through."""

import contextlib
import itertools
import socket
import threading
import time
import types
from collections.abc import Callable, Iterator

import pytest

from bench import forwarder_load
from tests.ports import free_port

ADDRESS = "127.0.0.1"


@contextlib.contextmanager
def served(serve: Callable[[str, int], None]) -> Iterator[int]:
    """A server for the rest of the tests, which nobody can end."""
    port = free_port(ADDRESS)
    threading.Thread(target=serve, args=(ADDRESS, port), daemon=True).start()
    until_s = time.monotonic() + 20
    while not _is_answered(port):
        assert time.monotonic() < until_s
        time.sleep(0.001)
    yield port


def _is_answered(port: int) -> bool:
    with (
        contextlib.suppress(ConnectionRefusedError),
        socket.create_connection((ADDRESS, port)),
    ):
        return True
    return False


@pytest.fixture
def _turns_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """A millisecond passes each time somebody asks for the time, however long that takes."""
    asked = itertools.count()
    clock = types.SimpleNamespace(perf_counter=lambda: next(asked) / 1000)
    monkeypatch.setattr(forwarder_load, "time", clock)


@pytest.mark.usefixtures("_turns_pass")
@pytest.mark.parametrize("count", [1, 3])
def test_bulk_data_is_sent_and_has_arrived(count: int) -> None:
    with served(forwarder_load.serve_bulk) as port:
        told = forwarder_load.send_bulk(ADDRESS, port, count, 0.05)

    assert told["bytes"] >= forwarder_load.AT_ONCE // 8
    assert told["seconds"] >= 0.05


@pytest.mark.usefixtures("_turns_pass")
def test_questions_are_answered_by_all_clients_at_once() -> None:
    with served(forwarder_load.serve_short) as port:
        told = forwarder_load.ask_short(ADDRESS, port, 4, 0.05)

    assert told["done"] > 4
    assert told["failed"] == 0


def test_each_question_on_one_connection_is_timed() -> None:
    with served(forwarder_load.serve_echo) as port:
        told = forwarder_load.ask_echo(ADDRESS, port, 10, 0.0)

    assert len(told["took_us"]) == 10
    assert all(each > 0 for each in told["took_us"])


def test_clients_print_what_they_found(capsys: pytest.CaptureFixture[str]) -> None:
    with served(forwarder_load.serve_echo) as port:
        assert forwarder_load.main(["ask-echo", ADDRESS, str(port), "2", "0"]) == 0

    assert capsys.readouterr().out.startswith('{"took_us": [')
