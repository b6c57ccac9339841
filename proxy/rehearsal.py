"""What a start would write, found out without writing any of it: the same plans in the same order, each taken as carried out.

Shell, but all it does is to read what is there. Listeners are of a process, not of the kernel: a new one opens all of its own.
"""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, Literal

from proxy import batches
from proxy.backend import Applied, Backend, Plan
from proxy.cache import Cache
from proxy.desired import DesiredState
from proxy.errors import ApiError, ConfigError
from proxy.explain import Document, as_json
from proxy.ladder import Refusal
from proxy.model import PortKey, Value
from proxy.sources.events import Event, Source

_LOOK_S: Final = 0.05
"""How often a source is asked whether anything is still to come."""

Phase = Literal["write", "remove", "sweep"]
_WORDS: Final[Mapping[Phase, str]] = {
    "write": "to be written",
    "remove": "to be removed: nothing asks for it",
    "sweep": "to be removed a moment later, when no packet is on its way through it",
}


class Part(Value, frozen=True, kw_only=True):
    """One plan, in the words of the data plane."""

    phase: Phase
    lines: tuple[str, ...]


class Rehearsal(Value, frozen=True, kw_only=True):
    """What a start in one mode would do for so many ServicePorts. `refused` could not be served, and why."""

    mode: str
    passed_over: tuple[Refusal, ...]
    node: str
    ports: int
    parts: tuple[Part, ...]
    refused: Mapping[PortKey, str]

    @property
    def operations(self) -> int:
        return sum([len(part.lines) for part in self.parts])


async def read_all(source: Source, cache: Cache, limit_s: float) -> None:
    """Fill the cache with everything there is now. Raises ConfigError, and ApiError if it takes longer than `limit_s`."""

    def deliver(events: Sequence[Event], received_s: float) -> None:
        cache.apply(events, received_s)

    async def wait_for_all() -> None:
        # of some kinds it is known only by asking whether there is anything to come
        while cache.unlisted or any(each.phase == "listing" for each in source.report()):  # noqa: ASYNC110
            await asyncio.sleep(_LOOK_S)

    reading = asyncio.ensure_future(source.run(deliver))
    waiting = asyncio.ensure_future(wait_for_all())
    both = [reading, waiting]
    done, _ = await asyncio.wait(both, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
    for task in both:
        task.cancel()
    await asyncio.wait(both)
    if not done:
        raise ApiError(_late_words(source, cache, limit_s))
    if reading in done:
        try:
            await reading
        except OSError as error:
            raise ConfigError(f"cannot read objects: {error}") from error
        if cache.unlisted:
            missing = ", ".join(sorted(cache.unlisted))
            raise ConfigError(f"what was read ended before it had listed every {missing}")


def _late_words(source: Source, cache: Cache, limit_s: float) -> str:
    missing = ", ".join(sorted(cache.unlisted)) or "ServiceCIDR"
    errors = dict.fromkeys([each.error for each in source.report() if each.error])
    return f"not every {missing} could be read within {limit_s:g} s: {'; '.join(errors) or 'no answer'}"


async def rehearse(
    backend: Backend[Any, Any], desired: DesiredState, node: str, passed_over: tuple[Refusal, ...]
) -> Rehearsal:
    """Return what a process that starts now would do. Raises KernelError if what is there cannot be read."""
    observed = await backend.observe()
    whole = desired.whole
    parts: list[Part] = []
    refused: dict[PortKey, str] = {}

    def take(phase: Phase, plan: Plan) -> Applied:
        if lines := plan.describe():
            parts.append(Part(phase=phase, lines=tuple(lines)))
        applied = backend.assume(plan, observed)
        refused.update(applied.failed)
        return applied

    keys = batches.most_urgent_first(list(whole.ports), whole.ports)
    for chunk in batches.divide(keys, whole.ports, lambda: batches.at_once(observed)):
        take("write", backend.plan(whole, observed, chunk))
    last = take("remove", backend.prune(whole, observed))
    while last.again_s is not None:
        last = take("sweep", backend.plan(whole, observed, []))
    return Rehearsal(
        mode=backend.name,
        passed_over=passed_over,
        node=node,
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
        yield f"{count} operation{'s' * (count != 1)}, none of which was carried out"
    else:
        yield "nothing to do: all of it is there, and nothing else of ours"


class OperationDocument(Document, frozen=True, kw_only=True):
    """One operation, in the words of the data plane; those of one plan follow each other."""

    plan: int
    phase: Phase
    operation: str


class RehearsalDocument(Document, frozen=True, kw_only=True):
    """What a start would do; `refused` is by ServicePort."""

    mode: str
    passed_over: tuple[str, ...]
    node: str
    service_ports: int
    operations: tuple[OperationDocument, ...]
    refused: dict[str, str]


def render_json(rehearsal: Rehearsal) -> str:
    """Return the same as one document."""
    document = RehearsalDocument(
        mode=rehearsal.mode,
        passed_over=tuple(map(str, rehearsal.passed_over)),
        node=rehearsal.node,
        service_ports=rehearsal.ports,
        operations=tuple(
            [
                OperationDocument(plan=number, phase=part.phase, operation=line)
                for number, part in enumerate(rehearsal.parts, start=1)
                for line in part.lines
            ]
        ),
        refused={str(key): reason for key, reason in rehearsal.refused.items()},
    )
    return as_json(document)
