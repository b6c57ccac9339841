"""The command `python -m e2e.demo`: sets the cluster up, plays the steps, removes everything, and tells the truth.

Exit status: 0 if every step had its effect and no connection failed, 1 if not, 128 + signal if it was told to stop.
The last line of a run that succeeds is `0 failed connections of N`.
"""

import argparse
import contextlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple, get_args

from e2e import without_netfilter
from e2e.capabilities import missing
from e2e.demo import board, slices, steps
from e2e.demo.clients import RATE, TIMEOUT_S, VIRTUAL
from e2e.demo.daemon import Daemon
from e2e.demo.interruption import Interrupted, Interruption
from e2e.demo.network import Network
from e2e.demo.screen import Piece, Screen
from e2e.demo.source import Source, SourceName
from e2e.demo.source import opened as open_source
from e2e.demo.stage import Stage, StepFailedError
from e2e.demo.tally import Tally
from e2e.namespace import RUN_ID, TopologyError


class Mode(NamedTuple):
    """What a mode needs, by capability, the command that lists what it has programmed, and what it can show."""

    needs: tuple[str, ...]
    listing: str
    script: Sequence[steps.Step] = steps.LASTING
    launcher: tuple[str, ...] = ()
    """A program that becomes the daemon, with its arguments."""
    remark: str = ""


MODES: Final[Mapping[str, Mode]] = {
    "nftables": Mode(("nftables",), "nft list ruleset"),
    "iptables": Mode(("iptables", "ipset"), "iptables-save"),
    "ipvs": Mode(("ipvs", "dummy", "nftables"), "ipvsadm --list --numeric"),
    "userspace": Mode(
        (),
        "ss --listening --tcp --numeric",
        steps.FORWARDING,
        (sys.executable, "-I", without_netfilter.__file__),
        "The kernel refuses this process everything of netfilter: nftables, iptables, ipset, conntrack.",
    ),
}
EXAMPLES = Path(__file__).parents[2] / "examples" / "demo"
_LOG_LINES = 40
_DRAWING = """\
  outside --- node-a ---+--- node-b  Three nodes in three zones, all with pods
              zone-a    |    zone-b  of the service shop/web. Clients reach them
                |       |            through node-a, where the real daemon runs:
              local     +--- node-c  {}
                             zone-c  {}
"""
_CLIENTS = f"""\
Two clients, `outside` the cluster and `local`, a pod on node-a, each open {RATE * 2:.0f} new connections a second, half of
them to {VIRTUAL.v4} and half to {VIRTUAL.v6}, from step 1 to the end. Each pod answers with its own name. A connection
that is refused, reset, unreachable or not answered within {TIMEOUT_S:g} s has failed. Times are what clients see: by
chance alone it takes them some ms to meet a new pod.
"""
_CLEANED = "Everything lives in network namespaces of this host and is removed at the end."


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m e2e.demo", description=__doc__)
    parser.add_argument("--fast", action="store_true", help="no pauses for the reader")
    parser.add_argument(
        "--source",
        choices=get_args(SourceName),
        default=os.environ.get("SOURCE") or "manifests",
        help="where the daemon has its objects from; default: SOURCE of the environment, or manifests",
    )
    parser.add_argument(
        "--mode",
        choices=MODES,
        default=os.environ.get("MODE") or "nftables",
        help="how the daemon programs the kernel; default: MODE of the environment, or nftables",
    )
    args = parser.parse_args(argv)
    if args.mode not in MODES:  # a default is not checked
        parser.error(f"MODE={args.mode}: choose from {', '.join(MODES)}")
    if args.source not in get_args(SourceName):  # a default is not checked
        parser.error(f"SOURCE={args.source}: choose from {', '.join(get_args(SourceName))}")
    with Interruption() as interruption, Screen.on_stdout() as screen:
        try:
            return _unless_interrupted(
                screen, interruption, args.source, args.mode, is_fast=args.fast
            )
        except Interrupted as interrupted:
            with contextlib.suppress(OSError):  # the terminal may be what has gone
                screen.print()  # a terminal has written ^C on this line
                screen.print(f"{interrupted}: stopped; everything is removed again")
            return 128 + interrupted.number
        except (StepFailedError, TopologyError) as error:
            screen.print(Piece(f"The demo failed: {error}", "red"))
            return 1
        except BrokenPipeError:  # whoever read our output has gone
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1


def _unless_interrupted(
    screen: Screen, interruption: Interruption, source: SourceName, mode: str, *, is_fast: bool
) -> int:
    """A signal may reach the programs we started first: then their end is no failure."""
    try:
        return _perform(screen, interruption, source, mode, is_fast=is_fast)
    except (StepFailedError, TopologyError):
        interruption.check()
        raise


def _perform(
    screen: Screen,
    interruption: Interruption,
    source_name: SourceName,
    mode: str,
    *,
    is_fast: bool,
) -> int:
    begun_s = time.monotonic()
    for needed in ("namespaces", *MODES[mode].needs):
        if reason := missing(needed):
            raise TopologyError(f"it cannot run here: {reason}")
        interruption.check()
    with tempfile.TemporaryDirectory(prefix="sliceproxy-demo-") as directory:
        manifests = Path(shutil.copytree(EXAMPLES, Path(directory) / "manifests"))
        zones = slices.zones(manifests / "nodes.yaml")
        with contextlib.ExitStack() as opened:
            network = opened.enter_context(Network(zones, interruption))
            node = network.home
            source = opened.enter_context(
                open_source(
                    source_name,
                    manifests=manifests,
                    node=node.namespace,
                    directory=Path(directory),
                )
            )
            _introduce(screen, source)
            network.start_pods(slices.listed_pods(manifests / "endpointslices.yaml"))
            log = Path(directory, "daemon.log")
            arguments = [
                *source.arguments,
                *("--sliceproxy-config", _configured(directory, mode)),
                *("--state-dir", str(Path(directory, "state"))),
            ]
            daemon = Daemon(node.namespace, node.name, arguments, log)
            daemon.launcher = [*MODES[mode].launcher]
            stage = Stage(
                source,
                network=network,
                hosts=network.add_clients(),
                daemon=daemon,
                listing=MODES[mode].listing,
                remark=MODES[mode].remark,
                screen=screen,
                interruption=interruption,
                is_fast=is_fast,
            )
            _play(stage, screen, MODES[mode].script)
    if leftovers := list(Path("/run/netns").glob(f"sp-{RUN_ID}*")):
        raise TopologyError(f"left behind: {', '.join(str(path) for path in leftovers)}")
    return conclude(screen, stage.tally, stage.latencies_s, time.monotonic() - begun_s)


def _configured(directory: str, mode: str) -> str:
    """Write our own configuration file; what it says of the mode counts, whatever else says something."""
    file = Path(directory, "sliceproxy.conf")
    kind = {"apiVersion": "sliceproxy/v1alpha1", "kind": "SliceProxyConfiguration"}
    file.write_text(json.dumps({**kind, "mode": mode}))
    return str(file)


def _introduce(screen: Screen, source: Source) -> None:
    screen.print(
        Piece("sliceproxy: the pods of a service come and go, no connection fails", "bold")
    )
    screen.print()
    for line in _DRAWING.format(*source.told).splitlines():
        screen.print(line)
    screen.print()
    for paragraph in (_CLIENTS, _CLEANED):
        for line in board.wrapped(paragraph, screen.width):
            screen.print(line)


def _play(stage: Stage, screen: Screen, script: Sequence[steps.Step]) -> None:
    """All steps, and why it went wrong if it did: what the daemon has logged goes away with its namespace."""
    try:
        steps.play(stage, script)
    except (StepFailedError, TopologyError):
        screen.leave()
        stage.end_load()
        _show_log(stage, screen)
        raise
    finally:
        screen.leave()
        stage.end_load()
    if stage.tally.failures:
        _show_log(stage, screen)


def _show_log(stage: Stage, screen: Screen) -> None:
    screen.print()
    for line in board.failures(stage.tally.failures, stage.begun_s):
        screen.print(*line)
    screen.print("The end of what the daemon has logged:")
    for text in stage.daemon.log()[-_LOG_LINES:]:
        screen.print(f"  {text}")


def conclude(screen: Screen, tally: Tally, latencies_s: Sequence[float], took_s: float) -> int:
    """Tell what came of it, once all is removed, and return the exit status."""
    screen.print()
    screen.print(*board.latencies(latencies_s))
    for line in board.pace(tally):
        screen.print(*line)
    screen.print(f"Took {took_s:.0f} s. Namespaces, processes and files are removed again.")
    screen.print(*board.verdict(tally))
    return 1 if tally.failures else 0


if __name__ == "__main__":
    sys.exit(main())
