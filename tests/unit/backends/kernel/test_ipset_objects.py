"""Members of sets in the words of the program `ipset`."""

import pytest

from backends.kernel.ipset_objects import Member


@pytest.mark.parametrize(
    ("member", "text"),
    [
        (Member("10.0.0.1"), "10.0.0.1"),
        (Member("fd00::/48"), "fd00::/48"),
        (Member("10.96.0.1", 6, 80), "10.96.0.1,tcp:80"),
        (Member("fd00::1", 17, 53, "fd00::2"), "fd00::1,udp:53,fd00::2"),
        (Member("10.96.0.1", 132, 80, "10.0.0.0/8"), "10.96.0.1,sctp:80,10.0.0.0/8"),
        (Member("10.96.0.1", 99, 80), "10.96.0.1,99:80"),
        (Member(port=30080), "30080"),
    ],
)
def test_a_member_reads_as_the_program_writes_it(member: Member, text: str) -> None:
    assert str(member) == text
