"""Whether the proxy keeps up, and what is not as it should be. Pure: the clock is an argument.

Health is about the age of work that is not done, as in kube-proxy: a proxy with nothing to do is healthy however long
ago it did something, and one whose changes do not reach the kernel is not, however busy it is.

`/healthz` and `/livez` answer what kube-proxy answers, since load balancers and probes are made for that. What else is
not as it should be is `degraded`: worth an operator's look, and no reason to take traffic away from the node.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final, Literal, get_args

import msgspec

from proxy.model import FAMILIES, Family, NodeInfo, Value
from proxy.sources.events import ObjectKind, WatchReport

Check = Literal[
    "lists", "first-sync", "node", "mode", "reconcile", "backlog", "quarantine", "leftovers", "contention", "watch"
]  # fmt: skip
"""What is looked at to find what is degraded; the words that metrics count by.

`lists`: every kind has been listed. `first-sync`: everything has been programmed once. `node`: the own Node is known, with
what is needed of it.
`mode`: the mode is the one asked for, or the best there is, and it can program. `reconcile`: the last round ended well. `backlog`: no change has waited too long. `quarantine`: the kernel refuses
nothing. `leftovers`: what nobody asks for is gone. `contention`: nobody undoes our repairs. `watch`: the API server
answers.
"""
CHECKS: Final[tuple[Check, ...]] = get_args(Check)

_NS: Final = 1_000_000_000
_NEVER: Final = "0001-01-01T00:00:00Z"  # how Go writes a time that was not set


PERIODS_TO_LATE: Final = 2.0
"""A change that waits longer than this many sync periods makes the proxy unhealthy, as in kube-proxy."""


class FamilyProgress(Value, frozen=True, kw_only=True):
    """How far one family is (monotonic seconds).

    `started_s`: when the loop began. `updated_s`: when a round last ended well; before the first, the same.
    `queued_s`: since when something waits that no round has brought to the kernel; None if nothing does.
    """

    started_s: float
    updated_s: float
    queued_s: float | None = None


class Progress:
    """Since when which family has waited for a round that ends well. Written by the reconciler."""

    def __init__(self) -> None:
        self._updated_s: dict[Family, float] = {}
        self._taken_s: dict[Family, float] = {}
        self._is_open = False
        self._started_s = 0.0

    def started(self, now_s: float) -> None:
        """Note that the loop runs. From now on families are reported, and healthy."""
        self._started_s = now_s
        self._updated_s = dict.fromkeys(FAMILIES, now_s)

    def opened(self, now_s: float) -> None:
        """Note that all lists are complete: from now on, and not before, there is something to do for all families."""
        self._is_open = True
        self._taken_s = dict.fromkeys(FAMILIES, now_s)

    def took(self, queued_s: Mapping[Family, float]) -> None:
        """Note that a round takes on what waited since then."""
        for family, since_s in queued_s.items():
            self._taken_s.setdefault(family, since_s)

    def touched(self, families: Iterable[Family]) -> tuple[Family, ...]:
        """Return the families of what was taken on and has not succeeded yet, and these."""
        touched = {*families, *self._taken_s}
        return FAMILIES if len(touched) == len(FAMILIES) else tuple(touched)

    def succeeded(self, families: Iterable[Family], now_s: float) -> None:
        """Note that a round did all that was taken on, for these families at least."""
        for family in (*families, *self._taken_s):
            self._updated_s[family] = now_s
        self._taken_s.clear()

    def families(self, queued_s: Mapping[Family, float]) -> dict[Family, FamilyProgress]:
        """Return how far each family is, given since when there are changes that no round has taken on."""
        waiting = {**queued_s, **self._taken_s} if self._is_open else {}
        return {
            family: FamilyProgress(
                started_s=self._started_s, updated_s=updated_s, queued_s=waiting.get(family)
            )
            for family, updated_s in self._updated_s.items()
        }


class Condition(Value, frozen=True, kw_only=True):
    """Everything about the reconciler that health depends on, at one time."""

    is_synced: bool
    unlisted: frozenset[ObjectKind]
    node: NodeInfo
    families: Mapping[Family, FamilyProgress]
    last_error: str = ""
    refused: int = 0
    leftovers: str = ""
    fallback: str = ""
    """Why the mode is not the one it should be, or stays although it can program nothing."""
    is_contended: bool = False
    uses_pod_cidrs: bool = False
    """Whether the Node has to say which sources are pods here."""


class Degraded(Value, frozen=True, kw_only=True):
    """One thing that is not as it should be: which check found it, and what it is in words."""

    code: Check
    words: str


class Clock(Value, frozen=True, kw_only=True):
    """One moment on both clocks: monotonic seconds, and nanoseconds since 1970."""

    monotonic_s: float
    unix_ns: int

    def rfc3339(self, at_s: float | None = None) -> str:
        """Return this moment, or the one that was `at_s` (monotonic seconds), as Go writes times.

        In UTC, with up to nine digits behind the point and no zeros at their end.
        """
        ago_ns = 0 if at_s is None else round((self.monotonic_s - at_s) * _NS)
        seconds, nanoseconds = divmod(self.unix_ns - ago_ns, _NS)
        text = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
        fraction = f".{nanoseconds:09d}".rstrip("0").rstrip(".")
        return f"{text}{fraction}Z"


def is_late(family: FamilyProgress, now_s: float, timeout_s: float) -> bool:
    """Whether something has waited too long for a round that ends well."""
    return family.queued_s is not None and now_s - family.queued_s >= timeout_s


def is_keeping_up(condition: Condition, now_s: float, timeout_s: float) -> bool:
    """Whether nothing of any family has waited too long: what kube-proxy calls a healthy service proxy."""
    return not any(is_late(each, now_s, timeout_s) for each in condition.families.values())


def is_eligible(node: NodeInfo) -> bool:
    """Whether load balancers should send traffic to this node at all."""
    return node.is_known and not node.leaving


def healthz(condition: Condition, clock: Clock, timeout_s: float) -> tuple[bool, bytes]:
    """Return whether the proxy is healthy and its node may have traffic, and what /healthz says."""
    return _answer(condition, clock, timeout_s, is_eligible(condition.node))


def livez(condition: Condition, clock: Clock, timeout_s: float) -> tuple[bool, bytes]:
    """Return whether the proxy is healthy, and what /livez says. A node that is going away is no reason to restart."""
    return _answer(condition, clock, timeout_s, None)


def _answer(
    condition: Condition, clock: Clock, timeout_s: float, eligible: bool | None
) -> tuple[bool, bytes]:
    """Return the verdict and the document. Its fields and their order are those of kube-proxy 1.36.

    `lastUpdated` is the current time wherever the answer is good: it once was when the loop last ran, idle or not, and
    clients still expect it to move. Of a bad answer it is when a family was last updated. `healthy` is about the
    families only.
    """
    now_s = clock.monotonic_s
    families = condition.families
    late = [family for family, each in families.items() if is_late(each, now_s, timeout_s)]
    is_good = not late and eligible is not False
    newest_s = max((each.updated_s for each in families.values()), default=None)
    updated = _NEVER if newest_s is None else clock.rfc3339(newest_s)
    document: dict[str, object] = {
        "lastUpdated": clock.rfc3339() if is_good else updated,
        "currentTime": clock.rfc3339(),
        "nodeEligible": eligible,
        "healthy": not late,
        "status": {
            family: {
                "lastUpdated": clock.rfc3339(families[family].updated_s),
                "healthy": family not in late,
            }
            for family in FAMILIES
            if family in families
        },
    }
    if eligible is None:
        del document["nodeEligible"]
    if not families:
        del document["status"]
    return is_good, msgspec.json.encode(document)


def degraded(
    condition: Condition, reports: Sequence[WatchReport], now_s: float, timeout_s: float
) -> list[Degraded]:
    """Return everything that is not as it should be, in the order of the checks.

    Objects that cannot be used are not among it: they are their authors' business, and counted.
    """
    found = list(_of_the_start(condition))
    if condition.last_error:
        found.append(("reconcile", condition.last_error))
    for family, each in condition.families.items():
        if each.queued_s is not None and is_late(each, now_s, timeout_s):
            waited_s = now_s - each.queued_s
            found.append(("backlog", f"changes of {family} have waited for {waited_s:.0f} s"))
    if condition.refused:
        found.append(("quarantine", f"{_ports(condition.refused)} refused by the kernel"))
    if condition.leftovers:
        found.append(("leftovers", f"could not be removed: {condition.leftovers}"))
    if condition.is_contended:
        found.append(("contention", "somebody keeps changing our objects"))
    found += [("watch", f"{each.kind}: {each.error}") for each in reports if each.error]
    return [Degraded(code=code, words=words) for code, words in found]


def _of_the_start(condition: Condition) -> Iterator[tuple[Check, str]]:
    """Yield what was not as it should be from the beginning."""
    if condition.unlisted and not condition.is_synced:
        yield "lists", f"waiting for the first list of {_listed(condition.unlisted)}"
    if not condition.is_synced:
        yield "first-sync", "not everything has been programmed yet"
    elif not condition.node.is_known:
        yield "node", "the own Node is not known: neither its zone nor its addresses"
    elif condition.uses_pod_cidrs and not condition.node.pod_cidrs:
        yield (
            "node",
            "detectLocalMode is NodeCIDR and the Node has no podCIDR: nothing counts as a local pod",
        )
    if condition.fallback:
        yield "mode", condition.fallback


def readyz(condition: Condition, found: Sequence[Degraded]) -> tuple[bool, str]:
    """Return whether everything has been programmed once, and what /readyz says: a line for each check.

    The lines are those that /readyz of the API server and other components has, `[+]` for good and `[-]` for bad: for
    people, who get them from `kubectl get --raw` or a probe's event. Programs find the same in /debug/state.
    """
    lines: list[str] = []
    for check in CHECKS:
        words = [each.words for each in found if each.code == check]
        lines += [f"[-]{check} failed: {each}" for each in words] or [f"[+]{check} ok"]
    verdict = "passed" if condition.is_synced else "failed"
    return condition.is_synced, "\n".join([*lines, f"readyz check {verdict}"]) + "\n"


def _listed(kinds: Iterable[ObjectKind]) -> str:
    return ", ".join(sorted(kinds))


def _ports(count: int) -> str:
    return "1 service port is" if count == 1 else f"{count} service ports are"
