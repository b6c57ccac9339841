"""What a start would write, found out without writing any of it: the same plans in the same order, each taken as carried out.

Shell, but all it does is to read what is there. Listeners are of a process, not of the kernel: a new one opens all of its own.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final, Literal

from proxy import batches
from proxy.backend import Applied, Backend, Plan
from proxy.desired import DesiredState
from proxy.explain import Document
from proxy.explain_text import as_json
from proxy.ladder import Refusal
from proxy.model import PortKey, Value

Phase = Literal["program", "prune", "sweep"]
_WORDS: Final[Mapping[Phase, str]] = {
    "program": "to be written",
    "prune": "then, once all services are there",
    "sweep": "a moment later, when no packet is on its way any more",
}


class Part(Value, frozen=True, kw_only=True):
    """One plan: how many objects it writes, and what it says. A line may stand for several, as that for a chain of rules."""

    phase: Phase
    operations: int
    lines: tuple[str, ...]


class Rehearsal(Value, frozen=True, kw_only=True):
    """What a start in one mode would do for so many ServicePorts. `refused` are left out, and why."""

    mode: str
    ports: int
    parts: tuple[Part, ...]
    refused: Mapping[PortKey, str]
    node: str = ""
    passed_over: tuple[Refusal, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def operations(self) -> int:
        return sum([part.operations for part in self.parts])


async def rehearse(backend: Backend[Any, Any], desired: DesiredState) -> Rehearsal:
    """Return what a process that starts now would do. Raises KernelError if what is there cannot be read."""
    observed = await backend.observe()
    whole = desired.whole
    parts: list[Part] = []
    refused: dict[PortKey, str] = {}

    def take(phase: Phase, plan: Plan) -> Applied:
        lines = tuple(plan.describe())
        applied = backend.assume(plan, observed)
        if applied.operations:
            parts.append(Part(phase=phase, operations=applied.operations, lines=lines))
        refused.update(applied.failed)
        return applied

    keys = batches.most_urgent_first(list(whole.ports), whole.ports)
    for chunk in batches.divide(keys, whole.ports, lambda: batches.at_once(observed)):
        take("program", backend.plan(whole, observed, chunk))
    last = take("prune", backend.prune(whole, observed))
    while last.again_s is not None:
        last = take("sweep", backend.plan(whole, observed, []))
    return Rehearsal(
        mode=backend.name,
        ports=len(whole.ports),
        parts=tuple(parts),
        refused=refused,
    )


def render_text(rehearsal: Rehearsal) -> str:
    """Return a line for each operation, under a heading for each plan."""
    return "".join(f"{line}\n" for line in _lines(rehearsal))


def _lines(rehearsal: Rehearsal) -> Iterator[str]:
    count = rehearsal.ports
    yield f"mode {rehearsal.mode} on node {rehearsal.node}: {count} service port{'s' * (count != 1)}"
    for refusal in rehearsal.passed_over:
        yield f"passed over: mode {refusal}"
    for part in rehearsal.parts:
        yield f"{_WORDS[part.phase]}:"
        yield from (f"  {line}" for line in part.lines)
    for key, reason in rehearsal.refused.items():
        yield f"not served: {key}: {reason}"
    count = rehearsal.operations
    if count:
        yield f"{count} object{'s' * (count != 1)} to be written or removed; nothing was changed"
    else:
        yield "nothing to do: all of it is there, and nothing else of this mode"


class OperationDocument(Document, frozen=True, kw_only=True):
    """One operation, in the words of the data plane; those of one plan follow each other."""

    plan: int
    phase: Phase
    operation: str


class RehearsalDocument(Document, frozen=True, kw_only=True):
    """What a start would do; `refused` is by ServicePort. `objects` are those that operations write, of which some stand for several."""

    mode: str
    passed_over: tuple[str, ...]
    node: str
    service_ports: int
    objects: int
    operations: tuple[OperationDocument, ...]
    refused: dict[str, str]
    warnings: tuple[str, ...]


def render_json(rehearsal: Rehearsal) -> str:
    """Return the same as one document."""
    document = RehearsalDocument(
        mode=rehearsal.mode,
        passed_over=tuple(map(str, rehearsal.passed_over)),
        node=rehearsal.node,
        service_ports=rehearsal.ports,
        objects=rehearsal.operations,
        operations=tuple(
            [
                OperationDocument(plan=number, phase=part.phase, operation=line)
                for number, part in enumerate(rehearsal.parts, start=1)
                for line in part.lines
            ]
        ),
        refused={str(key): reason for key, reason in rehearsal.refused.items()},
        warnings=rehearsal.warnings,
    )
    return as_json(document) + "\n"
