"""Events on their way to the API server: one request after the other, and never in anybody's way. Shell.

What is sent and when is decided by `events_recorder`. A server that is away or busy is asked a few times more, one that
does not allow it is told of in the log once; nothing that goes wrong here has any other consequence.
"""

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Final

import msgspec

from proxy.errors import ApiError
from proxy.events_recorder import Message, Recorder
from proxy.sources.access import Access
from proxy.sources.answers import decode_status
from proxy.sources.credentials import Credentials

if TYPE_CHECKING:
    from proxy.sources.transport import Answer, Transport

RULE: Final = '{apiGroups: ["events.k8s.io"], resources: [events], verbs: [create, patch]}'
ATTEMPTS: Final = 4
PAUSE_S: Final = 5.0
"""How long nothing is sent after something could not be."""
_ANSWER_S: Final = 10.0
_LONGEST_ANSWER: Final = 64 << 10

log = logging.getLogger(__name__)


class EventWriter:
    """Sends what a recorder has."""

    def __init__(
        self,
        recorder: Recorder,
        who: Credentials,
        transport: "Transport",
        *,
        pause_s: float = PAUSE_S,
    ) -> None:
        self._recorder = recorder
        self._who = who
        self._transport = transport
        self._pause_s = pause_s
        self._refused: Access | None = None
        self._complaint = ""
        self._news = asyncio.Event()
        recorder.on_news = self._news.set

    async def run(self) -> None:
        """Send, until cancelled."""
        while True:
            self._news.clear()
            message = self._recorder.take()
            if message is not None:
                if not await self._send(message):
                    await asyncio.sleep(self._pause_s)
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._recorder.due_s()):
                    await self._news.wait()

    async def _send(self, message: Message) -> bool:
        """Send one. Return whether there may be another at once."""
        from proxy.sources.transport import TransportError  # noqa: PLC0415 - loaded by now

        try:
            async with asyncio.timeout(_ANSWER_S):
                access = await self._who.get(self._refused)
                self._refused = None
                answer = await self._transport.send(
                    access,
                    "PATCH" if message.is_patch else "POST",
                    message.path,
                    msgspec.json.encode(message.body),
                )
                try:
                    words = await _words(answer)
                finally:
                    answer.close()
        except (TransportError, ApiError, TimeoutError) as error:
            self._complain(str(error) or "no answer in time")
            self._recorder.retry(message, at_most=ATTEMPTS)
            return False
        return self._settle(message, access, answer.status, words)

    def _settle(self, message: Message, access: Access, status: int, words: str) -> bool:
        recorder = self._recorder
        is_there = status == 409 and not message.is_patch
        if 200 <= status < 300 or is_there:
            recorder.sent(message)
            self._complaint = ""
        elif status == 401:
            self._refused = access
            self._complain(words)
            recorder.retry(message, at_most=ATTEMPTS)
            return False
        elif status == 404 and message.is_patch:
            recorder.retry(message, at_most=ATTEMPTS, is_gone=True)
        elif status == 429 or status >= 500:
            self._complain(words)
            recorder.retry(message, at_most=ATTEMPTS)
            return False
        else:
            needed = f"; needed is the rule {RULE}" if status == 403 else ""
            self._complain(f"{words}{needed}")
            recorder.failed(message)
        return True

    def _complain(self, words: str) -> None:
        """Say once what is wrong, for as long as nothing else happens."""
        if words != self._complaint:
            self._complaint = words
            log.warning("Events cannot be sent: %s", words)


async def _words(answer: "Answer") -> str:
    """Return what a server says of a request that it refused; nothing of one that it did not."""
    pieces: list[bytes] = []
    size = 0
    while size < _LONGEST_ANSWER and (piece := await answer.piece()):
        pieces.append(piece)
        size += len(piece)
    if answer.status < 300:
        return ""
    status = decode_status(b"".join(pieces), answer.status)
    return ": ".join(filter(None, (f"{status.code} {status.reason}".rstrip(), status.message)))
