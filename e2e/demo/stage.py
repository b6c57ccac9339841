"""What every step of the demo uses: change the slices, wait for what the clients see of it, tell the audience."""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping

from e2e.demo import board, explanation, slices
from e2e.demo.board import Row
from e2e.demo.clients import Clients
from e2e.demo.daemon import Daemon
from e2e.demo.interruption import Interruption
from e2e.demo.network import Network
from e2e.demo.screen import Line, Piece, Screen
from e2e.demo.slices import Listing, Pod
from e2e.demo.source import Source
from e2e.demo.tally import Tally
from e2e.topology import Host

SERVICE = "shop/web"
_TICK_S = 0.05
_REDRAW_S = 0.1
_EFFECT_LIMIT_S = 30.0
# at its rate, every client meets every pod many times in this time
_SETTLED_S = 0.25


class StepFailedError(Exception):
    """A step did not have the effect that it shows."""


class Stage:
    """The cluster as the script sees it, the clients' experience, and the audience.

    `listing` is the command that lists what the daemon has programmed, `remark` what is special about how it does.
    """

    def __init__(
        self,
        source: Source,
        *,
        network: Network,
        hosts: Mapping[str, Host],
        daemon: Daemon,
        listing: str,
        remark: str,
        screen: Screen,
        interruption: Interruption,
        is_fast: bool,
    ) -> None:
        self.network = network
        self.daemon = daemon
        self.listing = listing
        self.remark = remark
        self.screen = screen
        self.tally = Tally()
        self.hosts = hosts
        self._clients: Clients | None = None
        self.latencies_s: list[float] = []
        self.begun_s = time.monotonic()
        self._source = source
        self._interruption = interruption
        self._is_fast = is_fast
        self._drawn_s = 0.0
        self._is_gap_due = False
        listed = slices.listed_pods(source.directory / "endpointslices.yaml")
        self._started = len(listed)
        self._running = {pod.name: pod for pod in listed}
        self._listings = {pod.name: Listing(pod, "ready") for pod in listed}

    @property
    def pods(self) -> list[Pod]:
        """The pods that run, oldest first."""
        return list(self._running.values())

    def pods_but(self, *others: Pod) -> list[Pod]:
        """The pods that run, without these."""
        return [pod for pod in self.pods if pod not in others]

    def start_pod(self, node: str) -> Pod:
        """A new pod of the service, which no slice lists yet."""
        self._started += 1
        pod = self.network.start_pod(f"web-{self._started}", node)
        self._running[pod.name] = pod
        return pod

    def stop_pods(self, *pods: Pod) -> None:
        """End pods. Whoever still sends connections there sees them fail."""
        for pod in pods:
            del self._running[pod.name]
            self.network.stop_pod(pod)

    def change(
        self,
        *,
        ready: Iterable[Pod] = (),
        terminating: Iterable[Pod] = (),
        gone: Iterable[Pod] = (),
        is_hinted: bool = False,
    ) -> float:
        """Replace the slices and return when. A pod that is not named stays as it is, but hints are for all or none."""
        for pod in gone:
            del self._listings[pod.name]
        self._listings |= {pod.name: Listing(pod, "ready") for pod in ready}
        self._listings |= {pod.name: Listing(pod, "terminating") for pod in terminating}
        listings = [each._replace(is_hinted=is_hinted) for each in self._listings.values()]
        return self._source.change(listings)

    def begin_load(self) -> None:
        """Have the clients ask, from now until `end_load`."""
        self._clients = Clients(self.hosts, self.tally)

    def end_load(self) -> None:
        """Let the connections in flight end, and count them. Raises TopologyError if a client broke."""
        clients, self._clients = self._clients, None
        if clients is not None:
            clients.stop()

    def until(self, is_true: Callable[[], bool], complaint: str) -> None:
        """Return when it is true. Raises StepFailedError, with the complaint, if that takes too long."""
        deadline_s = time.monotonic() + _EFFECT_LIMIT_S
        while not is_true():
            if time.monotonic() > deadline_s:
                raise StepFailedError(f"{complaint} within {_EFFECT_LIMIT_S:g} s")
            self._tick()

    def until_answer(self, pod: Pod, since_s: float) -> float:
        """Wait for the first answer that came from the pod after `since_s`; return the seconds between."""
        self.until(
            lambda: self.tally.first_answer_s(pod.name, since_s) is not None,
            f"{pod.name} was to answer, and did not",
        )
        # another client may have had an answer earlier, and we hear of it later
        self._tick()
        answer_s = self.tally.first_answer_s(pod.name, since_s)
        assert answer_s is not None
        return answer_s - since_s

    def until_only(self, *pods: Pod, since_s: float) -> None:
        """Wait until, for a moment after `since_s`, all clients had answers of all these pods and of no other."""
        wanted = {pod.name for pod in pods}

        def is_settled() -> bool:
            end_s = time.monotonic()
            begin_s = end_s - _SETTLED_S
            answers = self.tally.answers(begin_s, end_s)
            return begin_s > since_s and self._is_seen_by_all(answers, wanted)

        names = ", ".join(sorted(wanted))
        self.until(is_settled, f"{names} and nobody else were to answer, and did not")

    def _is_seen_by_all(self, answers: dict[str, Counter[str]], wanted: set[str]) -> bool:
        clients = self._clients.names if self._clients else frozenset()
        return answers.keys() == clients and all(
            seen.keys() == wanted for seen in answers.values()
        )

    def watch(self, seconds: float) -> None:
        """Time for the reader, and for the clients to meet what goes wrong late."""
        end_s = time.monotonic() + (0.0 if self._is_fast else seconds)
        while time.monotonic() < end_s:
            self._tick()

    def _tick(self) -> None:
        self._interruption.pause(_TICK_S)
        self.daemon.check()
        if self._clients is not None:
            self._clients.count()
            if time.monotonic() - self._drawn_s > _REDRAW_S:
                self.screen.draw(self._bars())
                self._drawn_s = time.monotonic()

    def title(self, number: int, count: int, text: str) -> None:
        """Begin a step."""
        self._is_gap_due = True
        elapsed_s = time.monotonic() - self.begun_s
        self.tell(board.heading(number, count, text, elapsed_s, self.screen.width))

    def say(self, text: str, *, ending: str = "") -> None:
        """Tell something in words. `ending` stands at the end of each line but the last."""
        room = self.screen.width - len(board.INDENT)
        for line in board.wrapped(text, room, ending=ending):
            self.tell([Piece(board.INDENT + line)])

    def measured(self, what: str, until: str, seconds: float) -> None:
        """Tell what was done, and how long it took."""
        self.tell(board.measured(what, until, seconds, self.screen.width))

    def tell(self, line: Line) -> None:
        """Print a line, apart from what was shown before."""
        if self._is_gap_due:
            self.screen.print()
            self._is_gap_due = False
        self.screen.print(*line)

    def joined(self, what: str, pod: Pod, since_s: float) -> None:
        """Wait for the pod's first answer after the change, and tell how long it took."""
        seconds = self.until_answer(pod, since_s)
        self.latencies_s.append(seconds)
        self.measured(what, "first answer after", seconds)

    def left(self, what: str, pod: Pod, since_s: float) -> None:
        """Tell how long after the change the last connection was begun that the pod still got."""
        last_s = self.tally.last_begun_s(pod.name) or 0.0
        seconds = max(0.0, last_s - since_s)
        self.measured(what, "last connection after", seconds)

    def show_bars(self) -> None:
        """Leave the bars as they are now."""
        self.screen.keep(self._bars())
        self._is_gap_due = True

    def show(self) -> None:
        """Leave the bars as they are now, with what sliceproxy says of it below."""
        self.show_bars()
        text = explanation.explain(self._source.directory, SERVICE, self.network.home.name)
        lines = explanation.trim(text, self.screen.width - len(board.INDENT) - 2)
        for line in board.explained(SERVICE, lines):
            self.screen.print(*line)

    def _bars(self) -> list[Line]:
        now_s = time.monotonic()
        answers = board.answers_by_pod(self.tally.answers(now_s - 1.0, now_s))
        rows = [Row(pod, self._state(pod), answers[pod.name]) for pod in self.pods]
        return board.bars(rows, self.tally, self.screen.width, has_blocks=self.screen.has_blocks)

    def _state(self, pod: Pod) -> str:
        listing = self._listings.get(pod.name)
        return listing.state if listing else "-"
