"""What a process does with its backend, step by step, and what must be so after each step."""

import asyncio
from collections.abc import Callable, Collection, Coroutine, Iterator
from typing import Any, TypeVar

from proxy.backend import Applied
from proxy.model import PortKey
from tests.contract.host import AnyBackend, Ground, Host
from tests.data_plane import wanted
from tests.desired_strategies import Ports, whole

T = TypeVar("T")


def run_on(ground: Ground, run: Callable[[Any], Coroutine[Any, Any, T]]) -> T:
    with ground.fresh() as host:
        return asyncio.run(run(host))


async def program(
    backend: AnyBackend, observed: Any, desired: Ports, keys: Collection[PortKey]
) -> Applied:
    """Plan some keys and apply the plan, and what is due some time after it."""
    applied = await backend.apply(backend.plan(whole(desired), observed, keys), observed)
    assert applied.failed == {}
    later, swept = applied, 0
    while later.again_s is not None:
        later = await backend.apply(backend.plan(whole(desired), observed, []), observed)
        assert later.failed == {}
        swept += later.operations
    assert swept or applied.again_s is None
    return applied


async def adopt(backend: AnyBackend, desired: Ports, *, parts: int = 1) -> Any:
    """Do what a process does that starts: observe, plan all keys in as many parts, prune."""
    observed = await backend.observe()
    for keys in _divided(desired, parts, observed):
        await program(backend, observed, desired, keys)
    applied = await backend.apply(backend.prune(whole(desired), observed), observed)
    assert applied.failed == {}
    while applied.again_s is not None:
        applied = await backend.apply(backend.plan(whole(desired), observed, []), observed)
        assert applied.failed == {}
    return observed


def _divided(desired: Ports, parts: int, observed: Any) -> Iterator[list[PortKey]]:
    keys = sorted(desired)
    size = len(keys) if observed.is_rebuild_due else -(-len(keys) // parts)
    for at in range(0, len(keys), max(size, 1)):
        yield keys[at : at + size]


async def begin(
    backend: AnyBackend, desired: Ports, parts: int, *, is_rehearsal: bool = False
) -> tuple[Any, list[str]]:
    """Do what a process does that starts, in its order, or only take all plans as carried out; return what they say as well."""
    observed = await backend.observe()
    said: dict[str, str] = {}

    async def take(plan: Any) -> Applied:
        for line in plan.describe():
            _step, _, words = line.partition(" ")
            # tried again, and in another step, where the kernel was not ready: it keeps a set that a rule has just left
            said.setdefault(words, line)
        applied = (
            backend.assume(plan, observed) if is_rehearsal else await backend.apply(plan, observed)
        )
        assert applied.failed == {}
        return applied

    for keys in _divided(desired, parts, observed):
        await take(backend.plan(whole(desired), observed, keys))
    applied = await take(backend.prune(whole(desired), observed))
    while applied.again_s is not None:
        applied = await take(backend.plan(whole(desired), observed, []))
    return observed, list(said.values())


async def check(host: Host, backend: AnyBackend, observed: Any, desired: Ports) -> None:
    """L1: belief is what is there, nothing is left to do, and the data plane does what is desired."""
    assert host.state(await host.read_back(backend, observed)) == host.state(observed)
    plan = backend.plan(whole(desired), observed, sorted(desired))
    assert not plan, plan.describe()
    assert not backend.prune(whole(desired), observed)
    assert host.behaviour(observed) == wanted(desired)


def changed(before: Ports, after: Ports) -> list[PortKey]:
    return sorted([k for k in before.keys() | after.keys() if before.get(k) != after.get(k)])
