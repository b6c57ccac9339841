"""Faults: which requests a rule is about, what is refused as none, and how events are broken."""

import json
from typing import Any, get_args

import pytest

from tests.apiserver import faults
from tests.apiserver.faults import Faults, Mutation, Rule
from tests.builders import make_service, make_slice, watch_line


def test_a_rule_counts_the_requests_it_is_about() -> None:
    told = Faults(rules=[Rule(status=503, verb="list", resource="services", count=2)])

    assert told.take_rule("watch", "services") is None
    assert told.take_rule("list", "nodes") is None
    assert [told.take_rule("list", "services") is not None for _ in range(3)] == [
        True,
        True,
        False,
    ]


def test_a_rule_without_a_number_is_for_ever_and_about_everything() -> None:
    told = Faults(rules=[Rule(status=500)])

    assert all(told.take_rule("get", "nodes") for _ in range(100))


def test_an_error_as_an_event_is_for_watches_only() -> None:
    assert not Rule(status=410, is_event=True).matches("list", "nodes")
    assert Rule(status=410, is_event=True).matches("watch", "nodes")


def test_an_error_says_when_to_come_again() -> None:
    document = Rule(status=429, retry_after_s=2).error().document()

    assert (document["code"], document["reason"]) == (429, "TooManyRequests")
    assert document["details"]["retryAfterSeconds"] == 2


@pytest.mark.parametrize(
    "values",
    [
        {"silent": True},
        {"watch_list": "perhaps"},
        {"ending": "slowly"},
        {"mutations": ["typo"]},
        {"rules": [{"code": 3}]},
    ],
)
def test_what_is_no_fault_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"."):
        Faults().update(values)


def test_what_is_not_named_stays() -> None:
    told = Faults(chunk_bytes=3)

    told.update({"rules": [{"status": 500}], "is_silent": True})

    assert (told.chunk_bytes, told.is_silent, told.rules) == (3, True, [Rule(status=500)])


@pytest.mark.parametrize("mutation", get_args(Mutation))
@pytest.mark.parametrize("obj", [make_service(), make_slice()], ids=["service", "slice"])
def test_a_broken_event_is_another_line(mutation: Mutation, obj: dict[str, Any]) -> None:
    line = watch_line("MODIFIED", obj)

    broken = faults.mutated(mutation, line)

    assert broken != line
    assert broken.count(b"\n") == 1
    assert broken.endswith(b"\n")


def test_each_way_of_breaking_is_what_it_says() -> None:
    line = watch_line("MODIFIED", make_slice())

    with pytest.raises(json.JSONDecodeError):
        json.loads(faults.mutated("json", line))
    with pytest.raises(UnicodeDecodeError):
        faults.mutated("utf8", line).decode()
    assert json.loads(faults.mutated("types", line))["object"]["endpoints"] == "a text"
    assert "name" not in json.loads(faults.mutated("nameless", line))["object"]["metadata"]
    assert json.loads(faults.mutated("unknown-type", line))["type"] == "RENAMED"
    assert json.loads(faults.mutated("status-500", line))["object"]["code"] == 500
