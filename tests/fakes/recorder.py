"""Takes what a source delivers, and lets a test wait for it."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Sequence

from proxy.model import EndpointSlice, NodeInfo, Rejected, Service, ServiceCidrs
from proxy.sources.events import (
    KINDS,
    Delete,
    Event,
    Object,
    ObjectKind,
    Problems,
    Source,
    Synced,
    Upsert,
)

_DEADLINE_S = 60.0

ObjectId = tuple[str, str, str]


class Recorder:
    """Remembers every batch, and the state that all batches together lead to."""

    def __init__(self) -> None:
        self.batches: list[list[Event]] = []
        self.received: list[float] = []
        self.objects: dict[ObjectId, Object] = {}
        self.problems: dict[str, tuple[Rejected, ...]] = {}
        self.synced: set[str] = set()
        self._has_news = asyncio.Event()

    @property
    def events(self) -> list[Event]:
        return [event for batch in self.batches for event in batch]

    @property
    def names(self) -> set[str]:
        """The names of all objects that exist now."""
        return {name for _, _, name in self.objects}

    @property
    def is_synced(self) -> bool:
        return self.synced >= set(KINDS)

    def sizes(self, kind: ObjectKind, since: int) -> list[int]:
        """Return how many events each batch about a kind had, from batch number `since` on."""
        return [len(batch) for batch in self.batches[since:] if _kind(batch[0]) == kind]

    def deliver(self, batch: Sequence[Event], received: float) -> None:
        assert batch, "an empty batch is no news"
        assert received <= time.monotonic()
        self.batches.append(list(batch))
        self.received.append(received)
        for event in batch:
            self._apply(event)
        self._has_news.set()

    async def until(self, is_reached: Callable[[], bool]) -> None:
        """Wait for deliveries until the condition holds; fail if that takes unreasonably long."""
        async with asyncio.timeout(_DEADLINE_S):
            while not is_reached():
                await self._has_news.wait()
                self._has_news.clear()

    def _apply(self, event: Event) -> None:
        match event:
            case Upsert(obj):
                self.objects[_identity(obj)] = obj
            case Delete(kind, namespace, name):
                self.objects.pop((kind, namespace, name), None)
            case Problems(what, rejected) if rejected:
                self.problems[what] = rejected
            case Problems(what):
                self.problems.pop(what, None)
            case Synced(kind):
                self.synced.add(kind)


def _kind(event: Event) -> str:
    match event:
        case Upsert(obj):
            return _identity(obj)[0]
        case Delete(kind=kind) | Synced(kind=kind):
            return kind
        case Problems(object=what):
            return what.partition(" ")[0]


def _identity(obj: Object) -> ObjectId:
    match obj:
        case Service(name=name):
            return "Service", name.namespace, name.name
        case EndpointSlice():
            return "EndpointSlice", obj.namespace, obj.name
        case NodeInfo():
            return "Node", "", obj.name
        case ServiceCidrs():
            return "ServiceCIDR", "", obj.name


@contextlib.asynccontextmanager
async def running(source: Source) -> AsyncIterator[Recorder]:
    """Run the source while the block runs; what it raises ends the block."""
    recorder = Recorder()
    async with asyncio.TaskGroup() as group:
        task = group.create_task(source.run(recorder.deliver))
        yield recorder
        task.cancel()
