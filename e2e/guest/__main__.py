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

from e2e.capabilities import missing
from e2e.guest import machine, selection
from e2e.guest.kernel import GuestError


def main(argv: list[str]) -> int:
    """Exit status of the tests or the command; 2 if there is no kernel to run them on."""
    options = _options(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that qemu does not outlive us
    reason = "" if options.in_guest else missing("ipvs")
    if options.is_needed:
        return 0 if reason else 1
    command = options.run or [sys.executable, "-m", "pytest", *_selected(options)]
    limit_s = selection.LIMIT_OF_EVERYTHING_S if options.all else selection.LIMIT_S
    if not reason and not options.in_guest:
        print("guest: this kernel has IPVS, so it is not needed", flush=True)
        return subprocess.call(command, env={**os.environ, **selection.environment(os.environ)})
    try:
        return _in_guest(command, options.limit_s or limit_s, reason)
    except GuestError as error:
        print(f"guest: {error}", file=sys.stderr)
        return 2


def _in_guest(command: list[str], limit_s: float, reason: str) -> int:
    print(
        f"guest: booting one ({reason or 'as asked for'}); running {shlex.join(command)}",
        flush=True,
    )
    begun_s = time.monotonic()
    status = machine.run(command, selection.environment(os.environ), limit_s)
    took_s = time.monotonic() - begun_s
    print(
        f"guest: exit status {status} after {took_s:.0f} s with the boot, of {limit_s:.0f} s",
        flush=True,
    )
    return status


def _selected(options: argparse.Namespace) -> list[str]:
    return selection.everything() if options.all else selection.usual()


def _options(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m e2e.guest", description=__doc__)
    parser.add_argument("--all", action="store_true", help="all tests that are for this kernel")
    parser.add_argument(
        "--is-needed", action="store_true", help="status 0 if this kernel has no IPVS"
    )
    parser.add_argument(
        "--in-guest", action="store_true", help="boot it even if this kernel has IPVS"
    )
    parser.add_argument("--limit-s", type=float, help="how long it may take, with the boot")
    parser.add_argument(
        "--run", nargs=argparse.REMAINDER, help="this command instead of the tests"
    )
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
