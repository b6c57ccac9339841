"""`python -m e2e.guest [--all | --run COMMAND …]`: run the selected tests, or a command, on a kernel with IPVS.

Where this kernel has IPVS they run right here. `make e2e-ipvs` and `make e2e-all` call this after `.ci/setup --guest`.
"""

import argparse
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

from e2e.capabilities import missing
from e2e.guest import machine, selection
from e2e.guest.kernel import GuestError
from e2e.guest.selection import Run

_PYTEST = (sys.executable, "-m", "pytest")
_LIMIT_OF_A_COMMAND_S = 15 * 60.0


def main(argv: list[str]) -> int:
    """The worst exit status of the tests, or the command's; 2 if there is no kernel to run them on."""
    options = _options(argv)
    reason = missing("ipvs")
    if options.is_needed:
        return 0 if reason else 1
    # so that qemu does not outlive us
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("guest: ended from outside"))
    if options.run:
        limit_s = options.limit_s or _LIMIT_OF_A_COMMAND_S
        return _run(options.run, Run([], limit_s, "1", options.processors), reason)
    selected = selection.everything() if options.all else selection.usual()
    return max(_run([*_PYTEST, *each.arguments], each, reason) for each in selected)


def _run(command: Sequence[str], how: Run, reason: str) -> int:
    """Run the command in the guest if there is a reason for it, else here, where nothing has to be spared."""
    if not reason:
        print(
            f"guest: not needed, this kernel has IPVS; running {shlex.join(command)}", flush=True
        )
        environment = selection.environment(os.environ, effort="1", patience="1")
        return subprocess.call(command, env={**os.environ, **environment})
    print(f"guest: booting one ({reason}); running {shlex.join(command)}", flush=True)
    begun_s = time.monotonic()
    environment = selection.environment(os.environ, how.effort, selection.PATIENCE)
    try:
        status = machine.run(command, environment, how.limit_s, how.processors)
    except GuestError as error:
        print(f"guest: {error}", file=sys.stderr)
        return 2
    took_s = time.monotonic() - begun_s
    print(f"guest: exit status {status} after {took_s:.0f} s with the boot", flush=True)
    return status


def _options(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m e2e.guest", description=__doc__)
    parser.add_argument("--all", action="store_true", help="all tests that are for this kernel")
    parser.add_argument(
        "--is-needed", action="store_true", help="status 0 if there is no IPVS here"
    )
    parser.add_argument(
        "--limit-s", type=float, help="how long the command may take, with the boot"
    )
    parser.add_argument("--processors", type=int, default=1, help="how many the guest has")
    parser.add_argument(
        "--run", nargs=argparse.REMAINDER, help="this command instead of the tests"
    )
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
