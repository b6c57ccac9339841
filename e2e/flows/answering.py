"""One question asked, and whether what came back is what must happen.

Endpoints are known by the name they answer with. Asking goes on until each of them has answered, and for a while longer
where somebody else could. What must not be answered is asked from a source port that the watch notes, and judged
when all flows of the step are over.
"""

import collections
import itertools
import math
import time
from collections.abc import Iterable, Mapping
from typing import Final

from e2e import client
from e2e.client import Answer, Failure
from e2e.flows.ground import Ground
from e2e.flows.questions import Job, Question
from e2e.flows.scenario import Flow
from e2e.flows.watching import Notes, Watch
from tests.effort import examples, patience_s

ANSWER_S: Final = patience_s(10.0)
REFUSAL_S: Final = patience_s(0.5)
SILENCE_S: Final = 0.5
"""How long nothing has to come back: before a second SYN, which is due after 1 s."""
_OWN_PORTS: Final = range(
    10300, 32768
)  # past the daemon's, and up to those that programs are given
_SURE: Final = examples(8)
"""Connections after which an endpoint that must not answer, and gets half of them, is seen in 255 of 256 cases."""
_ALONE: Final = examples(5)
_TRIES_EACH: Final = 40
_SPREAD: Final = examples(250)
_STICKY: Final = examples(6)

Said = Answer | Failure | str
"""What came of a connection; a word where not even sending was allowed."""
FORBIDDEN: Final = "forbidden"
_MUST_BE: Final[Mapping[str, Said]] = {"rejected": Failure.REFUSED, "dropped": Failure.TIMEOUT}


class Asking:
    """Asks, on a ground with a watch. Used from many threads, each with questions of its own."""

    def __init__(self, ground: Ground, watch: Watch) -> None:
        self.connections = itertools.count()
        self.is_process = False
        """Whether a process on the node serves: endpoints see the node, and what is not served has come to the node itself."""
        self._ground = ground
        self._watch = watch
        # no source port is used twice by a host: connection tracking remembers where datagrams were sent
        self._ports = {
            host.namespace.name: itertools.cycle(_OWN_PORTS) for host in ground.hosts.values()
        }
        self._remembered: dict[object, str] = {}
        self._asked_s: dict[object, float] = {}
        """Just before a sticky client asked for the last time."""
        self._moved: set[str] = set()

    def forget(self) -> None:
        """Another scenario begins: its words for sticky clients are its own."""
        self._remembered.clear()
        self._asked_s.clear()
        self._moved.clear()

    def answered(self, job: Job) -> list[str]:
        """Ask questions somebody must answer. Return what is wrong."""
        if job[0].flow.sticky:
            return self._sticky(job)
        return [text for question in job for text in self._answers(question)]

    def unanswered(self, question: Question) -> tuple[list[int], str]:
        """Ask what nobody must answer. Return the noted source ports, and what is wrong so far."""
        outcome = question.flow.outcome
        assert outcome is not None
        # ICMP errors are limited by the kernel, resets are not
        tries = 3 if outcome == "rejected" and question.protocol == "TCP" else 1
        ports = [self._watch.port() for _ in range(tries)]
        timeout_s = REFUSAL_S if outcome == "rejected" else SILENCE_S
        said = [self._ask(question, port, timeout_s) for port in ports]
        allowed: set[Said] = {*said} if outcome == "untouched" else {_MUST_BE[outcome]}
        if question.asker == "node" and question.protocol != "TCP":
            # the kernel fails the call that sends what a rule of the output hook does not let pass, and says no more
            allowed.add(FORBIDDEN)
        if set(said) <= allowed:
            return ports, ""
        return ports, f"must be {outcome}, got {_tally(said)}"

    def _answers(self, question: Question) -> list[str]:
        wanted = {*question.flow.endpoints}
        enough = _SPREAD if question.flow.spread else (_SURE if len(wanted) > 1 else _ALONE)
        tally: collections.Counter[str] = collections.Counter()
        for count in itertools.count(1):
            said = self._ask(question, self._own_port(question), ANSWER_S)
            if complaint := self._complaint(question, said):
                return [f"{question}: connection {count}: {complaint}"]
            assert isinstance(said, Answer)
            tally[said.name] += 1
            if count >= enough and tally.keys() == wanted:
                break
            if count >= max(enough, _TRIES_EACH * len(wanted)):
                silent = ", ".join(sorted(wanted - tally.keys()))
                return [
                    f"{question}: {silent} never answered in {count} connections: {_tally(tally)}"
                ]
        if question.flow.spread and (text := uneven(tally)):
            return [f"{question}: {text}"]
        return []

    def _sticky(self, job: Job) -> list[str]:
        """All questions of a job, turn by turn, have to reach the same endpoint."""
        key, flows = job[0].memory, [question.flow for question in job]
        before = self._remembered.get(key)
        is_forgotten = any(flow.forgotten for flow in flows)
        is_served = all(before in flow.endpoints for flow in flows)
        remembered = before if is_served and not is_forgotten else None
        for question in [*job] * _STICKY:
            now_s, last_s = time.monotonic(), self._asked_s.get(key, math.inf)
            said = self._ask(question, self._own_port(question), ANSWER_S)
            if complaint := self._complaint(question, said):
                return [f"{question}: {complaint}"]
            assert isinstance(said, Answer)
            self._asked_s[key] = now_s
            if remembered is None or time.monotonic() - last_s >= question.flow.lasts_s:
                remembered = said.name
            elif said.name != remembered:
                return [f"{question}: {said.name} answered, the client had {remembered}"]
        if remembered is not None:
            self._remembered[key] = remembered
        if is_forgotten and remembered != before:
            self._moved.add(job[0].flow.sticky)
        return []

    def unforgotten(self, flow: Flow) -> str:
        """What is wrong with a flow that says the memory of its clients has ended: that none has moved."""
        if not flow.forgotten or flow.sticky in self._moved:
            return ""
        return f"{', '.join(flow.askers)}: every client got the endpoint it had before"

    def _complaint(self, question: Question, said: Said) -> str:
        if not isinstance(said, Answer):
            return f"{_word(said)}; {_wanted(question)}"
        hides = self.is_process and question.is_for_service
        return mismatch(self._ground, question, said.name, said.source, hides_source=hides)

    def _own_port(self, question: Question) -> int:
        return next(self._ports[self._ground.hosts[question.asker].namespace.name])

    def _ask(self, question: Question, source_port: int, timeout_s: float) -> Said:
        next(self.connections)
        with self._ground.hosts[question.asker].entered():
            try:
                return client.ask(
                    question.protocol.lower(),
                    question.address,
                    question.port,
                    timeout_s=timeout_s,
                    source_port=source_port,
                )
            except PermissionError:
                return FORBIDDEN


def mismatch(
    ground: Ground,
    question: Question,
    name: str,
    client_address: str,
    *,
    hides_source: bool = False,
) -> str:
    """What is wrong with being answered by that host, which has seen the client under that address.

    Where the backend hides sources it must have been an address of the node, however it is asked for.
    """
    if name not in question.flow.endpoints:
        return f"{name} answered; {_wanted(question)}"
    source = question.flow.source_at(name)
    if source is None:
        return ""
    if hides_source:
        source = "masqueraded"
    seen_as = ground.seen_as(source, question.asker, name, question.family)
    if client_address == seen_as:
        return ""
    return f"{name} sees {client_address}; {source}, it must be {seen_as}"


def got_past(
    question: Question, ports: Iterable[int], notes: Notes, *, is_process: bool = False
) -> str:
    """What the watch has to say against a question that nobody must answer; nothing if all is well.

    Where a process on the node serves there are no rules to get past: what comes to the node may be refused or dropped there.
    """
    untouched = question.flow.outcome == "untouched"
    may_arrive = is_process and question.is_for_service
    for port in ports:
        if port not in notes.seen:
            return "the packet never came to the node"
        if untouched and port not in notes.bare:
            return "must pass untouched, " + (
                "but was translated" if port in notes.passed else "but was stopped"
            )
        if not untouched and port in notes.passed and not may_arrive:
            how = "untranslated" if port in notes.bare else "translated"
            return f"must be {question.flow.outcome}, but the packet got past all rules, {how}"
    return ""


def uneven(tally: Mapping[str, int]) -> str:
    """What is wrong with a spread, by chi-square; wrong once in some 100,000 runs by chance."""
    expected = sum(tally.values()) / len(tally)
    chi_square = sum((seen - expected) ** 2 / expected for seen in tally.values())
    freedom = len(tally) - 1
    if freedom < 1:
        return ""
    # Wilson and Hilferty's approximation of the quantile 4.3 standard deviations out
    bound = freedom * (1 - 2 / (9 * freedom) + 4.3 * (2 / (9 * freedom)) ** 0.5) ** 3
    if chi_square <= bound:
        return ""
    return f"unevenly spread: {_tally(tally)}, chi-square {chi_square:.1f} > {bound:.1f}"


def _wanted(question: Question) -> str:
    return f"{' or '.join(question.flow.endpoints)} must answer"


def _tally(said: Iterable[Said] | Mapping[str, int]) -> str:
    counted = collections.Counter(said if isinstance(said, Mapping) else map(_word, said))
    return ", ".join(f"{word} {count} times" for word, count in sorted(counted.items()))


def _word(said: Said) -> str:
    if isinstance(said, Answer):
        return f"an answer of {said.name}"
    return said.value if isinstance(said, Failure) else said
