"""How far one has come in the history of a server, and from where to go on.

Pure. A version is a token of the server and given back as it is. Lists are asked for as client-go does it, since servers
are built for that: the first one at version "0", which any server answers from memory; a later one at the last version
that is known, without pages, which is answered from memory too and never leads back in time; and with pages at the
newest version, which reads from etcd, only when that has failed.
"""

from typing import Final

from proxy.sources.resources import Request, Resource

_FROM_MEMORY: Final = "0"
_NEWEST: Final = ""


class Position:
    """A version, or the middle of a list."""

    def __init__(self, page_size: int) -> None:
        self._full_page_size = page_size
        self._page_size = page_size
        self._list_version = _FROM_MEMORY
        self._base_version = ""
        self.version = ""
        """From where a watch can go on; empty where a list has to come first."""
        self.token = ""
        """What to ask the next page of a list with; empty outside of lists."""

    def list_request(self, resource: Resource) -> Request:
        """Ask for the next page, or the first."""
        return resource.list_request(self._list_version, self._page_size, self.token)

    def reach(self, version: str) -> None:
        """Take note that a list is complete."""
        self.version, self.token = version, ""
        self._page_size = self._full_page_size

    def begin_watch(self) -> None:
        """Take note that a watch goes on from here."""
        self._base_version = self.version

    def advance(self, version: str) -> bool:
        """Go on to the version of an event. Return False if a server that has not lost history would not say it."""
        if is_before(version, self._base_version):
            return False
        self.version = version
        return True

    def lose_touch(self) -> None:
        """Forget the version if there is one: what the server says now may have another past."""
        if self.version or self.token or self._list_version != _FROM_MEMORY:
            self.forget(is_expired=True)

    def forget(self, *, is_expired: bool) -> None:
        """List before the next watch; at the newest version if the server no longer has, or never had, ours."""
        self._list_version = _NEWEST if is_expired else self.version or self._list_version
        is_paged = self._list_version in (_NEWEST, _FROM_MEMORY)
        self._page_size = self._full_page_size if is_paged else 0
        self.version = self.token = ""

    def forget_list(self) -> None:
        """List anew, after 410 in a list."""
        was_within = bool(self.token)
        self.forget(is_expired=True)
        if was_within:
            # Pages that take longer than the server keeps old versions will do so again.
            self._page_size = 0


def is_before(version: str, other: str) -> bool:
    """Whether a version is certainly older. Kubernetes calls them comparable as numbers since 1.35 (KEP-5504)."""
    if not (version.isdecimal() and other.isdecimal()):
        return False
    return (len(version), version) < (len(other), other)  # as the numbers, which may be long
