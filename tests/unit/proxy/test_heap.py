import asyncio
import gc
from collections.abc import Iterator

import pytest

from proxy import heap


@pytest.fixture(autouse=True)
def undone() -> Iterator[None]:
    thresholds = gc.get_threshold()
    yield
    gc.unfreeze()
    gc.set_threshold(*thresholds)
    gc.enable()


def test_no_garbage_is_looked_for_until_everything_is_loaded() -> None:
    seen: list[bool] = []

    async def main() -> None:
        is_loaded = asyncio.Event()
        resting = asyncio.create_task(heap.rest_until(is_loaded))
        await asyncio.sleep(0)
        seen.append(gc.isenabled())
        is_loaded.set()
        await resting

    asyncio.run(main())

    assert seen == [False]
    assert gc.isenabled()
    assert gc.get_freeze_count() > 0


def test_loading_that_takes_long_does_not_go_on_without_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(heap, "COLLECT_AT_LATEST_S", 0.0)
    seen: list[bool] = []

    async def main() -> None:
        is_loaded = asyncio.Event()
        resting = asyncio.create_task(heap.rest_until(is_loaded))
        while not gc.isenabled() or not seen:
            seen.append(gc.isenabled())
            await asyncio.sleep(0)
        assert gc.get_freeze_count() == 0
        is_loaded.set()
        await resting

    asyncio.run(main())

    assert gc.get_freeze_count() > 0


def test_when_the_proxy_ends_before_it_is_loaded_garbage_is_looked_for_again() -> None:
    async def main() -> None:
        resting = asyncio.create_task(heap.rest_until(asyncio.Event()))
        await asyncio.sleep(0)
        resting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await resting

    asyncio.run(main())

    assert gc.isenabled()
    assert gc.get_freeze_count() == 0
