"""Which packets came to the node, and which of them got past all rules: that nothing came back alone proves little.

A table of the test's own notes source ports from FIRST_PORT on, which are given out once in a run: `seen` before any
rule of mangle or nat, `passed` where a packet reaches a program on the node or is about to leave it, `bare` if it
does so untranslated. What reaches a program over loopback has left before, and may have a source port that is not its
own by now. Notes fade after a while, so that reading them stays cheap.
"""

import itertools
import json
from typing import Any, Final

from e2e.topology import Host
from tests.effort import patience_s

FIRST_PORT: Final = 61000  # past the ports that programs are given
_LAST_PORT: Final = 65535
_KEPT_S: Final = int(patience_s(45))
_TABLE: Final = "flows-watch"
_NOTED: Final = f"meta l4proto {{ tcp, udp, sctp }} ct direction original th sport >= {FIRST_PORT}"
_SET: Final = f"{{ type inet_service; flags dynamic,timeout; timeout {_KEPT_S}s; size 65536; }}"
_RULES: Final = f"""
table inet {_TABLE} {{
    set seen {_SET}
    set passed {_SET}
    set bare {_SET}
    chain note-seen {{ {_NOTED} update @seen {{ th sport }}; }}
    chain note-passed {{
        {_NOTED} update @passed {{ th sport }}
        {_NOTED} ct status & dnat == 0 update @bare {{ th sport }}
    }}
    chain entering {{ type filter hook prerouting priority -160; policy accept; jump note-seen; }}
    chain sending {{ type filter hook output priority -160; policy accept; jump note-seen; }}
    chain arriving {{ type filter hook input priority 300; policy accept; iif != "lo" jump note-passed; }}
    chain leaving {{ type filter hook postrouting priority 99; policy accept; jump note-passed; }}
}}
"""


class Notes:
    """What the table has noted."""

    def __init__(self, seen: set[int], passed: set[int], bare: set[int]) -> None:
        self.seen = seen
        self.passed = passed
        self.bare = bare


class Watch:
    """The table on a node, for as long as the node lives."""

    def __init__(self, node: Host) -> None:
        self._node = node
        self._ports = itertools.cycle(range(FIRST_PORT, _LAST_PORT + 1))
        node.namespace.run(["nft", "-f", "-"], stdin=_RULES)

    def port(self) -> int:
        """A source port that is noted, and that nobody else has for a long time."""
        return next(self._ports)

    def notes(self) -> Notes:
        """Everything noted in the last seconds."""
        listed = self._node.namespace.run(["nft", "-j", "list", "table", "inet", _TABLE])
        sets = [each["set"] for each in json.loads(listed)["nftables"] if "set" in each]
        ports = {each["name"]: {_port(one) for one in each.get("elem", ())} for each in sets}
        return Notes(ports["seen"], ports["passed"], ports["bare"])


def _port(element: Any) -> int:
    return int(element["elem"]["val"])
