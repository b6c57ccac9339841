"""The command `python -m e2e.demo`: sets the cluster up, plays the steps, removes everything, and tells the truth.

Exit status: 0 if every step had its effect and no connection failed, 1 if not, 128 + signal if it was told to stop.
The last line of a run that succeeds is `0 failed connections of N`.
"""

import argparse
import contextlib
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from e2e.capabilities import missing
from e2e.demo import board, slices, steps
from e2e.demo.clients import PORT, RATE, TIMEOUT_S, VIRTUAL
from e2e.demo.daemon import Daemon
from e2e.demo.interruption import Interrupted, Interruption
from e2e.demo.network import Network
from e2e.demo.screen import Piece, Screen
from e2e.demo.stage import SERVICE, Stage, StepFailedError
from e2e.namespace import RUN_ID, TopologyError

EXAMPLES = Path(__file__).parents[2] / "examples" / "demo"
_LOG_LINES = 40
_DRAWING = """\
    outside --- node-a -+- node-b     Everything runs in network namespaces on this host: a client
                zone-a  |  zone-b     outside, three nodes in three zones, pods of the service on
                 |      |             each, and a client that is a pod itself. node-a runs the real
               local    +- node-c     daemon, which reads Services and EndpointSlices from files
                           zone-c     and programs the kernel.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m e2e.demo", description=__doc__)
    parser.add_argument("--fast", action="store_true", help="no pauses for the reader")
    args = parser.parse_args(argv)
    for needed in ("namespaces", "nftables"):
        if reason := missing(needed):
            print(f"The demo cannot run here: {reason}", file=sys.stderr)
            return 1
    with Interruption() as interruption, Screen.on_stdout() as screen:
        try:
            return _perform(screen, interruption, is_fast=args.fast)
        except Interrupted as interrupted:
            with contextlib.suppress(OSError):  # the terminal may be what has gone
                screen.print(f"{interrupted}: stopped; everything is removed again")
            return 128 + interrupted.number
        except (StepFailedError, TopologyError) as error:
            screen.print(Piece(f"The demo failed: {error}", "red"))
            return 1


def _perform(screen: Screen, interruption: Interruption, *, is_fast: bool) -> int:
    begun_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="sliceproxy-demo-") as directory:
        manifests = Path(shutil.copytree(EXAMPLES, Path(directory) / "manifests"))
        zones = slices.zones(manifests / "nodes.yaml")
        with Network(zones, interruption) as network:
            _introduce(screen)
            network.start_pods(slices.listed_pods(manifests / "endpointslices.yaml"))
            node = network.home
            stage = Stage(
                manifests,
                network=network,
                hosts=network.add_clients(),
                daemon=Daemon(node.namespace, node.name, manifests, Path(directory, "daemon.log")),
                screen=screen,
                interruption=interruption,
                is_fast=is_fast,
            )
            _play(stage, screen)
    if leftovers := list(Path("/run/netns").glob(f"sp-{RUN_ID}*")):
        raise TopologyError(f"left behind: {', '.join(str(path) for path in leftovers)}")
    return _conclude(stage, screen, time.monotonic() - begun_s)


def _introduce(screen: Screen) -> None:
    screen.print(Piece(f"{SERVICE}: its pods come and go, and no connection fails", "bold"))
    screen.print("")
    for line in _DRAWING.splitlines():
        screen.print(line)
    screen.print("")


def _play(stage: Stage, screen: Screen) -> None:
    """All steps, and why it went wrong if it did: what the daemon has logged goes away with its namespace."""
    try:
        steps.play(stage)
    except (StepFailedError, TopologyError):
        stage.end_load()
        _show_log(stage, screen)
        raise
    finally:
        stage.end_load()
    if stage.tally.failures:
        _show_log(stage, screen)


def _show_log(stage: Stage, screen: Screen) -> None:
    screen.print("")
    for line in board.failures(stage.tally.failures, stage.begun_s):
        screen.print(*line)
    screen.print("The end of what the daemon has logged:")
    for text in stage.daemon.log()[-_LOG_LINES:]:
        screen.print(f"  {text}")


def _conclude(stage: Stage, screen: Screen, took_s: float) -> int:
    failed = len(stage.tally.failures)
    screen.print("")
    if stage.latencies_s:
        screen.print(*board.latencies(stage.latencies_s))
    screen.print(*board.pace(stage.tally, stage.load_begun_s, stage.load_ended_s))
    screen.print(f"Took {took_s:.0f} s; namespaces, processes and files are removed again.")
    screen.print(
        Piece(f"{failed} failed connections of {stage.tally.total}", "red" if failed else "green")
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
