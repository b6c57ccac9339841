"""Programs that stand before those of iptables in the path and sometimes fail, each in a way of its own. Shell.

A call is refused because of a line in the middle that nobody can take; or killed before it has done anything, while it
works, or when all is done; or another program holds the lock (legacy; the nft flavour takes none). What comes of it is what
the real program makes of it. How each call ended is noted.
"""

import shutil
from collections import Counter
from pathlib import Path
from typing import Final

from backends.kernel.xtables_text import Flavour

ONE_OF: Final = 5
"""One of so many calls fails, by chance."""
KINDS: Final = ("line", "midst", "after", "before", "lock")
"""In which way, in turn."""
_WRAPPER: Final = """#!/bin/bash
here={here} real={real}
end() {{ echo "$1" >> "$here/log"; }}
kinds=({kinds}) kind=none
[[ -e "$here/quiet" ]] || (( RANDOM % {one_of} )) ||
    kind=${{kinds[$(grep -vc done "$here/log") % ${{#kinds[@]}}]}}
case $kind in
none) end done; exec "$real" "$@" ;;
line)
    mapfile -t lines
    at=$(( 1 + RANDOM % (${{#lines[@]}} - 1) ))
    end line
    printf '%s\\n' "${{lines[@]:0:at}}" "-A NOBODY-HAS-THIS -j RETURN" "${{lines[@]:at}}" | "$real" "$@"
    exit ;;
before) end before; kill -KILL $$ ;;
midst)
    "$real" "$@" <&0 &
    sleep "0.00$(( RANDOM % 10 ))"
    kill -KILL $!
    end midst; kill -KILL $$ ;;
after) "$real" "$@"; end after; kill -KILL $$ ;;
lock)
    end lock
    exec {{lock}}<>"$XTABLES_LOCKFILE"; flock "$lock"
    exec "$real" --noflush --wait 1 ;;
esac
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
                    here=directory, real=shutil.which(name), one_of=ONE_OF, kinds=" ".join(kinds)
                )
            )
            wrapper.chmod(0o755)

    def fail(self) -> None:
        """Have calls fail from now on."""
        self._quiet.unlink()

    def work(self) -> None:
        """Have no call fail from now on, as at the beginning."""
        self._quiet.touch()

    def ended(self) -> Counter[str]:
        """How often calls ended in which way."""
        return Counter(self._log.read_text().split())
