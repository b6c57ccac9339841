"""Very many changes: slices that are written anew, again and again, at a given rate."""

import asyncio
import datetime
import itertools
import json
import time

from tests.apiserver.resources import SLICES
from tests.apiserver.store import Store

_TRIGGERED = "endpoints.kubernetes.io/last-change-trigger-time"


async def storm(store: Store, *, changes: int, rate: float = 0.0) -> float:
    """Flip the readiness of the first endpoint of one slice after the other; return the seconds it took.

    `rate` is in changes per second, 0 for as fast as possible. Each slice says when it was changed, as the controller's do.
    """
    names = itertools.cycle([item.key for item in store.items(SLICES)])
    begun_s = time.monotonic()
    for done, key in enumerate(itertools.islice(names, changes)):
        ahead_s = begun_s + done / rate - time.monotonic() if rate else 0.0
        if ahead_s > 0 or done % 64 == 63:
            await asyncio.sleep(max(0.0, ahead_s))
        item = store.get(SLICES, key)
        if item is None:
            continue
        obj = json.loads(item.encoded)
        for endpoint in (obj.get("endpoints") or ())[:1]:
            conditions = endpoint.setdefault("conditions", {})
            conditions["ready"] = not conditions.get("ready", True)
        obj["metadata"].setdefault("annotations", {})[_TRIGGERED] = _now()
        store.put(SLICES, obj)
    return time.monotonic() - begun_s


def _now() -> str:
    now = datetime.datetime.now(datetime.UTC)
    return now.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
