"""The ladder of modes: which are tried, what is said of those that will not do, and when one that runs is given up. Pure.

Where no mode is named, the best comes first and the first that can do everything needed is taken. A mode that is named stands
alone, unless a fallback is configured. Nobody climbs: what was passed over is tried again when the program starts again.
"""

from collections.abc import Sequence
from typing import Final

from proxy.errors import KernelError, ProxyError, Unsupported
from proxy.journal import Round
from proxy.model import Value

LEAST_ROUNDS: Final = 3
"""So many rounds in a row must have failed, however long that took: one that hangs is no proof."""


class Refusal(Value, frozen=True, kw_only=True):
    """Why a mode will not do: which primitive failed, and how; in the kernel's words where it had any."""

    mode: str
    primitive: str
    how: str = ""

    def __str__(self) -> str:
        return ": ".join(filter(None, (self.mode, self.primitive, self.how)))


def refusal(mode: str, error: ProxyError) -> Refusal:
    """Return what an error says of the mode that was tried."""
    if isinstance(error, Unsupported):
        return Refusal(mode=mode, primitive=error.feature, how=error.reason)
    if isinstance(error, KernelError):
        return Refusal(mode=mode, primitive=error.request, how=error.message)
    return Refusal(mode=mode, primitive=str(error))


def rungs(asked: str, fallback: str, automatic: Sequence[str]) -> tuple[str, ...]:
    """Return the modes to be tried, in this order; `asked` and `fallback` may be empty."""
    if not asked:
        return tuple(automatic)
    return tuple(dict.fromkeys(filter(None, (asked, fallback))))


def below(mode: str, modes: Sequence[str]) -> tuple[str, ...]:
    """Return the modes that come after one."""
    return tuple(modes[modes.index(mode) + 1 :]) if mode in modes else ()


def fallback_words(mode: str, passed_over: Sequence[Refusal]) -> str:
    """Return that a mode is not the one it should be, and why; nothing if it is."""
    if not passed_over:
        return ""
    better = ", ".join(dict.fromkeys([each.mode for each in passed_over]))
    return f"mode {mode} instead of {better}: {_listed(passed_over)}"


def nowhere_words(asked: str, fallback: str, refusals: Sequence[Refusal]) -> str:
    """Return that none of the modes will do, why, and what the operator may do about it."""
    listed = _listed(refusals)
    if not asked:
        return f"no mode can run here: {listed}"
    if fallback and fallback != asked:
        return f"neither mode {asked} nor its fallback {fallback} can run here: {listed}"
    if any("NET_ADMIN" in each.how for each in refusals):  # no mode can do without
        return f"mode {asked} cannot run here: {listed}"
    way_out = "leave `mode` empty to have the best that this host supports"
    if asked != "userspace":
        way_out += ", or set `fallback: userspace` in the file of --sliceproxy-config"
    return f"mode {asked} cannot run here: {listed}; {way_out}"


def _listed(refusals: Sequence[Refusal]) -> str:
    return "; ".join(map(str, refusals))


class Endurance:
    """How long nothing could be programmed, and whether that is long enough to give the mode up.

    What counts is `Round.trouble`: that the kernel refuses single ServicePorts is no reason, and neither is a mistake of
    our own, which another mode would meet too, nor that somebody else is in the way, which passes.
    """

    def __init__(self, limit_s: float) -> None:
        self.trouble = ""
        self._limit_s = limit_s
        self._rounds = 0
        self._since_s = 0.0

    def is_over(self, ended: Round) -> bool:
        """Take in a round that has ended; return whether it was the last that is endured. Then counting begins anew."""
        if not ended.trouble:
            if not ended.error:
                self._rounds = 0
            return False
        if not self._rounds:
            self._since_s = ended.started_s
        self._rounds += 1
        self.trouble = ended.trouble
        if self._rounds < LEAST_ROUNDS or ended.ended_s - self._since_s < self._limit_s:
            return False
        self._rounds = 0
        return True
