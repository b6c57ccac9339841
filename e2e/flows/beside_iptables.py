"""A program that becomes the daemon, one whose mode ipvs finds no nftables: its side rules are in iptables and ipset.

`python -I beside_iptables.py python -I -m proxy run …`
"""

import sys
from typing import Any

import backends
from backends.ipvs import backend as module
from proxy.cli import main


class BesideIptables(module.IpvsBackend):
    """Told so, as nothing in the configuration can."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, side="iptables", **named)


if __name__ == "__main__":
    backends.FACTORIES["ipvs"] = lambda settings, _: BesideIptables.from_settings(settings)
    sys.argv[1:] = sys.argv[sys.argv.index("proxy") + 1 :]
    sys.exit(main())
