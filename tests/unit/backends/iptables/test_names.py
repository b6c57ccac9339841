"""What chains and sets of one ServicePort are called."""

from backends.iptables.names import (
    affinity_names,
    affinity_prefix,
    list_chain,
    outer_chain,
    relatives,
)
from tests.model_builders import make_key

WEB = make_key("default/web")


def test_names_are_the_same_in_both_families_and_differ_otherwise() -> None:
    keys = [
        WEB,
        make_key("default/web", "http"),
        make_key("default/web", protocol="UDP"),
        make_key("other/web"),
        make_key("default/web2"),
    ]

    names = [f(key) for key in keys for f in (list_chain, outer_chain)]
    names += [list_chain(key, is_local=True) for key in keys]
    assert len(set(names)) == len(names)
    assert list_chain(make_key("default/web", family="IPv6")) == list_chain(WEB)


def test_names_of_other_parts_do_not_run_together() -> None:
    assert list_chain(make_key("a/bc")) != list_chain(make_key("ab/c"))


def test_names_with_another_secret_are_others() -> None:
    one, other = (
        {list_chain(WEB, secret), outer_chain(WEB, secret), *affinity_names(WEB, "x", secret)}
        for secret in ("a" * 64, "b" * 64)
    )

    assert one.isdisjoint(other)


def test_names_are_as_long_as_the_kernel_takes_them() -> None:
    chain, known = affinity_names(make_key("n" * 63 + "/" + "s" * 63, "p" * 63), "10.0.0.1:80")

    assert len(f"{list_chain(WEB)}-FF") <= 28
    assert len(outer_chain(WEB)) <= 28
    assert len(chain) <= 28
    assert len(known) <= 31


def test_each_endpoint_of_each_port_has_a_chain_and_a_set_of_its_own() -> None:
    chain, known = affinity_names(WEB, "10.0.0.1:80")
    others = [
        affinity_names(WEB, "10.0.0.2:80"),
        affinity_names(make_key("default/api"), "10.0.0.1:80"),
    ]

    assert chain.startswith("SLICEPROXY-A-")
    assert known.startswith(affinity_prefix("IPv4"))
    assert chain[-15:] == known[-15:]
    assert len({chain, *[name for name, _ in others]}) == 3


def test_sets_of_the_two_families_have_names_of_their_own() -> None:
    six = make_key("default/web", family="IPv6")

    assert affinity_names(six, "x")[1].startswith("sliceproxy6-a-")
    assert affinity_names(WEB, "x")[1].startswith("sliceproxy4-a-")


def test_what_belongs_together_is_told_by_any_name_and_without_the_secret() -> None:
    together = relatives(outer_chain(WEB, "secret"))

    assert list_chain(WEB, "secret") in together
    assert list_chain(WEB, "secret", is_local=True) in together
    assert relatives(list_chain(WEB, "secret")) == together
    assert relatives("SLICEPROXY-FORMER") == ("SLICEPROXY-FORMER",)
