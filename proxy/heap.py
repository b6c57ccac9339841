"""When Python looks for garbage: little of what a daemon makes is in cycles, and looking takes long. Shell.

A change makes thousands of objects that reference counting frees and no cycles; looking for some costs a quarter of it.
What was loaded at start lives as long as the process and need never be looked at again.
"""

import asyncio
import gc
from typing import Final

YOUNG_OBJECTS: Final = 50_000
COLLECT_AT_LATEST_S: Final = 60.0


async def rest_until(is_loaded: asyncio.Event) -> None:
    """Look for no garbage while everything is loaded, unless that takes long, and freeze what was loaded."""
    gc.disable()
    try:
        async with asyncio.timeout(COLLECT_AT_LATEST_S):
            await is_loaded.wait()
    except TimeoutError:
        gc.enable()
        await is_loaded.wait()
    finally:
        gc.enable()
    freeze()


def freeze() -> None:
    """Exempt all that exists now from garbage collection, and look for cycles less often from now on.

    Without looking for garbage first: among a million objects that takes a fifth of a second, in which no change
    reaches the kernel, and what it would find from the start is a few hundred kilobytes once.
    """
    gc.enable()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, 20, 20)
