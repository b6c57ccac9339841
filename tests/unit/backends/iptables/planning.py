"""Beliefs of a small world, plans for it, and a kernel on paper that carries them out. Shared by the tests of planning."""

from collections.abc import Iterator, Mapping, Sequence

from backends.iptables.adopt import adopt
from backends.iptables.belief import Observed
from backends.iptables.layout import IptablesSettings, Layout
from backends.iptables.model import TABLES, IptablesPlan, SetStep, Step, TableStep
from backends.iptables.plan import plan
from backends.iptables.prune import prune
from backends.kernel.ipset_objects import IpSet, Member
from backends.kernel.xtables_text import Chain, Flavour, parse_save
from proxy.desired import Desired, DesiredPort, Frontend
from proxy.model import FAMILIES, Family
from tests.desired_strategies import desired_state, make_desired, whole
from tests.fakes.packets import Fates, Host, Packet
from tests.fakes.xtables import XtablesKernel
from tests.model_builders import make_key

LAYOUT = Layout(IptablesSettings(families=("IPv4",), cluster_cidrs=("10.244.1.0/24",)))
BOTH = Layout(
    IptablesSettings(families=FAMILIES, cluster_cidrs=("10.244.1.0/24", "fd00:10:244:1::/64"))
)
WEB = make_key("default/web")
A, B, C, D, E, F = (f"10.244.1.{number}:80" for number in range(1, 7))
VIP = Frontend("LoadBalancer", "203.0.113.1", 80)
OWN: Mapping[Family, str] = {"IPv4": "192.0.2.1", "IPv6": "2001:db8:1::1"}


class World:
    """A kernel on paper: it refuses what the kernel would, and tells what becomes of packets."""

    def __init__(self, families: Sequence[Family] = ("IPv4",)) -> None:
        self.families = families
        self.sets: dict[str, IpSet] = {}
        self.members: dict[str, set[Member]] = {}
        self.uses: dict[str, int] = {}
        self.tables = XtablesKernel(has_set=self.sets.__contains__, uses=self.uses)

    def take(self, step: Step) -> None:
        if isinstance(step, TableStep):
            text = "\n".join(
                [f"*{step.table}", *[line.text for line in step.lines()], "COMMIT", ""]
            )
            assert self.tables.restore(Flavour.NFT, step.family, text) == ""
            return
        for change in step.changes:
            match change.item:
                case IpSet():
                    assert self.sets.setdefault(change.name, change.item) == change.item
                    self.members.setdefault(change.name, set())
                case Member():
                    assert change.name in self.sets, change
                    if change.verb == "add":
                        self.members[change.name].add(change.item)
                    else:
                        self.members[change.name].discard(change.item)
                case None:
                    assert not self.uses.get(change.name), f"{change} is in use"
                    del self.sets[change.name], self.members[change.name]

    def carry_out(self, planned: IptablesPlan, observed: Observed) -> Iterator[Step]:
        """Take the steps of a plan one by one; belief is kept up when the next one is asked for."""
        for number, step in enumerate(planned.steps):
            self.take(step)
            observed.fold(step)
            if number == 0 and len(planned.steps) > 1:
                observed.begin(planned)
            yield step
        observed.occupy(planned)

    def found(self) -> Observed:
        """Return belief about what there is, read anew."""
        return adopt(
            {
                family: {table: self._saved(family, table) for table in TABLES}
                for family in self.families
            },
            {
                family: {
                    name: (made, self.members[name])
                    for name, made in self.sets.items()
                    if name.startswith(f"sliceproxy{family[-1]}-")
                }
                for family in self.families
            },
        )

    def _saved(self, family: Family, table: str) -> Mapping[str, Chain]:
        return parse_save(self.tables.save(Flavour.NFT, family, table))[table]

    def chains(self, family: Family, table: str) -> Mapping[str, list[str]]:
        return self.tables.chains(Flavour.NFT, family, table)

    def fates(self, packet: Packet) -> Fates:
        family: Family = "IPv6" if ":" in packet.destination else "IPv4"
        nat, others = (self.chains(family, table) for table in ("nat", "filter"))
        return Host(nat, others, self.members, {OWN[family]}).fates(packet)


def carry_out(planned: IptablesPlan, observed: Observed, world: World | None = None) -> None:
    """Carry a plan out, in a world or in belief alone."""
    if world is not None:
        assert list(world.carry_out(planned, observed)) == list(planned.steps)
        return
    for step in planned.steps:
        observed.fold(step)
    observed.occupy(planned)


def believing(*ports: DesiredPort, world: World | None = None) -> Observed:
    """A belief in which these have been programmed, with nothing left to do."""
    observed = (world or World()).found()
    desired = desired_state(*ports)
    carry_out(plan(whole(desired), observed, list(desired), LAYOUT), observed, world)
    carry_out(prune(whole(desired), observed, LAYOUT), observed, world)
    return observed


def plan_for(observed: Observed, *ports: DesiredPort, gone: Sequence[str] = ()) -> IptablesPlan:
    """Plan these as they are now, and those of the services in `gone`, which are no more."""
    desired = desired_state(*ports)
    return plan(whole(desired), observed, [*desired, *map(make_key, gone)], LAYOUT)


def swept(observed: Observed, desired: Desired | None = None) -> IptablesPlan:
    """Return the plan for nobody, which removes what was left."""
    return plan(desired or whole({}), observed, [], LAYOUT)


def kinds(planned: IptablesPlan) -> list[str]:
    """Return what kind of step follows which: a table's name, or that of the sets with the verbs."""
    return [
        step.table if isinstance(step, TableStep) else " ".join(_words(step))
        for step in planned.steps
    ]


def _words(step: SetStep) -> list[str]:
    names = [f"{change.verb} {change.name.partition('-')[2]}" for change in step.changes]
    return sorted(set(names), key=names.index)


def written(planned: IptablesPlan) -> list[str]:
    """Return the names of the chains that a plan writes."""
    return [
        write.chain.name
        for step in planned.steps
        if isinstance(step, TableStep)
        for write in step.writes
    ]


def web(*endpoints: str, is_any_usable: bool | None = None) -> DesiredPort:
    return make_desired("default/web", *endpoints, is_any_usable=is_any_usable)
