"""Who asks: a bearer token, which can be rotated, a client certificate, or nobody."""

import secrets
from pathlib import Path

from aiohttp import web

from tests.apiserver import status

SERVICE_ACCOUNT = "system:serviceaccount:kube-system:kube-proxy"
_ANONYMOUS = "system:anonymous"


class Access:
    """Which tokens are good. Without `is_open`, whoever shows neither token nor certificate is refused."""

    def __init__(self, *, is_open: bool, token_file: Path | None = None) -> None:
        self.is_open = is_open
        self._token_file = token_file
        self.token = ""
        self.rotate()

    def rotate(self, *, is_file_written: bool = True) -> None:
        """From now on another token is good, and no other. Its file follows at once, or when `write_file` is called."""
        self.token = secrets.token_urlsafe(24)
        if is_file_written:
            self.write_file()

    def write_file(self) -> None:
        """Give clients the token, as the kubelet does: the file is replaced in one step."""
        if self._token_file is None:
            return
        new = self._token_file.with_name(f".{self._token_file.name}.new")
        new.write_text(self.token)
        new.replace(self._token_file)

    def user(self, request: web.Request) -> str:
        """The user's name. Raises ApiStatusError (401)."""
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            if secrets.compare_digest(token.strip().encode(), self.token.encode()):
                return SERVICE_ACCOUNT
            raise status.unauthorized()
        certificate = request.get_extra_info("peercert")
        if certificate:
            # the handshake has checked it against our own authority
            return str(dict(pair for (pair, *_) in certificate["subject"]).get("commonName", ""))
        if self.is_open:
            return _ANONYMOUS
        raise status.unauthorized()
