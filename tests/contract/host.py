"""A machine with one data plane, as the laws see it: a fake, or a namespace of the real kernel.

To have a backend tested, write its host: one module here, like `nftables_host`, and two classes of tests: one in
tests/contract on its fake, one in e2e/test_contract.py on the kernel.
"""

from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol

from proxy.backend import Backend
from proxy.desired import DesiredPort
from proxy.model import PortKey
from tests.data_plane import Behaviour, Connection
from tests.work_counter import Visits

AnyBackend = Backend[Any, Any]


class Cost(NamedTuple):
    """What was asked of the kernel: how often, how many messages, and for which of them it wrote something."""

    calls: int = 0
    messages: int = 0
    written: int = 0


class Host(Protocol):
    """What every data plane has."""

    def start(self) -> AnyBackend:
        """A backend as a starting process makes it. Closed with the host."""
        ...

    def behaviour(self, observed: Any, *, leave_out: Collection[Connection] = ()) -> Behaviour:
        """What becomes of connections by this belief. Raises AssertionError where it contradicts itself.

        What stands at the addresses to `leave_out` may be anything.
        """
        ...

    async def read_back(self, backend: AnyBackend, observed: Any) -> Any:
        """Read what is there now, as a belief."""
        ...

    def state(self, observed: Any) -> object:
        """A belief as a value to compare."""
        ...

    def watch(self, observed: Any, visits: Visits) -> None:
        """Count what is looked up in a belief."""
        ...


class KernelHost(Host, Protocol):
    """What a data plane in the kernel has besides."""

    def check_extras(self, observed: Any, desired: Mapping[PortKey, DesiredPort]) -> None:
        """Check what only this data plane has, and that it has nothing else."""
        ...

    @property
    def kinds_of_disturbances(self) -> int: ...

    def disturb(self, seed: int, *, kind: int | None = None) -> None:
        """Do to our objects some of what a crash, an older version or an administrator may have done, or one such thing."""
        ...

    def plant_foreign(self) -> None:
        """Have somebody else make objects beside ours."""
        ...

    def foreign(self) -> object:
        """Everything that is not ours."""
        ...

    def own(self) -> object:
        """Everything that is ours, as a value that is false if there is nothing."""
        ...

    @property
    def calls_at_most(self) -> int:
        """So many system calls may one change cost."""
        ...

    def is_noticed(self, before: Any, after: Any) -> bool:
        """Whether the kernel tells at once that one state has become another, as `state` returns them."""
        ...

    def occupy(self, port: DesiredPort) -> None:
        """Have somebody put something else where a new ServicePort's frontend has to go."""
        ...

    def limit(self, room: int) -> None:
        """Have the kernel take only so many more services."""
        ...

    def lift_limit(self) -> None: ...

    def failing(
        self, backend: AnyBackend, error: Exception, *, is_done: bool
    ) -> AbstractContextManager[None]:
        """The next write ends in an error, after it was done or without."""
        ...

    def spent(self, backend: AnyBackend) -> Cost:
        """What the backend has cost since it was last asked."""
        ...


class Ground(Protocol):
    """Where hosts stand."""

    def fresh(self) -> AbstractContextManager[Host]:
        """A host on which nothing has happened yet."""
        ...
