"""From a source into the cache: for as long as the daemon lives, or until everything is there once. Shell."""

import asyncio
import contextlib
from collections.abc import Iterator, Sequence
from typing import Final

from proxy.cache import Cache
from proxy.errors import ApiError, ConfigError
from proxy.sources.events import KINDS, Deliver, Event, Source

OPTIONAL_S: Final = 5.0
"""How much longer is waited for what need not be there."""
_LOOK_S: Final = 0.05
"""How often a source is asked whether anything is still to come."""


async def feed(source: Source, deliver: Deliver, cache: Cache) -> None:
    """Have a source deliver until there can be no more. Raises ConfigError if it cannot, or ends too soon for this cache."""
    try:
        await source.run(deliver)
    except OSError as error:
        raise ConfigError(f"cannot read objects: {error}") from error
    if cache.unlisted:
        missing = ", ".join(sorted(cache.unlisted))
        raise ConfigError(f"the stream of watch events ended before it had listed every {missing}")


async def read_all(source: Source, cache: Cache, limit_s: float) -> list[str]:
    """Fill the cache with everything there is now, as far as it can be had, and return what is to be known about the rest.

    Raises ConfigError, and ApiError if it takes longer than `limit_s` and a start would not go on without what is missing.
    """

    is_listed = asyncio.Event()

    def deliver(events: Sequence[Event], received_s: float) -> None:
        cache.apply(events, received_s)
        if not cache.unlisted:
            is_listed.set()

    reading = asyncio.ensure_future(feed(source, deliver, cache))
    waiting = asyncio.ensure_future(_wait_for_all(is_listed, source))
    both = [reading, waiting]
    await asyncio.wait(both, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
    has_ended = reading.done()
    for task in both:
        task.cancel()
    await asyncio.wait(both)
    if has_ended:
        await reading
    missing = list(_missing(source, cache))
    if not cache.unlisted <= {"Node"}:
        files = [
            str(each) for found in cache.problems.values() for each in found if each.kind == "File"
        ]
        words = "; ".join([*missing, *files])
        raise ApiError(f"not everything could be read within {limit_s:g} s: {words}")
    return missing


async def _wait_for_all(is_listed: asyncio.Event, source: Source) -> None:
    await is_listed.wait()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(OPTIONAL_S):
            while any(_late(source)):  # noqa: ASYNC110 - a source tells this only when it is asked
                await asyncio.sleep(_LOOK_S)


def _late(source: Source) -> Iterator[str]:
    """Yield what need not be there and has not come yet, with the reason if there is one."""
    for report in source.report():
        if report.kind not in KINDS and (report.phase == "listing" or report.error):
            yield f"{report.kind}: {report.error or 'no answer'}"


def _missing(source: Source, cache: Cache) -> Iterator[str]:
    errors = {report.kind: report.error for report in source.report()}
    for kind in sorted(cache.unlisted):
        yield f"{kind}: {errors.get(kind) or 'no answer'}"
    yield from _late(source)
