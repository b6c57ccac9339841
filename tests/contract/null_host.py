"""The host of the backend that does nothing: all it has is its belief."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

from backends.null.backend import NullBackend, NullObserved
from tests.contract.host import AnyBackend
from tests.data_plane import Behaviour, Connection, wanted
from tests.work_counter import Visits, watch


class NullHost:
    def start(self) -> AnyBackend:
        return NullBackend()

    def behaviour(self, observed: Any, *, leave_out: Collection[Connection] = ()) -> Behaviour:
        assert isinstance(observed, NullObserved)
        return {c: served for c, served in wanted(observed.ports).items() if c not in leave_out}

    async def read_back(self, backend: AnyBackend, observed: Any) -> Any:
        return observed

    def state(self, observed: Any) -> object:
        return dict(observed.ports)

    def watch(self, observed: Any, visits: Visits) -> None:
        watch(observed, visits)


class NullGround:
    @contextmanager
    def fresh(self) -> Iterator[NullHost]:
        yield NullHost()
