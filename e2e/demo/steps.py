"""The script of the demo: what is changed, in which order, and what the clients must see of it.

A pod ends only after it has left the slices and the clients were seen not to reach it any more, as in a cluster, where
a pod serves until its grace period is over. From then on its address is unreachable: a connection that is still sent
there fails, and is counted.
"""

import shlex
import time
from collections.abc import Callable, Sequence

from e2e.client import Failure
from e2e.demo.clients import PORT, VIRTUAL, converse_with
from e2e.demo.slices import Pod
from e2e.demo.stage import Stage, StepFailedError

Step = tuple[str, Callable[[Stage], None]]


def play(stage: Stage, steps: Sequence[Step]) -> None:
    """Run all steps. Raises StepFailedError for the first that has not the effect it shows."""
    for number, (text, step) in enumerate(steps, start=1):
        stage.title(number, len(steps), text)
        step(stage)


def start(stage: Stage) -> None:
    """From nothing to three pods that answer; the load begins here."""
    command = shlex.join(["sliceproxy", *stage.daemon.arguments])
    stage.say(f"$ {command}", ending=" \\")
    if stage.remark:
        stage.say(stage.remark)
    started_s = stage.daemon.start()
    operations = operations_when_synced(stage)
    stage.measured("daemon started", "says it is ready after", time.monotonic() - started_s)
    stage.say(f"It made {operations} objects in the kernel. To see them meanwhile:")
    stage.say(f"ip netns exec {stage.network.home.namespace.name} {stage.listing}")
    begun_s = time.monotonic()
    stage.begin_load()
    stage.until_only(*stage.pods, since_s=begun_s)
    stage.watch(3.0)
    stage.show()


def roll_out(stage: Stage) -> None:
    """Each pod is replaced by a new one on the same node: in first, then out."""
    stage.say("As a Deployment does it: the new pod is listed, then the old one is not.")
    for old in stage.pods:
        new = stage.start_pod(old.node)
        joined_s = stage.change(ready=[new])
        stage.joined(f"{new.name} joins in {new.zone}", new, joined_s)
        stage.until_only(*stage.pods, since_s=joined_s)
        stage.watch(0.5)
        left_s = stage.change(gone=[old])
        stage.until_only(*stage.pods_but(old), since_s=left_s)
        stage.left(f"{old.name} leaves", old, left_s)
        stage.stop_pods(old)
    stage.watch(2.0)
    stage.show()


def drain(stage: Stage) -> None:
    """A terminating pod gets nothing new, but what is open goes on until the pod ends."""
    stage.say("A pod that was told to end is listed as terminating, and still serves.")
    leaving = pod_in(stage, "zone-b")
    with converse_with(leaving, stage.hosts, stage.tally) as conversation:
        terminating_s = stage.change(terminating=[leaving])
        stage.until_only(*stage.pods_but(leaving), since_s=terminating_s)
        stage.left(f"{leaving.name} is terminating", leaving, terminating_s)
        stage.watch(2.0)
        stage.show()
        gone_s = stage.change(gone=[leaving])
        stage.until_only(*stage.pods_but(leaving), since_s=gone_s)
        try:
            conversation.ask()
        except OSError as error:
            raise StepFailedError(
                f"an open connection to {leaving.name} broke: {error}"
            ) from error
        stage.say(f"{leaving.name} is gone from the slices; a connection from before still works.")
    stage.stop_pods(leaving)


def empty_zone(stage: Stage) -> None:
    """Hints keep traffic in the zone; when nobody is left there, it may leave it again."""
    stage.say("Hints say which zone an endpoint is for; node-a is in zone-a.")
    nearest = pod_in(stage, "zone-a")
    distant = stage.start_pod("node-b")
    joined_s = stage.change(ready=[distant])
    stage.joined(f"{distant.name} joins in {distant.zone}", distant, joined_s)
    stage.until_only(*stage.pods, since_s=joined_s)
    hinted_s = stage.change(is_hinted=True)
    stage.until_only(nearest, since_s=hinted_s)
    stage.left(f"hints on: {distant.name} is for {distant.zone}", distant, hinted_s)
    stage.watch(1.5)
    stage.show()
    emptied_s = stage.change(gone=[nearest], is_hinted=True)
    stage.joined(f"{nearest.name} leaves: {distant.name} helps out", distant, emptied_s)
    stage.until_only(*stage.pods_but(nearest), since_s=emptied_s)
    stage.stop_pods(nearest)
    stage.watch(1.5)
    stage.show()


def fall_back(stage: Stage) -> None:
    """With no ready pod left, terminating ones that serve are better than none (KEP-1669)."""
    stage.say("While no pod is ready, one that is ending but serves is better than none.")
    first, second = stage.pods
    first_s = stage.change(terminating=[first])
    stage.until_only(second, since_s=first_s)
    stage.left(f"{first.name} is terminating", first, first_s)
    second_s = stage.change(terminating=[second])
    stage.joined(f"{second.name} too: {first.name} serves again", first, second_s)
    stage.until_only(first, second, since_s=second_s)
    stage.watch(1.5)
    stage.show()
    replacements = [stage.start_pod("node-a"), stage.start_pod("node-b")]
    ready_s = stage.change(ready=replacements)
    for pod in replacements:
        stage.joined(f"{pod.name} joins in {pod.zone}", pod, ready_s)
    stage.until_only(*replacements, since_s=ready_s)
    for pod in (first, second):
        stage.left(f"{pod.name} is not needed any more", pod, ready_s)
    gone_s = stage.change(gone=[first, second])
    stage.until_only(*replacements, since_s=gone_s)
    stage.stop_pods(first, second)
    stage.watch(1.0)


def crash(stage: Stage) -> None:
    """Rules outlive the daemon; a new one takes them over and writes only what changed meanwhile."""
    staying, leaving = stage.pods
    process_id = stage.daemon.kill()
    killed_s = time.monotonic()
    stage.say(f"kill -9 {process_id}: the rules in the kernel go on serving.")
    coming = stage.start_pod("node-c")
    stage.change(ready=[coming], gone=[leaving])
    stage.say(
        f"Slices change while nobody reads them: {coming.name} joins, {leaving.name} leaves."
    )
    stage.until_only(staying, leaving, since_s=killed_s)
    stage.watch(2.0)
    stage.show_bars()
    started_s = stage.daemon.start()
    stage.measured(
        f"daemon started again: {coming.name} joins",
        "first answer after",
        stage.until_answer(coming, started_s),
    )
    stage.until_only(staying, coming, since_s=started_s)
    stage.left(f"{leaving.name} leaves", leaving, started_s)
    operations = operations_when_synced(stage)
    stage.say(f"It took over the rules it found: only {operations} operations were needed.")
    stage.stop_pods(leaving)
    stage.watch(2.0)
    stage.show()


def stop(stage: Stage) -> None:
    """An orderly end changes nothing for the clients either."""
    status = stage.daemon.terminate()
    stopped_s = time.monotonic()
    if status != 0:
        raise StepFailedError(f"the daemon ended with exit status {status} after SIGTERM")
    stage.say("It ended with exit status 0. Its rules stay, and go on serving.")
    stage.watch(2.0)
    stage.until_only(*stage.pods, since_s=stopped_s)
    stage.show()


def upgrade(stage: Stage) -> None:
    """Where the daemon itself forwards, the next one takes over before the old one goes."""
    staying, leaving = stage.pods
    coming = stage.start_pod("node-c")
    with converse_with(staying, stage.hosts, stage.tally) as conversation:
        before = stage.daemon.log_count(_PROGRAMMED)
        started_s = stage.daemon.start_beside()
        stage.until(
            lambda: stage.daemon.log_count(_PROGRAMMED) > before,
            "a second daemon was to take over, and did not",
        )
        stage.measured("a second daemon", "has taken over after", time.monotonic() - started_s)
        stage.daemon.tell_old_to_stop()
        stage.say("The old one was told to stop: it accepts nobody, and lets connections end.")
        changed_s = stage.change(ready=[coming], gone=[leaving])
        stage.joined(f"{coming.name} joins", coming, changed_s)
        stage.until_only(staying, coming, since_s=changed_s)
        stage.watch(2.0)
        if stage.daemon.old_status() is not None:
            raise StepFailedError("the old daemon was to wait for an open connection")
        try:
            conversation.ask()
        except OSError as error:
            raise StepFailedError(f"a connection through the old daemon broke: {error}") from error
    stage.until(lambda: stage.daemon.old_status() is not None, "the old daemon was to end")
    if status := stage.daemon.old_status():
        raise StepFailedError(f"the old daemon ended with exit status {status} after SIGTERM")
    stage.say("A connection from before went on; with its end the old one has ended, too.")
    stage.stop_pods(leaving)
    stage.watch(1.0)
    stage.show()


def stop_forwarding(stage: Stage) -> None:
    """Where the daemon itself forwards, nobody is served without it, and it leaves nothing half-open."""
    stage.say("In this mode all traffic goes through the daemon, so the clients stop first.")
    stage.end_load()
    status = stage.daemon.terminate()
    if status != 0:
        raise StepFailedError(f"the daemon ended with exit status {status} after SIGTERM")
    refused = {name: host.ask(VIRTUAL.v4, PORT) for name, host in stage.hosts.items()}
    if any(outcome is not Failure.REFUSED for outcome in refused.values()):
        raise StepFailedError(f"connections were to be refused without a daemon: {refused}")
    stage.say("It ended with exit status 0. New connections are refused at once.")


_PROGRAMMED = "service ports in"
_AS_LONG_AS_IT_RUNS: Sequence[Step] = (
    ("Start the daemon on node-a", start),
    ("Roll out: three new pods replace the old ones, one by one", roll_out),
    ("Drain a pod", drain),
    ("Zone hints keep traffic in zone-a, until zone-a is empty", empty_zone),
    ("No pod is ready: terminating ones stand in", fall_back),
)
LASTING: Sequence[Step] = (
    *_AS_LONG_AS_IT_RUNS,
    ("Kill the daemon, change pods meanwhile, start it again", crash),
    ("Stop the daemon with SIGTERM", stop),
)


FORWARDING: Sequence[Step] = (
    *_AS_LONG_AS_IT_RUNS,
    ("Upgrade: a second daemon takes over, the first one is told to stop", upgrade),
    ("Stop the daemon with SIGTERM", stop_forwarding),
)
"""Where the daemon forwards connections itself; otherwise its work lasts without it."""


def operations_when_synced(stage: Stage) -> int:
    """What the daemon has written so far, once it says on its own page that everything is programmed."""
    written: list[int] = []

    def is_synced() -> bool:
        state = stage.daemon.state()
        if state is not None and state["synced"]:
            written.append(state["kernel"]["operations"])
        return bool(written)

    stage.until(is_synced, "the daemon was to program the service, and did not")
    return written[0]


def pod_in(stage: Stage, zone: str) -> Pod:
    """The oldest pod in that zone."""
    return next(pod for pod in stage.pods if pod.zone == zone)
