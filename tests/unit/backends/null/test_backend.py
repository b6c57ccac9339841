"""What it says of itself. That it keeps the laws of proxy/backend.py: tests/contract."""

import asyncio

from backends.null.backend import NullBackend, NullObserved
from tests.desired_strategies import desired_state, make_desired, whole

WEB = make_desired("default/web", "10.1.0.1:80")


def test_it_remembers_and_forgets_and_touches_nothing() -> None:
    backend, observed = NullBackend(), NullObserved()

    remembering = backend.plan(whole(desired_state(WEB)), observed, [WEB.key])
    applied = asyncio.run(backend.apply(remembering, observed))
    forgetting = backend.prune(whole({}), observed)

    assert remembering.describe() == ["remember default/web (TCP, IPv4)"]
    assert (applied.operations, applied.failed) == (1, {})
    assert observed.ports == {WEB.key: WEB}
    assert forgetting.describe() == ["forget default/web (TCP, IPv4)"]
    asyncio.run(backend.apply(forgetting, observed))
    assert observed.ports == {}


def test_there_is_nothing_to_find_or_to_remove() -> None:
    backend, observed = NullBackend(), NullObserved()

    assert asyncio.run(backend.verify(observed)) == []
    assert not backend.has_foreign_change(observed)
    assert asyncio.run(backend.cleanup()) == 0
    assert asyncio.run(backend.observe()).ports == {}
