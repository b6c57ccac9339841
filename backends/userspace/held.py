"""What is served for ServicePorts at this moment, in words, compared with belief: for somebody who looks. Shell."""

from backends.userspace.belief import Observed
from backends.userspace.engine import Engine
from backends.userspace.kernel import Facts
from backends.userspace.model import SERVED, Listening, Serving
from proxy.backend import Held
from proxy.model import PortKey


def look_at(key: PortKey, engine: Engine, observed: Observed, facts: Facts | None) -> Held:
    """Return what is held for one ServicePort. `facts` are what the kernel has, None to believe that."""
    serving = observed.serving.get(key)
    if serving is None:
        return Held(key=key)
    lines: list[str] = []
    differences: list[str] = []
    if key.name.protocol not in SERVED:
        lines.append(f"{key.name.protocol} cannot be forwarded here: not served")
    lines += [f"{f.kind} {f.address or 'node addresses'} port {f.port}" for f in serving.frontends]
    lines += _pools(serving)
    for place in observed.places.get(key, ()):
        listening = observed.listening[place]
        if engine.is_listening(place):
            lines.append(f"listens at {place}{_for_whom(listening)}")
        else:
            differences.append(f"nobody listens at {place}")
    lines += [
        f"cannot listen at {place} for now"
        for place, owner in observed.refused.items()
        if owner == key
    ]
    there = observed.routes.keys() if facts is None else facts.routes
    differences += [
        f"{address} is {'' if address in there else 'not '}local"
        for address in serving.addresses
        if (address in observed.routes) != (address in there)
    ]
    counts = engine.counts(key)
    if counts:
        lines.append(", ".join([f"{count} {name}" for name, count in counts.items()]))
    return Held(key=key, lines=tuple(lines), differences=tuple(differences))


def look_at_rest(observed: Observed, facts: Facts) -> Held:
    """Return what no ServicePort owns."""
    lines = [f"nothing at {cidr} but services" for cidr in sorted(facts.black_holes)]
    lines += [f"{address} is local" for address in sorted(facts.routes - observed.holders.keys())]
    differences = [
        f"{address} is local, and nobody asked for that"
        for address in sorted(facts.routes - observed.routes.keys())
    ]
    differences += [
        f"{address} is not local any more"
        for address in sorted(observed.routes.keys() - facts.routes)
        if address not in observed.holders
    ]
    if facts.black_holes != observed.black_holes.keys():
        differences.append(f"believed: nothing at {', '.join(sorted(observed.black_holes))}")
    if facts.host != observed.host:
        differences.append(f"believed of this host: {', '.join(sorted(observed.host))}")
    return Held(key=None, lines=tuple(lines), differences=tuple(differences))


def _pools(serving: Serving) -> list[str]:
    pools = {
        "from inside": serving.internal,
        "from outside": serving.outside,
        "from here": serving.here if serving.here != serving.outside else (),
    }
    return [f"{name}: {', '.join(map(str, pool))}" for name, pool in pools.items() if pool]


def _for_whom(listening: Listening) -> str:
    ranges, only_here, takes_node = listening.admission
    words = ["for the node itself"] if takes_node else []
    if ranges is not None:
        words.append(f"for {', '.join(ranges)}" if ranges else "for nobody: what comes is dropped")
    if only_here:
        words.append("for this node and its pods")
    return f" {' and '.join(words)}" if words else ""
