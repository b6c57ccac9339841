"""Asking a daemon that may not be there, or may not be what it should be. What it answers: test_debug."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from proxy.errors import ConfigError, ProxyError
from proxy.server import client
from tests.unit.proxy.explaining import run


@contextmanager
def answering(answer: bytes) -> Iterator[str]:
    """Listen on a free port and answer one request with these bytes."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                asked.append(connection.recv(65536))
                connection.sendall(answer)

        asked: list[bytes] = []
        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        thread.join(10)
        assert asked


def http(status: str, body: str, server: str = "sliceproxy/1", more: str = "") -> bytes:
    payload = body.encode()
    head = f"HTTP/1.1 {status}\r\nServer: {server}\r\n{more}Content-Length: {len(payload)}\r\n"
    return head.encode() + b"Connection: close\r\n\r\n" + payload


def failure(answer: bytes) -> str:
    with answering(answer) as url, pytest.raises(ProxyError) as caught:
        client.ask(url, "/debug/state", {})
    assert str(caught.value).startswith(("what answers at", url, "no answer"))
    return str(caught.value).replace(url, "URL")


def test_an_answer_and_its_note_are_returned() -> None:
    answer = http("200 OK", "héllo\n", more=f"{client.NOTE}: not proxied\r\n")
    with answering(answer) as url:
        page = client.ask(url, "/debug/state", {"q": "a&b"})

    assert page == client.Page("héllo\n", "not proxied")


def nowhere() -> str:
    """A URL at which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"http://127.0.0.1:{server.getsockname()[1]}"


def test_the_daemon_of_this_node_may_answer_at_the_address_of_the_other_family(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with answering(http("200 OK", "hello\n")) as url:
        monkeypatch.setattr(client, "HERE", nowhere())
        monkeypatch.setattr(client, "_HERE_BY_IPV6", url)

        assert client.ask(None, "/debug/state", {}).text == "hello\n"


def test_where_it_answers_nowhere_the_first_address_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = nowhere()
    monkeypatch.setattr(client, "HERE", first)
    monkeypatch.setattr(client, "_HERE_BY_IPV6", nowhere())

    with pytest.raises(ProxyError, match=f"nothing listens at {first}"):
        client.ask(None, "/debug/state", {})


def test_a_daemon_that_does_not_run_is_said_to_be_missing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    answer = run("state", "--server", f"http://127.0.0.1:{port}")

    assert (answer.code, answer.stdout) == (1, "")
    assert "nothing listens at" in answer.stderr
    assert "is sliceproxy running on this node?" in answer.stderr


def test_somebody_else_is_told_from_sliceproxy() -> None:
    assert failure(http("200 OK", "{}", server="nginx")) == (
        "what answers at URL is not sliceproxy (status 200)"
    )
    assert "is not sliceproxy" in failure(b"SSH-2.0-OpenSSH_9.2\r\n")
    assert "is not sliceproxy" in failure(b"")


def test_a_refusal_is_passed_on_in_its_own_words() -> None:
    refused = http("403 Forbidden", "this is answered only where the Host header is local\n")

    assert failure(refused) == "URL: this is answered only where the Host header is local"
    assert failure(http("503 Busy", "")) == "URL: Busy"


def test_where_no_debug_pages_are_served_it_is_said_what_they_need() -> None:
    assert "debug.allowNonLoopback" in failure(http("404 Not Found", client.NOTHING_HERE + "\n"))


def test_an_answer_that_is_cut_off_is_an_error() -> None:
    cut = http("200 OK", "x" * 100)[:-50]

    assert "is not sliceproxy" in failure(cut)


def test_a_daemon_that_does_not_answer_in_time_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_TIMEOUT_S", 0.01)
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(ProxyError, match="no answer from http"):
            client.ask(url, "/", {})


@pytest.mark.parametrize(
    "url", ["", "ftp://h", "https://h:1", "http://", "http://h:x", "http://h/debug", "http://[::1"]
)
def test_a_url_that_is_none_is_the_operators_to_change(url: str) -> None:
    with pytest.raises(ConfigError, match="--server"):
        client.ask(url, "/", {})


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("http://127.0.0.1:8080/", ("127.0.0.1", 8080)),
        ("localhost", ("localhost", 10249)),
        ("[::1]:99", ("::1", 99)),
        ("127.0.0.1:10249", ("127.0.0.1", 10249)),
    ],
)
def test_scheme_and_port_may_be_left_out(url: str, address: tuple[str, int]) -> None:
    assert client._address(url) == address


def test_proxies_of_the_environment_are_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://192.0.2.1:3128")
    with answering(http("200 OK", "here")) as url:
        assert client.ask(url, "/", {}).text == "here"
