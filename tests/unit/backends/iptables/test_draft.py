"""What is collected before it is put in order: differences from belief, each once, whoever asks for them."""

from backends.iptables.draft import Draft
from backends.iptables.model import ChainState, Front, Lead, Leaving, SetChange
from backends.iptables.names import list_chain
from backends.iptables.render import render_port
from backends.iptables.tree import ROOTS
from backends.kernel.ipset_objects import Member
from proxy.desired import DesiredPort
from tests.desired_strategies import make_desired, many_services
from tests.model_builders import make_key
from tests.unit.backends.iptables.planning import LAYOUT, WEB, A, B, believing, web

S = list_chain(WEB)
ROOT = "SLICEPROXY-CLUSTER"


def asked(draft: Draft, *ports: DesiredPort, gone: tuple[str, ...] = ()) -> Draft:
    """Have a draft asked for these."""
    for service in gone:
        draft.replace(make_key(service), None)
    for port in ports:
        draft.replace(port.key, render_port(port, LAYOUT))
    draft.plant()
    return draft


def chains(draft: Draft) -> list[str]:
    return [write.chain.name for write in draft.changed_chains("nat")]


def test_what_is_there_is_no_difference() -> None:
    draft = asked(Draft("IPv4", believing(web(A)), LAYOUT), web(A))

    assert not [*draft.changed_sets(), *draft.changed_members(), *draft.changed_leads()]
    assert not [*draft.changed_chains("nat"), *draft.changed_chains("filter")]
    assert not [*draft.missing_jumps("nat"), *draft.missing_jumps("filter")]
    assert draft.leaving()[:2] == (frozenset(), frozenset())
    assert list(draft.keys) == [WEB]


def test_chains_of_services_come_before_the_tree_and_that_before_its_root() -> None:
    ports = list(many_services(20).values())

    found = chains(asked(Draft("IPv4", believing(), LAYOUT), *ports))

    assert set(found[:20]) == {list_chain(port.key) for port in ports}
    assert all(name.startswith("SLICEPROXY-C-") for name in found[20:-1])
    assert found[-1] == ROOT


def test_rules_of_a_tree_lead_to_chains_that_are_there_or_come_with_it() -> None:
    observed = believing(web(A))
    observed.correct_chain("IPv4", "nat", S, None)
    observed.correct_chain("IPv4", "nat", ROOT, None)
    api = make_desired("default/api", B, cluster_ip="10.96.0.11")

    for ports, targets in (((api,), {list_chain(api.key)}), ((web(A),), {S})):
        draft = asked(Draft("IPv4", observed, LAYOUT), *ports)
        (root,) = [w.chain for w in draft.changed_chains("nat") if w.chain.name == ROOT]
        assert {rule.split()[-1] for rule in root.rules if "--dport" in rule} == targets


def test_branches_that_are_not_there_come_with_what_leads_to_them() -> None:
    ports = many_services(40)
    observed = believing(*ports.values())
    missing = [n for n in observed.facts["IPv4"].chains["nat"] if n.startswith("SLICEPROXY-C-2-")]
    for name in missing:
        observed.correct_chain("IPv4", "nat", name, None)
    observed.damaged["IPv4"].clear()
    observed.correct_chain("IPv4", "nat", ROOT, ChainState("", 0))

    assert chains(asked(Draft("IPv4", observed, LAYOUT))) == [*sorted(missing), ROOT]


def test_what_goes_is_left_and_what_it_shares_stays() -> None:
    other = make_desired("default/web", A, port_name="other", port=81)
    observed = believing(web(A), other)

    draft = asked(Draft("IPv4", observed, LAYOUT), gone=("default/web",))

    assert list(draft.changed_members()) == [
        SetChange("delete", "sliceproxy4-frontends", Member("10.96.0.10", 6, 80), WEB)
    ]
    assert list(draft.changed_leads()) == [Lead("C", Front("10.96.0.10", "TCP", 80), None)]
    assert draft.leaving() == Leaving(frozenset([S]), frozenset(), frozenset(ROOTS.values()))


def test_what_is_not_there_cannot_be_left() -> None:
    observed = believing(web(A))
    observed.correct_chain("IPv4", "nat", S, None)

    draft = asked(Draft("IPv4", observed, LAYOUT), gone=("default/web",))

    assert not draft.leaving().chains


def test_the_order_in_which_services_are_named_does_not_matter() -> None:
    observed = believing(web(A))
    heir = make_desired("default/heir", B)
    results = []
    for ports in ((heir,), ()):
        draft = Draft("IPv4", observed, LAYOUT)
        asked(draft, *ports, gone=("default/web",))
        asked(draft, heir)
        results.append(
            (
                sorted(draft.changed_members()),
                list(draft.changed_leads()),
                sorted(chains(draft)),
            )
        )

    assert results[0] == results[1]
    assert results[0][1] == [Lead("C", Front("10.96.0.10", "TCP", 80), list_chain(heir.key))]


def test_what_was_left_behind_is_unneeded_unless_somebody_has_it() -> None:
    draft = Draft("IPv4", believing(web(A)), LAYOUT)

    assert draft.is_unneeded("SLICEPROXY-S-OLD")
    assert not draft.is_unneeded(S)
    assert not draft.is_unneeded(ROOT)


def test_where_everything_is_made_anew_nothing_counts_that_is_there() -> None:
    observed = believing(web(A), make_desired("default/other", A, port=81))

    draft = asked(Draft("IPv4", observed, LAYOUT, is_rebuild=True), web(A))

    assert len(list(draft.changed_sets())) == 16
    assert {change.verb for change in draft.changed_members()} == {"add"}
    assert list(draft.changed_leads()) == [Lead("C", Front("10.96.0.10", "TCP", 80), S)]
    assert {S, ROOT, "SLICEPROXY-SERVICES"} <= set(chains(draft))
