"""The explanation in the demo is the command's own text, only shorter."""

from pathlib import Path

import pytest

from e2e.demo import explanation
from e2e.namespace import TopologyError

EXAMPLES = Path(__file__).parents[4] / "examples" / "demo"

ONE_FAMILY = """\
shop/web:http  TCP IPv4  on node node-a, zone zone-a
  ClusterIP     10.96.0.80:80  policy Cluster
  cluster list  1 of 2 endpoints, narrowed by hints (SameZone)
  local list    not used by this service
  ENDPOINT          CLUSTER LIST              LOCAL LIST  NODE           ZONE    SLICE
  10.244.1.2:8080   + ready                   -           node-a (this)  zone-a  web-ipv4
  10.244.2.10:8080  - hinted for other zones  -           node-b         zone-b  web-ipv4
"""
OTHER_FAMILY = """
shop/web:http  TCP IPv6  on node node-a, zone zone-a
  ClusterIP     [fd00:10:96::50]:80  policy Cluster
  cluster list  1 of 2 endpoints, narrowed by hints (SameZone)
  local list    not used by this service
  ENDPOINT                 CLUSTER LIST              LOCAL LIST  NODE           ZONE    SLICE
  [fd00:10:244:2::a]:8080  - hinted for other zones  -           node-b         zone-b  web-ipv6
  [fd00:10:244:1::2]:8080  + ready                   -           node-a (this)  zone-a  web-ipv6
"""


def test_the_real_command_is_cut_to_the_endpoints_and_why() -> None:
    text = explanation.explain(EXAMPLES, "shop/web", "node-a")

    assert explanation.trim(text, 80) == [
        "IPv4, IPv6 alike: cluster list 3 of 3 endpoints",
        "ENDPOINT         CLUSTER LIST  NODE           ZONE",
        "10.244.1.2:8080  + ready       node-a (this)  zone-a",
        "10.244.2.2:8080  + ready       node-b         zone-b",
        "10.244.3.2:8080  + ready       node-c         zone-c",
    ]


def test_a_command_that_fails_is_no_explanation() -> None:
    with pytest.raises(TopologyError, match="explain shop/no-such-service"):
        explanation.explain(EXAMPLES, "shop/no-such-service", "node-a")


def test_families_that_differ_only_in_addresses_are_alike() -> None:
    lines = explanation.trim(ONE_FAMILY + OTHER_FAMILY, 100)

    assert lines[0].startswith("IPv4, IPv6 alike: ")


@pytest.mark.parametrize(
    ("old", "new"),
    [("+ ready", "+ terminating, but no endpoint is ready"), ("1 of 2", "2 of 2")],
    ids=["reason", "count"],
)
def test_families_that_differ_are_not_passed_off_as_alike(old: str, new: str) -> None:
    lines = explanation.trim(ONE_FAMILY + OTHER_FAMILY.replace(old, new), 100)

    assert lines[0].startswith("IPv4, IPv6 differs: cluster list 1 of 2 endpoints")


def test_the_column_of_nodes_goes_when_there_is_no_room_for_it() -> None:
    assert explanation.trim(ONE_FAMILY, 58)[-2:] == [
        "10.244.1.2:8080   + ready                   zone-a",
        "10.244.2.10:8080  - hinted for other zones  zone-b",
    ]


@pytest.mark.parametrize("width", [34, 58, 80, 120])
def test_no_line_is_wider_than_the_room(width: int) -> None:
    assert max(map(len, explanation.trim(ONE_FAMILY + OTHER_FAMILY, width))) <= width


def test_a_service_without_endpoints_has_no_table() -> None:
    text = ONE_FAMILY[: ONE_FAMILY.index("  ENDPOINT")] + "  no endpoints\n"

    assert explanation.trim(text, 80) == [
        "IPv4: cluster list 1 of 2 endpoints, narrowed by hints (SameZone)"
    ]


def test_columns_are_dropped_by_name_and_may_have_two_words() -> None:
    table = ["ONE  TWO WORDS  THREE", "1    2          3"]

    assert explanation.drop_columns(table, ("TWO WORDS",)) == ["ONE  THREE", "1    3"]
    assert explanation.drop_columns([], ("ONE",)) == []
