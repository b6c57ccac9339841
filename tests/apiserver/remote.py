"""The control door of a server in another process, for tests. Raises RemoteError where the server refuses."""

import http.client
import json
import socket
from pathlib import Path
from typing import Any

from tests.apiserver.faults import Rule
from tests.apiserver.listener import Mode
from tests.apiserver.resources import Object

_TIMEOUT_S = 60.0


class RemoteError(Exception):
    """The server did not do what it was told."""


class Remote:
    """What a test can do to the server. Everything is done when a method returns."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def put(self, *objects: Object) -> None:
        """Create or replace objects."""
        self.call("POST", "/objects", list(objects))

    def delete(self, *objects: Object) -> None:
        """Delete objects; of each only kind, namespace and name count."""
        self.call("DELETE", "/objects", list(objects))

    def break_(self, *rules: Rule, **faults: Any) -> None:
        """Set faults by their names in `Faults`; what is not named stays."""
        if rules:
            faults["rules"] = [vars(rule) for rule in rules]
        self.call("POST", "/faults", faults)

    def mend(self) -> None:
        """No faults any more. What is broken already, such as a silent watch, stays so."""
        self.call("DELETE", "/faults")

    def listen(self, mode: Mode, *, is_dropping: bool = False, seconds: float = 0.0) -> None:
        """Close the port, or accept without answering, for some seconds or until told otherwise."""
        wanted = {"mode": mode, "is_dropping": is_dropping, "seconds": seconds}
        self.call("POST", "/listener", wanted)

    def drop(self) -> int:
        """Reset all connections; how many there were."""
        count: int = self.call("POST", "/drop")["connections"]
        return count

    def compact(self) -> None:
        """Forget all history."""
        self.call("POST", "/compact")

    def roll_back(self, *, changes: int) -> None:
        """Be as before the last changes, and end all connections."""
        self.call("POST", "/rollback", {"changes": changes})

    def rotate_token(self, *, is_file_written: bool = True) -> None:
        """Another token is good from now on."""
        self.call("POST", "/token", {"is_file_written": is_file_written})

    def write_token_file(self) -> None:
        """Let clients read the token that is good now."""
        self.call("POST", "/token-file")

    def storm(self, *, changes: int, rate: float = 0.0) -> float:
        """Change slices; how many seconds it took."""
        seconds: float = self.call("POST", "/storm", {"changes": changes, "rate": rate})["seconds"]
        return seconds

    def requests(self) -> list[Object]:
        """All requests since the start, or since they were forgotten."""
        requests: list[Object] = self.call("GET", "/requests")
        return requests

    def forget_requests(self) -> None:
        """Begin to count anew."""
        self.call("DELETE", "/requests")

    def state(self) -> Object:
        """Revision, numbers of objects and of open watches."""
        state: Object = self.call("GET", "/state")
        return state

    def call(self, method: str, path: str, body: object = None) -> Any:
        """Any request of control.py."""
        connection = _UnixConnection(self._path)
        try:
            connection.request(method, path, None if body is None else json.dumps(body))
            response = connection.getresponse()
            text = response.read().decode()
        finally:
            connection.close()
        if response.status != 200:
            raise RemoteError(f"{method} {path}: {response.status}: {text}")
        return json.loads(text)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("control.invalid", timeout=_TIMEOUT_S)
        self._socket_path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(_TIMEOUT_S)
        self.sock.connect(str(self._socket_path))
