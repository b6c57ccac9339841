"""A cache and a desired state run together, as the reconciler does, one service at a time."""

from collections.abc import Iterable, Set

from proxy.cache import Cache
from proxy.desired import DesiredState
from proxy.model import NodeInfo, PortKey, ServiceName
from tests.model_strategies import History, News


class World:
    """What has been heard, and what should be done about it."""

    def __init__(self, cache: Cache | None = None) -> None:
        self.cache = cache or Cache(NodeInfo(name="n1"))
        self.desired = DesiredState()

    def hear(self, news: Iterable[News]) -> list[ServiceName]:
        """Take news in and return the services that have to be described anew."""
        self.cache.apply([one.event() for one in news], 0.0)
        return list(self.cache.take_changes())

    def describe(self, name: ServiceName) -> Set[PortKey]:
        """Describe one service anew and return the keys that changed by it."""
        return self.desired.update(
            name, self.cache.services.get(name), self.cache.endpoints(name), self.cache.node
        )


def world_after(batches: History) -> World:
    """Return what is known, and what should be, after hearing of all this."""
    world = World()
    for batch in batches:
        for name in world.hear(batch):
            world.describe(name)
    return world
