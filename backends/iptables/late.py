"""A plan for many ServicePorts, made when it is carried out. Pure but for when it is made.

To plan a thousand takes a third of a second. So that the event loop is not held, a thread does it; and so that belief does not change
meanwhile, it does so where it may be changed by nobody else: between our writes and the last look of a verification.
"""

from collections.abc import Callable

from backends.iptables.model import IptablesPlan


class LatePlan:
    """What leads to a plan. Whoever asks what is in it has it made at once."""

    def __init__(self, make: Callable[[], IptablesPlan]) -> None:
        self._make = make
        self._made: IptablesPlan | None = None

    def make(self) -> IptablesPlan:
        """Return the plan, made when it is asked for the first time."""
        if self._made is None:
            self._made = self._make()
        return self._made

    def __bool__(self) -> bool:
        return bool(self.make())

    def describe(self) -> list[str]:
        """Return one line for each operation, in the order in which they are carried out."""
        return self.make().describe()
