"""What a backend is: the protocol every data plane implements, and the laws it keeps. Pure.

A backend turns the desired state into kernel objects (or sockets) of one kind. It is told nothing but
`Desired`, and `proxy` knows nothing of any particular backend. The laws are tested once for every
backend, on its fake and on the real kernel (tests/contract).

L1 convergence   After apply, what the plan touched, read back, equals what the plan leads to, and planning
                 again is empty. Compared is what we configure, not what the kernel adds (handles, counters).
L2 any start     From whatever a crash, an older version or an administrator left, one round of plans over all
                 keys, ended by prune, reaches the same result. Adopt on start; never flush.
L3 ownership     Objects without our mark are never touched.
L4 honesty       Belief changes only after the kernel confirmed. After an error or an unknown outcome the
                 affected objects are read back.
L5 make before   There is no instant at which a live frontend has no rule: endpoints come before the frontend
   break         and go after it. A packet in flight that finds its endpoint gone is given another one.
L6 proportion    One changed endpoint costs O(1) kernel operations and work proportional to its own service.
                 An empty plan makes no system call.
L7 exit          cleanup leaves the node as it was before. Stopping the daemon leaves the rules in place.
L8 isolation     What the kernel refuses costs only the ServicePort it belongs to; everything else is applied.
"""

from collections.abc import AsyncIterator, Collection, Mapping
from typing import Protocol, TypeVar, runtime_checkable

from proxy.desired import Desired
from proxy.model import PortKey, Value


class Applied(Value, frozen=True, kw_only=True):
    """What became of a plan. `failed` names the ServicePorts that were left out, and why.

    `operations` counts the objects written; `transactions` the system calls that wrote them. After `again_s` a plan for
    no keys at all is due: what is not needed any more was left in place for what is on its way through it. `regained` are
    ServicePorts that were left out before, and that a plan of others, or of none, has brought to what is desired.
    """

    operations: int = 0
    transactions: int = 0
    failed: Mapping[PortKey, str] = {}
    again_s: float | None = None
    regained: tuple[PortKey, ...] = ()


class Drift(Value, frozen=True, kw_only=True):
    """A difference between belief and the kernel: whose object it is, and what was found.

    `key` is None for an object no ServicePort owns (a chain all share, or something foreign in our table).
    """

    key: PortKey | None
    what: str


class Held(Value, frozen=True, kw_only=True):
    """What the kernel holds for one ServicePort at this moment, in the words of the data plane, one line each.

    `differences` say where that is not what we believe of it; nothing while both are the same. `key` is None for what
    no single ServicePort owns.
    """

    key: PortKey | None
    lines: tuple[str, ...] = ()
    differences: tuple[str, ...] = ()


class Figure(Value, frozen=True, kw_only=True):
    """What only one kind of data plane counts, in the form of a metric, for whoever shows numbers.

    `name` is without that of program and backend; a counter's ends in `_total`. `values` are by the value of `label`, of
    which there are a few that are known beforehand; without a label there is one, for the empty text.
    """

    name: str
    text: str
    values: Mapping[str, float]
    label: str = ""


class Retired(Value, frozen=True, kw_only=True):
    """How far a backend is that gives way to another: what it has removed now, in words, and what the rest waits for.

    After `again_s` it is to be asked again; None: nothing of it is left.
    """

    removed: tuple[str, ...] = ()
    waits_for: str = ""
    again_s: float | None = None


class Plan(Protocol):
    """Ordered operations. False when there is nothing to do."""

    def __bool__(self) -> bool: ...

    def describe(self) -> list[str]:
        """Return one line for each operation, with the ServicePort it is for."""
        ...


class Observed(Protocol):
    """A backend's own belief about what it owns in the kernel."""

    @property
    def is_rebuild_due(self) -> bool:
        """Whether what is there must be replaced as a whole, so that one plan has to name all keys."""
        ...

    @property
    def worth_a_commit(self) -> int:
        """How many endpoints make a commit worth its price; 0 where that is proportional to what is written."""
        ...


ObservedT = TypeVar("ObservedT", bound=Observed)
PlanT = TypeVar("PlanT", bound=Plan)


class Backend(Protocol[ObservedT, PlanT]):
    """One kind of data plane."""

    @property
    def name(self) -> str: ...

    async def probe(self) -> None:
        """Try every primitive needed, for real and out of the way. Raises Unsupported naming what is missing."""
        ...

    async def observe(self) -> ObservedT:
        """Read back everything we own. Cost is proportional to it: at start and for verification only."""
        ...

    def plan(
        self,
        desired: Desired,
        observed: ObservedT,
        changed: Collection[PortKey],
    ) -> PlanT:
        """Return what leads from `observed` to `desired` for the keys in `changed` and for the node itself. Pure.

        For no keys at all it also removes what earlier plans left in place (see `Applied.again_s`).

        Between the transactions of a plan both the old and the new state of a ServicePort are believed to be there.
        """
        ...

    def prune(self, desired: Desired, observed: ObservedT) -> PlanT:
        """Return what removes everything of ours that `desired` does not ask for. Pure, and a full walk.

        Only after all keys have been planned once on this `observed`.
        """
        ...

    async def apply(self, plan: PlanT, observed: ObservedT) -> Applied:
        """Carry a plan out and fold into `observed` what the kernel confirmed.

        Raises KernelError when nothing more can be tried (the kernel is out of reach); `observed` is then
        no longer to be trusted and must be observed anew; but after Busy, of what could not be done nothing was.
        """
        ...

    def assume(self, plan: PlanT, observed: ObservedT) -> Applied:
        """Fold into `observed` what a plan leads to, as if the kernel had confirmed all of it. Touches nothing else.

        For somebody who wants to know what comes after it. `again_s` is as `apply` has it; but for what connections that are
        still there will do.
        """
        ...

    async def verify(self, observed: ObservedT) -> list[Drift]:
        """Compare belief with the kernel in the background and correct the belief.

        Every difference is confirmed by a second read. Returned keys are to be planned again.
        """
        ...

    def read_back(
        self,
        desired: Desired,
        observed: ObservedT,
        keys: Collection[PortKey] | None,
    ) -> AsyncIterator[Held]:
        """Read from the kernel, now, what it holds for some ServicePorts, each once; for None everything, and what
        no ServicePort owns last. For somebody who looks: neither belief nor kernel is changed.

        Costs in proportion to what is asked for, in pieces between which others run. Raises KernelError.
        """
        ...

    def has_foreign_change(self, observed: ObservedT) -> bool:
        """Tell cheaply whether somebody else may have changed the kernel's state since belief was formed."""
        ...

    def figures(self) -> Collection[Figure]:
        """Return what is counted of this data plane and of no other, as known without asking the kernel."""
        ...

    async def retire(self) -> Retired:
        """Give way to another backend that has programmed everything: remove all we own.

        Connections that began with us may keep for a while what they need; new ones are the other's at once. For a backend
        that plans nothing any more. Raises Unsupported where the kernel lacks what we need: then there is nothing of ours;
        KernelError.
        """
        ...

    async def cleanup(self) -> int:
        """Remove all we own and return the number of objects removed; fine if there is nothing."""
        ...

    def close(self) -> None:
        """Give back what the process holds (sockets). Leaves the data plane as it is."""
        ...


@runtime_checkable
class Preparing(Protocol):
    """A backend that needs settings of the node (sysctls) besides its own objects."""

    async def prepare(self) -> None:
        """Write them: after `probe`, and before the first plan is applied. Raises Unsupported."""
        ...


@runtime_checkable
class Draining(Protocol):
    """A backend of which connections depend on this process, so that its end is theirs."""

    async def drain(self, deadline_s: float) -> int:
        """Take no new connection, and wait until those there are have ended, at most that long; return how many have not.

        Called once, when the process has been told to stop and plans nothing any more, before `close`.
        """
        ...
