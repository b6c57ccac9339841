"""What is easily got wrong about Services, one row each, and where it is pinned.

A proof is a scenario of the flow suite, `file/name`, or the id of a test. e2e/test_traps.py looks whether all that is so.
"""

from typing import Final, NamedTuple


class Trap(NamedTuple):
    """`name` says what is right, `proofs` pin it."""

    name: str
    proofs: tuple[str, ...]


_UNIT: Final = "tests/unit/proxy"
TRAPS: Final = (
    Trap(
        "serving that is not stated is true, and alone serves nothing",
        ("conditions/serving that is not stated is true, and alone serves nothing",),
    ),
    Trap(
        "terminating endpoints stand in for each list apart",
        (
            "conditions/of a policy Local, terminating endpoints of this node stand in while others are ready",
            "conditions/of an external policy Local, the same",
        ),
    ),
    Trap(
        "hints count for all ready endpoints or not at all",
        (
            "topology/one ready endpoint without a hint and no hint counts",
            "topology/an endpoint that is not ready needs no hint",
            "topology/with none for this zone all answer",
        ),
    ),
    Trap(
        "hints alone decide, of the node before the zone",
        (
            "topology/neither trafficDistribution nor the old annotation is read",
            "topology/hints for this node come before hints for its zone",
        ),
    ),
    Trap(
        "topology limits neither policy Local nor terminating endpoints",
        (
            "topology/hints do not narrow policy Local",
            "topology/hints narrow external traffic of policy Cluster",
            "topology/terminating endpoints stand in for ready ones whatever their hints",
        ),
    ),
    Trap(
        "rejected or dropped depends on endpoints anywhere",
        (
            "conditions/what is serving but neither ready nor terminating is never used",
            "conditions/with nothing but terminating endpoints elsewhere policy Local drops",
            "internal_traffic_policy/with endpoints on other nodes only, connections are dropped",
            "internal_traffic_policy/with endpoints nowhere, connections are rejected",
        ),
    ),
    Trap(
        "external policy Local lets pods and the node reach all endpoints",
        (
            "external_traffic_policy/a pod of this node reaches all endpoints and keeps its address",
            "external_traffic_policy/with none on this node clients outside are dropped, pods and the node are served",
        ),
    ),
    Trap(
        "without a local detector pods count as clients outside, in each family",
        (
            "local_detection/not at all",
            "local_detection/in one family only",
            "external_traffic_policy/without a local detector pods count as clients outside",
        ),
    ),
    Trap(
        "health check node ports count ready addresses, not what still serves",
        (
            "health_check_node_port/terminating endpoints serve, but do not count",
            f"{_UNIT}/test_health_checks.py::test_only_what_is_ready_and_here_counts",
            f"{_UNIT}/test_health_checks.py::test_an_address_counts_once_over_all_ports",
            f"{_UNIT}/server/test_health_check_node_ports.py::test_without_local_endpoints_it_is_503_with_the_weight",
            f"{_UNIT}/server/test_health_check_node_ports.py::test_a_proxy_that_does_not_keep_up_gets_nothing_sent",
        ),
    ),
    Trap(
        "of duplicates the one that does not terminate counts as a whole",
        (
            "slices/an endpoint stated twice is one, and not terminating wins",
            f"{_UNIT}/test_cache_merge.py::test_of_duplicates_the_winner_is_taken_wholesale",
        ),
    ),
    Trap(
        "one address with two target ports is two endpoints",
        ("slices/one address with two target ports is two endpoints",),
    ),
    Trap(
        "the empty port name is a name, none is not, and numbers never match",
        (
            "slices/the empty name is a name",
            "slices/a port without a name or number, and no port at all, mean nothing",
            "slices/ports are matched by name and protocol, never by number",
        ),
    ),
    Trap(
        "endpoints are in the order of their text",
        (f"{_UNIT}/test_cache_merge.py::test_endpoints_are_sorted_bytewise",),
    ),
    Trap(
        "addresses are read leniently and written canonically",
        (
            "addresses/leading zeros are decimal, whatever they look like",
            "addresses/an IPv4 address in IPv6 spelling is an IPv4 address",
            f"{_UNIT}/test_addresses.py::test_sloppy_addresses_have_one_canonical_text",
            f"{_UNIT}/test_addresses.py::test_sloppy_cidrs_have_one_canonical_text",
        ),
    ),
    Trap(
        "a range of everything, or of the other family only, limits nothing",
        (
            "source_ranges/a range of everything lifts all limits of its family",
            "source_ranges/ranges of one family do not limit the other",
            "source_ranges/ranges may stand among blanks and carry host bits",
        ),
    ),
    Trap(
        "source ranges limit pods too, but no node port, and let the address itself in",
        (
            "source_ranges/who is in no range is dropped, also pods and the node",
            "source_ranges/only the load balancer's address is limited",
            "source_ranges/the address itself may be the source if the node is in range",
        ),
    ),
    Trap(
        "ranges for node ports of one family leave the other open",
        (
            "node_port/ranges of one family leave the other family open",
            "node_port/only the node's own address serves",
            f"{_UNIT}/config/test_defaults.py::test_node_ports_are_limited_to_primary_addresses_in_mode_nftables",
        ),
    ),
    Trap(
        "an object that stops matching is gone",
        (
            "service_types/a service that another proxy serves is left alone",
            "slices/a slice that becomes headless serves nobody",
            "slices/a slice that loses its service label serves nobody",
        ),
    ),
    Trap(
        "no rule is touched before everything was listed",
        (
            f"{_UNIT}/test_reconciler.py::test_nothing_is_read_or_written_before_every_kind_was_listed",
        ),
    ),
    Trap(
        "the pause is from the end of a round to the next, and retries keep to it",
        (
            f"{_UNIT}/test_schedule.py::test_the_minimum_interval_is_from_the_end_of_a_round_to_the_start_of_the_next",
            f"{_UNIT}/test_schedule.py::test_changes_that_come_meanwhile_collapse_into_one_round",
            f"{_UNIT}/test_schedule.py::test_a_retry_never_comes_before_the_minimum_interval",
            f"{_UNIT}/test_schedule.py::test_success_cancels_the_retry_and_resets_the_delay",
        ),
    ),
    Trap(
        "after a failure belief is formed anew",
        (
            f"{_UNIT}/test_reconciler_failures.py::test_after_a_failed_transaction_belief_is_formed_anew",
        ),
    ),
    Trap(
        "what a rule or an element refers to goes in a later transaction",
        (
            "tests/unit/backends/nftables/test_prune.py::test_prune_removes_foreign_chains_and_sets_once_nothing_in_them_refers_to_anything",
        ),
    ),
    Trap(
        "stale UDP flows are those answered from elsewhere than a serving endpoint",
        (
            f"{_UNIT}/test_conntrack.py::test_serving_are_all_endpoints_that_say_so_wherever_they_are_whatever_they_do",
            f"{_UNIT}/test_conntrack.py::test_stale_is_what_is_answered_from_elsewhere_than_a_serving_endpoint",
            f"{_UNIT}/test_conntrack.py::test_nothing_is_stale_while_nothing_serves",
            "e2e/test_conntrack.py::test_a_flow_begun_while_there_were_no_endpoints_is_served_later",
        ),
    ),
    Trap(
        "an IPVS destination drains at weight zero before it goes",
        (
            "tests/unit/backends/ipvs/test_draining.py::test_a_destination_with_connections_gets_weight_0_and_stays_until_they_end",
            "e2e/test_ipvs_rollout.py::test_a_rolling_update_and_restarts_leave_200_connections_alone",
        ),
    ),
    Trap(
        "health is the age of work undone, not of the last sync",
        (
            f"{_UNIT}/test_health.py::test_a_change_may_wait_for_less_than_the_time_out",
            f"{_UNIT}/test_health.py::test_one_family_that_is_late_makes_both_pages_bad",
            f"{_UNIT}/server/test_health.py::test_a_node_that_leaves_makes_one_page_bad_and_not_the_other",
        ),
    ),
)
