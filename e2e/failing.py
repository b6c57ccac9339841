"""Programs that stand before those of iptables in the path and sometimes fail, each in a way of its own. Shell.

A program takes one text after the other (`backends/kernel/xtables_fed.py`) or only one to its end, and so does what stands before
it, which ends when the program does. A text is refused because of a line in the middle that nobody can take; or the program is killed before it has done
anything, while it works, or when all is done; or another program holds the lock (legacy; the nft flavour takes none). What comes
of it is what the real program makes of it. How each text ended is noted.
"""

import shutil
import sys
from collections import Counter
from pathlib import Path
from typing import Final

from backends.kernel.xtables_text import Flavour

ONE_OF: Final = 3
"""One of so many texts fails, by chance."""
KINDS: Final = ("line", "midst", "after", "before", "lock")
"""In which way, in turn."""
_WRAPPER: Final = """#!{python} -IS
import fcntl, os, random, select, signal, subprocess, sys, time

HERE, REAL, KINDS, ONE_OF = {here!r}, {real!r}, {kinds!r}, {one_of!r}
arguments = sys.argv[1:]
arguments[arguments.index("--wait") + 1] = "1"  # the lock is not held for longer than it has to be
real = subprocess.Popen([REAL, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def note(kind):
    with open(HERE + "/log", "a") as log:
        log.write(kind + "\\n")


def chosen():
    if os.path.exists(HERE + "/quiet") or random.randrange(ONE_OF):
        return "done"
    with open(HERE + "/log") as log:
        return KINDS[sum(line != "done\\n" for line in log) % len(KINDS)]


def give(lines):
    real.stdin.write(b"".join(lines))
    real.stdin.flush()


def killed(kind):
    real.kill()
    real.wait()
    note(kind)
    os.kill(os.getpid(), signal.SIGKILL)


def pass_on(lines, kind, is_last=False):
    if kind == "before":
        killed(kind)
    if kind == "line":
        lines.insert(random.randrange(1, len(lines) - 1), b"-A NOBODY-HAS-THIS -j RETURN\\n")
    if kind == "lock":
        lock = open(os.environ["XTABLES_LOCKFILE"], "a")
        fcntl.flock(lock, fcntl.LOCK_EX)
    give(lines)
    if is_last:
        real.stdin.close()
    if kind == "midst":
        time.sleep(random.randrange(10) / 1000)
        killed(kind)
    answer = real.stdout.readline()  # to the comment behind the COMMIT; nothing if the program has ended
    while answer and answer != lines[-1]:
        answer = real.stdout.readline()
    if kind == "after":
        killed(kind)
    note(kind)
    if not answer:
        sys.exit(real.wait())
    sys.stdout.buffer.write(answer)
    sys.stdout.flush()


def next_line(is_first):
    # the real one may end between two texts, and who keeps it has to see that
    if is_first and real.stdout in select.select([sys.stdin, real.stdout], [], [])[0]:
        sys.exit(real.wait())  # it says nothing unasked
    return sys.stdin.buffer.readline()


text = []
while line := next_line(not text):
    text.append(line)
    if line.startswith(b"#"):
        if len(text) == 1:  # it asks whether anybody is there
            give(text)
            sys.stdout.buffer.write(real.stdout.readline())
            sys.stdout.flush()
        else:
            pass_on(text, chosen())
        text = []
if text:  # it was started for this one alone
    pass_on(text, chosen(), is_last=True)
real.stdin.close()
sys.exit(real.wait())
"""


class FailingPrograms:
    """Wrappers of one flavour's `iptables-restore` and `ip6tables-restore` in a directory, which is to be first in the path.

    Needs XTABLES_LOCKFILE in the environment of who calls them.
    """

    def __init__(self, directory: Path, flavour: Flavour) -> None:
        directory.mkdir()
        self.directory = directory
        self._log = directory / "log"
        self._quiet = directory / "quiet"
        self._log.touch()
        self.work()
        kinds = KINDS if flavour is Flavour.LEGACY else KINDS[:-1]
        for stem in ("iptables", "ip6tables"):
            name = f"{stem}-{flavour}-restore"
            wrapper = directory / name
            wrapper.write_text(
                _WRAPPER.format(
                    python=sys.executable,
                    here=str(directory),
                    real=shutil.which(name),
                    kinds=kinds,
                    one_of=ONE_OF,
                )
            )
            wrapper.chmod(0o755)

    def fail(self) -> None:
        """Have texts fail from now on."""
        self._quiet.unlink()

    def work(self) -> None:
        """Have no text fail from now on, as at the beginning."""
        self._quiet.touch()

    def ended(self) -> Counter[str]:
        """How often texts ended in which way."""
        return Counter(self._log.read_text().split())
