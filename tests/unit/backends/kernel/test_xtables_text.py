"""Texts of the iptables programs. What they say is as 1.8.9 says it; that it still does is tested in e2e/test_kernel_xtables.py."""

import pytest

from backends.kernel.xtables_text import (
    Chain,
    Flavour,
    RefusedLine,
    Version,
    is_incompatible,
    is_locked,
    parse_refusal,
    parse_save,
    parse_version,
    restore_text,
    split_rule,
)

LINES = [":A - [0:0]", "-A A -j RETURN", "-A A -j REJECT"]


@pytest.mark.parametrize(
    ("said", "version"),
    [
        ("iptables v1.8.9 (nf_tables)\n", Version(Flavour.NFT, (1, 8, 9))),
        ("ip6tables v1.8.9 (legacy)\n", Version(Flavour.LEGACY, (1, 8, 9))),
        ("iptables-nft-restore v1.8.10 (nf_tables)\n", Version(Flavour.NFT, (1, 8, 10))),
        ("iptables v1.6.1\n", Version(Flavour.LEGACY, (1, 6, 1))),
        ("busybox\n", None),
        ("", None),
    ],
)
def test_a_version_tells_the_flavour(said: str, version: Version | None) -> None:
    assert parse_version(said) == version


def test_a_version_reads_as_the_program_says_it() -> None:
    assert str(Version(Flavour.NFT, (1, 8, 9))) == "1.8.9 (nft)"


def test_a_text_is_about_one_table_and_ends_in_commit() -> None:
    assert restore_text("nat", LINES[:2]) == "*nat\n:A - [0:0]\n-A A -j RETURN\nCOMMIT\n"


@pytest.mark.parametrize("line", ["COMMIT", "*filter", "", "# no", "-A A\n-A B", "-A A\n*filter"])
def test_what_is_no_line_about_a_chain_or_rule_is_not_written(line: str) -> None:
    with pytest.raises(ValueError, match="no line"):
        restore_text("nat", [line])


_ADVICE = "Try `iptables-restore -h' or 'iptables-restore --help' for more information.\n"


@pytest.mark.parametrize(
    ("said", "index", "words"),
    [
        (
            'iptables-restore v1.8.9 (legacy): unknown option "--bogus"\n'
            "Error occurred at line: 4\n" + _ADVICE,
            2,
            'unknown option "--bogus"',
        ),
        (
            "iptables-restore v1.8.9 (legacy): Set nosuch doesn't exist.\n\n"
            "Error occurred at line: 3\n" + _ADVICE,
            1,
            "Set nosuch doesn't exist.",
        ),
        (
            'iptables-nft-restore v1.8.9 (nf_tables): \nThe "nat" table is not intended for '
            "filtering.\n\n\nError occurred at line: 3\n" + _ADVICE,
            1,
            'The "nat" table is not intended for filtering.',
        ),
        # what names the COMMIT names no line
        (
            "iptables-nft-restore v1.8.9 (nf_tables): Chain 'NOSUCH' does not exist\n"
            "Error occurred at line: 5\n" + _ADVICE,
            None,
            "Chain 'NOSUCH' does not exist",
        ),
        ("iptables-restore: line 5 failed\n", None, "refused"),
        ("iptables-restore: line 3 failed\n", 1, "refused"),
        (
            "ip6tables-nft-restore: line 4 failed: No chain/target/match by that name.\n",
            2,
            "No chain/target/match by that name.",
        ),
        # the table itself
        (
            "iptables-restore v1.8.9 (legacy): iptables-restore: unable to initialize table 'x'\n"
            "Error occurred at line: 1\n",
            None,
            "iptables-restore: unable to initialize table 'x'",
        ),
        ("iptables-restore: COMMIT expected at line 3\n", None, "COMMIT expected at line 3"),
        (
            "iptables-nft-restore v1.8.9 (nf_tables): Could not fetch rule set generation id: "
            "Permission denied (you must be root)\n",
            None,
            "Could not fetch rule set generation id: Permission denied (you must be root)",
        ),
        ("", None, "no reason given"),
    ],
)
def test_an_error_names_the_line(said: str, index: int | None, words: str) -> None:
    assert parse_refusal(said, LINES) == (RefusedLine(index, words),)


def test_nftables_names_each_line_that_it_refuses() -> None:
    said = (
        "# Warning: iptables-legacy tables present, use iptables-legacy to see them\n"
        "iptables-nft-restore v1.8.9 (nf_tables): \n"
        "line 3: RULE_APPEND failed (Invalid argument): rule in chain A\n"
        "line 4: RULE_APPEND failed (No such file or directory): rule in chain A\n"
    )

    assert parse_refusal(said, LINES) == (
        RefusedLine(1, "RULE_APPEND failed (Invalid argument): rule in chain A"),
        RefusedLine(2, "RULE_APPEND failed (No such file or directory): rule in chain A"),
    )


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (
            "Can't lock /run/xtables.lock: Resource temporarily unavailable\n"
            "Another app is currently holding the xtables lock. Stopped waiting after 1s.\n",
            True,
        ),
        (
            "Another app is currently holding the xtables lock. Perhaps you want to use the -w "
            "option?\n",
            True,
        ),
        ("iptables-restore: line 5 failed\n", False),
        ("Fatal: can't open lock file /run/xtables.lock: Permission denied\n", False),
    ],
)
def test_a_held_lock_is_told_from_other_failures(said: str, expected: bool) -> None:
    assert is_locked(said) is expected


def test_a_table_that_only_nft_can_say_is_noticed() -> None:
    assert is_incompatible("# Generated\n# Table `nat' is incompatible, use 'nft' tool.\n")
    assert is_incompatible(
        "Error: unknown ipv4 meta key\niptables-nft-save v1.8.9 (nf_tables): Parsing nftables rule"
        " failed\nPerhaps iptables-nft-save or your kernel needs to be upgraded.\n"
    )
    # chains of others on other hooks are no matter
    assert not is_incompatible("# Table `nat' contains incompatible base-chains, use 'nft'\n")


def test_saved_tables_are_read_with_policies_and_rules_in_order() -> None:
    said = """# Generated by iptables-save v1.8.9 on Sun Nov 22 11:08:41 2026
*nat
:PREROUTING ACCEPT [12:3456]
:A - [0:0]
:B - [0:0]
-A PREROUTING -j A
-A A -m comment --comment "-A B :C *d" -j B
-A A -p tcp -j DNAT --to-destination 10.0.0.1:80
-A B
COMMIT
# Completed on Sun Nov 22 11:08:41 2026
*filter
:A DROP [0:0]
COMMIT
"""

    assert parse_save(said) == {
        "nat": {
            "PREROUTING": Chain("ACCEPT", ("-j A",)),
            "A": Chain(
                None,
                (
                    '-m comment --comment "-A B :C *d" -j B',
                    "-p tcp -j DNAT --to-destination 10.0.0.1:80",
                ),
            ),
            "B": Chain(None, ("",)),
        },
        "filter": {"A": Chain("DROP", ())},
    }


def test_nothing_saved_is_no_table() -> None:
    assert parse_save("") == {}


def test_words_of_a_rule_are_without_their_quotes() -> None:
    rule = r'-m comment --comment "a \"quoted\" b" -j RETURN'
    assert split_rule(rule) == ["-m", "comment", "--comment", 'a "quoted" b', "-j", "RETURN"]
