"""What is to go wrong, for which requests, and how often. Values only; server.py and stream.py act on them."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from tests.apiserver.resources import Object
from tests.apiserver.status import ApiStatusError
from tests.apiserver.watching import WatchListSupport

Mutation = Literal["types", "json", "nameless", "utf8", "unknown-type", "status-500"]
Ending = Literal["", "close", "reset"]


@dataclass
class Rule:
    """What happens to the next `count` requests (all, if negative) that match: a delay, an error, or both."""

    status: int = 0
    verb: str = ""
    resource: str = ""
    count: int = -1
    delay_s: float = 0.0
    retry_after_s: int | None = None
    is_event: bool = False  # a watch is begun, and the error is its first event

    def matches(self, verb: str, resource: str) -> bool:
        """Whether it is about this request; an empty verb or resource is any."""
        return (
            self.count != 0
            and self.verb in ("", verb)
            and self.resource in ("", resource)
            and (not self.is_event or verb == "watch")
        )

    def error(self) -> ApiStatusError:
        """The error that is answered."""
        messages = {
            401: "Unauthorized",
            403: "forbidden: User is not allowed to do this",
            410: "too old resource version: 1 (2)",
            429: "too many requests, please try again later",
            503: "the server is currently unable to handle the request",
        }
        message = messages.get(self.status, f"an error on the server ({self.status})")
        return ApiStatusError(self.status, message, retry_after_s=self.retry_after_s)


@dataclass
class Faults:
    """Everything at once; without an argument nothing goes wrong.

    `is_silent`: open watches and new ones get nothing more, though their connections stay. `chunk_bytes`: answers are
    sent in pieces of this size. `ending`: the next event of a watch is cut in the middle, and the connection closed (as
    if the answer were over) or reset. `mutations`: each replaces the next event of any watch by something broken.
    """

    rules: list[Rule] = field(default_factory=list)
    is_silent: bool = False
    chunk_bytes: int = 0
    ending: Ending = ""
    mutations: list[Mutation] = field(default_factory=list)
    watch_list: WatchListSupport = "served"
    freshness_wait_s: float = 3.0
    bookmark_s: float = 60.0

    def update(self, values: Mapping[str, Any]) -> None:
        """Set some of them by name. Raises ValueError for a name or value that is none."""
        known = {one.name for one in dataclasses.fields(self)}
        if unknown := set(values) - known:
            raise ValueError(f"no such fault: {', '.join(sorted(unknown))}")
        new = dict(values)
        if "rules" in new:
            try:
                new["rules"] = [Rule(**rule) for rule in new["rules"]]
            except TypeError as error:
                raise ValueError(str(error)) from None
        choices = {
            "watch_list": WatchListSupport,
            "ending": Ending,
        }
        for name, choice in choices.items():
            if name in new and new[name] not in get_args(choice):
                raise ValueError(f"{name}: {new[name]!r} is none of {get_args(choice)}")
        for one in new.get("mutations", ()):
            if one not in get_args(Mutation):
                raise ValueError(f"mutations: {one!r} is none of {get_args(Mutation)}")
        for name, value in new.items():
            setattr(self, name, value)

    def take_rule(self, verb: str, resource: str) -> Rule | None:
        """The rule for a request, which counts it."""
        for rule in self.rules:
            if rule.matches(verb, resource):
                rule.count -= 1
                return rule
        return None

    def take_mutation(self) -> Mutation | None:
        """How the next event is broken."""
        return self.mutations.pop(0) if self.mutations else None

    def document(self) -> Object:
        """As it is now."""
        return dataclasses.asdict(self)


def mutated(mutation: Mutation, line: bytes) -> bytes:
    """The line of an event, broken in that way. It stays one line."""
    if mutation == "json":
        return line[: len(line) // 2].rstrip(b"\n") + b"}\n"
    event = json.loads(line)
    metadata = event["object"]["metadata"]
    if mutation == "types":
        metadata["labels"] = 7
        for name in ("spec", "endpoints"):
            if name in event["object"]:
                event["object"][name] = "a text"
    elif mutation == "nameless":
        del metadata["name"]
    elif mutation == "unknown-type":
        event["type"] = "RENAMED"
    elif mutation == "status-500":
        event = {"type": "ERROR", "object": ApiStatusError(500, "etcdserver: broken").document()}
    text = json.dumps(event, separators=(",", ":")).encode() + b"\n"
    if mutation == "utf8":
        text = text.replace(b'"metadata":{', b'"metadata":{"generateName":"\xff\xfe",', 1)
    return text
