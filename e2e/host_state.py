"""What tests must leave as they found it on the host: links, named namespaces, rulesets."""

import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from e2e.namespace import RUN_ID, run

# a run beside this one makes and removes namespaces of its own
_OF_ANOTHER_RUN = re.compile(rf"sp-(?!{RUN_ID})[0-9a-f]+")
_COUNTERS = re.compile(r"\[\d+:\d+\]")


def host_state() -> Mapping[str, list[str]]:
    """Links, namespaces and rules of the namespace that the calling thread is in, without what changes by itself."""
    return {
        "links": sorted(re.findall(r"^\d+: ([^:@]+)", run(["ip", "-o", "link"]), re.MULTILINE)),
        "namespaces": sorted(
            entry.name
            for entry in Path("/run/netns").glob("*")
            if not _OF_ANOTHER_RUN.match(entry.name)
        ),
        "nftables": _rules(["nft", "--stateless", "list", "ruleset"]),
        "iptables": _rules(["iptables-save"]),
        "ip6tables": _rules(["ip6tables-save"]),
    }


def differences(before: Mapping[str, list[str]], after: Mapping[str, list[str]]) -> list[str]:
    """One line for everything that came (+) or went (-)."""
    return [
        f"{sign} {kind}: {line.strip()}"
        for kind in before
        for sign, here, there in (
            ("-", before[kind], after[kind]),
            ("+", after[kind], before[kind]),
        )
        for line in here
        if line not in there
    ]


def _rules(argv: list[str]) -> list[str]:
    if not shutil.which(argv[0]):
        return []
    # iptables-save prints the time in comments, and counters that any packet moves
    return [_COUNTERS.sub("", line) for line in run(argv).splitlines() if not line.startswith("#")]
