"""One scenario from beginning to end: each step's objects into the kernel, then all its flows at the same time."""

import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, NamedTuple

from e2e.flows import associating, checking, exceptions, tracing
from e2e.flows.answering import Asking, got_past
from e2e.flows.checking import Asked
from e2e.flows.objects import Objects
from e2e.flows.questions import Job, Question, jobs
from e2e.flows.scenario import Feature, Scenario, ScenarioError
from e2e.flows.stage import Stage
from e2e.flows.tally import Tally

_AT_A_TIME: Final = 48
_TRACED: Final = 2
_SHOWN: Final = 12


class FlowError(AssertionError):
    """Flows of a step did not go as they must, in words, with the way of some packets."""


class _Wrong(NamedTuple):
    question: Question
    text: str


class Runner:
    """Runs scenarios on a stage, one after the other."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self._asking = Asking(stage.ground, stage.watch)
        self._names = frozenset(stage.ground.hosts)

    def run(
        self, feature: Feature, scenario: Scenario, tally: Tally, *, is_traced: bool = True
    ) -> None:
        """Raises FlowError for the first step in which something goes wrong, with or without the way of packets."""
        self._asking.forget()
        self._asking.is_process = exceptions.hides_source(self.stage.variant)
        objects = Objects(self.stage.allocator, self.stage.ground.addresses, feature.objects)
        for number, step in enumerate(scenario.steps, 1):
            title = f"step {number}" + (f" ({step.name})" if step.name else "")
            try:
                objects.change(step)
                rendered = objects.render()
                asked = jobs(step.flows, objects, self._names)
                checked = [
                    each
                    for check in step.checks
                    for each in checking.questions(check, objects, self._names)
                ]
            except ScenarioError as error:
                raise ScenarioError(
                    f"{feature.feature}: {scenario.name}: {title}: {error}"
                ) from error
            self.stage.ground.change_addresses(step.gains, step.loses)
            with checking.taken(
                self.stage, objects.health_check_node_ports if step.is_taken else ()
            ):
                self.stage.put(rendered)
            # for what the kernel forgets by itself, and nobody says when it has
            time.sleep(step.after_s)
            complaints = self._check(checked, tally)
            if complaints:
                raise FlowError(
                    "\n".join([f"{title}: {len(complaints)} checks went wrong", *complaints])
                )
            wrong = self._ask(asked, tally)
            if wrong:
                raise FlowError(self._report(title, wrong, _TRACED if is_traced else 0))

    def _check(self, checked: Iterable[Asked], tally: Tally) -> list[str]:
        ground = self.stage.ground
        with ThreadPoolExecutor(_AT_A_TIME) as threads:
            found = [threads.submit(checking.complaint, ground, each) for each in checked]
            tally.checks += len(found)
            return [f"  {text}" for done in found if (text := done.result())]

    def _ask(self, asked: Iterable[Job], tally: Tally) -> list[_Wrong]:
        by_packet = [job for job in asked if job[0].protocol == "SCTP"]
        by_socket = [job for job in asked if job[0].protocol != "SCTP"]
        before = next(self._asking.connections)
        with ThreadPoolExecutor(_AT_A_TIME) as threads:
            spoken = [job for job in by_socket if job[0].flow.outcome is None]
            silent = [job[0] for job in by_socket if job[0].flow.outcome is not None]
            # what waits for silence begins first
            noted = [(q, threads.submit(self._asking.unanswered, q)) for q in silent]
            answers = [(job[0], threads.submit(self._asking.answered, job)) for job in spoken]
            wrong = [_Wrong(q, text) for q, done in answers for text in done.result()]
            ports = [(q, *done.result()) for q, done in noted]
        forgetting = [(q, self._asking.unforgotten(q.flow)) for job in by_socket for q in job]
        wrong += [_Wrong(question, text) for question, text in forgetting if text]
        for (question,) in by_packet:
            if question.flow.outcome is None:
                found = associating.answered(self.stage.ground, self.stage.watch, question)
                wrong += [_Wrong(question, text) for text in found]
            else:
                sent = associating.unanswered(self.stage.ground, self.stage.watch, question)
                ports.append((question, sent, ""))
        if ports:
            notes = self.stage.watch.notes()
            for question, sent, text in ports:
                is_process = self._asking.is_process
                if complaint := text or got_past(question, sent, notes, is_process=is_process):
                    wrong.append(_Wrong(question, f"{question}: {complaint}"))
        tally.connections += next(self._asking.connections) - before - 1
        for job in (*by_socket, *by_packet):
            for question in job:
                tally.flows += 1
                tally.by_family[question.family] = tally.by_family.get(question.family, 0) + 1
        return wrong

    def _report(self, title: str, wrong: list[_Wrong], traced: int) -> str:
        lines = [f"{title}: {len(wrong)} flows went wrong"]
        lines += [f"  {each.text}" for each in wrong[:_SHOWN]]
        if len(wrong) > _SHOWN:
            lines.append(f"  and {len(wrong) - _SHOWN} more")
        for each in wrong[:traced]:
            lines.append(f"the way of the packet when {each.question}:")
            lines += [f"  {line}" for line in tracing.path(self.stage.ground, each.question)]
        return "\n".join(lines)
