"""A file of scenarios as checked values. Pure: text in, values or one error that names the place out.

    feature: Cluster IPs
    objects: [manifests that are there before the first step of each scenario]
    scenarios:
    - name: an endpoint goes
      setting: default            # or a list: the scenario runs once for each
      steps:
      - delete: [EndpointSlice/web]
        patch: {Service/web: {spec: {internalTrafficPolicy: Local}}}
        apply: [manifests]
        flows:
        - {from: [external, local-pod], to: [clusterIP, nodePort], answers: [a, b], source: kept}
        - {from: node, to: vip, outcome: rejected}
        checks:
        - {from: external, at: second, status: 200, endpoints: 2}

A flow is asked once for each client, frontend, port of the service (with its protocol) and family; a check once for
each client, address of the node and family.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Literal, get_args

import msgspec
import yaml

from e2e.topology import FAMILIES, Family

Outcome = Literal["rejected", "dropped", "untouched"]
Source = Literal["kept", "masqueraded"]
FRONTENDS: Final = ("clusterIP", "nodePort", "externalIP", "vip")
_SOURCES: Final = get_args(Source)


class ScenarioError(Exception):
    """A scenario file that cannot be run as it is written: the file, the place and what is wrong."""


class Flow(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who asks whom, and what must happen.

    `answers` are all the endpoints that must answer, and nobody else may. `source` is under which address they see
    the client, for all or for each by name. `spread`: evenly. `sticky`: the same endpoint each time; flows of one scenario
    with the same word mean the same client memory, over frontends and steps. `forgotten`: that memory has ended, so that
    of all these clients one at least gets another endpoint. `lasts_s`: how long it lasts unused, else for as long as any test: a
    client that was held up for longer may get another one, too. `outcome` is `rejected` (the client
    is told at once), `dropped` (nothing comes back and nothing gets through) or `untouched` (it passes untranslated).
    """

    clients: str | tuple[str, ...] = msgspec.field(name="from")
    to: str | tuple[str, ...]
    service: str = ""
    port: str | int = ""
    protocol: Literal["", "TCP", "UDP", "SCTP"] = ""
    family: Literal["", "IPv4", "IPv6"] = ""
    answers: str | tuple[str, ...] | None = None
    source: Source | dict[str, Source] | None = None
    spread: bool = False
    sticky: str = ""
    forgotten: bool = False
    lasts_s: float = math.inf
    outcome: Outcome | None = None

    @property
    def askers(self) -> tuple[str, ...]:
        return _listed(self.clients)

    @property
    def targets(self) -> tuple[str, ...]:
        return _listed(self.to)

    @property
    def endpoints(self) -> tuple[str, ...]:
        """Who must answer; nobody for an outcome."""
        return () if self.answers is None else _listed(self.answers)

    @property
    def families(self) -> tuple[Family, ...]:
        return tuple(family for family in FAMILIES if self.family in ("", family))

    def source_at(self, endpoint: str) -> Source | None:
        """How that endpoint must see the client; None where it does not matter."""
        return self.source.get(endpoint) if isinstance(self.source, dict) else self.source

    def complaint(self) -> str:
        """What is wrong, or nothing."""
        strangers = self.source.keys() - {*self.endpoints} if isinstance(self.source, dict) else ()
        is_silent = self.outcome is not None
        checks = {
            "says either who `answers` or which `outcome` there must be": (self.answers is None)
            != is_silent,
            f"nobody answers what is {self.outcome}: no source, spread or sticky": is_silent
            and bool(self.source or self.spread or self.sticky),
            "names nobody": not (self.askers and self.targets and (is_silent or self.endpoints)),
            f"source of {', '.join(sorted(strangers))}, who must not answer": bool(strangers),
            "is either spread or sticky": bool(self.spread and self.sticky),
            "forgets what? It needs the word of a sticky flow": self.forgotten and not self.sticky,
        }
        return next((text for text, is_so in checks.items() if is_so), "")


class Check(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who asks the health check node port of a service, and what it must say.

    `at` are addresses of the node as in `nodePort@second`, the empty word its InternalIP. `endpoints` are those
    counted, which is said with 503 too. `refused`: nobody listens there.
    """

    clients: str | tuple[str, ...] = msgspec.field(name="from")
    status: Literal[200, 503, "refused"]
    at: str | tuple[str, ...] = ""
    service: str = ""
    family: Literal["", "IPv4", "IPv6"] = ""
    endpoints: int = 0

    @property
    def askers(self) -> tuple[str, ...]:
        return _listed(self.clients)

    @property
    def places(self) -> tuple[str, ...]:
        return _listed(self.at)

    @property
    def families(self) -> tuple[Family, ...]:
        return tuple(family for family in FAMILIES if self.family in ("", family))


class Step(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A change of the objects, and what holds once it has been programmed.

    First `apply`, then `patch` (a JSON merge patch), then `delete`, all in one go. `after_s` lets time pass before
    the flows: for what the kernel forgets by itself. `gains` and `loses` are addresses of the node that come and go.
    `is_taken`: another program has the health check node ports until the daemon has noticed, that is before what
    follows is asked.
    """

    name: str = ""
    apply: tuple[dict[str, Any], ...] = ()
    patch: dict[str, dict[str, Any]] = {}
    delete: tuple[str, ...] = ()
    after_s: float = 0.0
    gains: tuple[str, ...] = ()
    loses: tuple[str, ...] = ()
    is_taken: bool = msgspec.field(name="taken", default=False)
    checks: tuple[Check, ...] = ()
    flows: tuple[Flow, ...] = ()


class Scenario(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Steps, one after the other. `setting` names the proxy settings it is run with, once with each."""

    name: str
    steps: tuple[Step, ...]
    why: str = ""
    setting: str | tuple[str, ...] = "default"

    @property
    def settings(self) -> tuple[str, ...]:
        return _listed(self.setting)


class Feature(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A file: scenarios that share a set of objects to begin with."""

    feature: str
    scenarios: tuple[Scenario, ...]
    objects: tuple[dict[str, Any], ...] = ()


def parse(text: str, name: str) -> Feature:
    """Read a file. Raises ScenarioError."""
    try:
        feature = msgspec.convert(yaml.safe_load(text), Feature)
    except yaml.YAMLError as error:
        raise ScenarioError(f"{name}: not YAML: {error}") from error
    except msgspec.ValidationError as error:
        raise ScenarioError(f"{name}: {error}") from error
    for complaint in _complaints(feature):
        raise ScenarioError(f"{name}: {complaint}")
    return feature


def load(directory: Path) -> dict[str, Feature]:
    """Read all files of a directory, by name without ending. Raises ScenarioError."""
    return {
        path.stem: parse(path.read_text(), path.name) for path in sorted(directory.glob("*.yaml"))
    }


def _complaints(feature: Feature) -> Iterator[str]:
    names = [scenario.name for scenario in feature.scenarios]
    for name in {name for name in names if names.count(name) > 1}:
        yield f"two scenarios are called {name!r}"
    for scenario in feature.scenarios:
        if not any(step.flows or step.checks for step in scenario.steps):
            yield f"{scenario.name}: no step has a flow or a check"
        for number, step in enumerate(scenario.steps, 1):
            for position, flow in enumerate(step.flows, 1):
                if complaint := flow.complaint():
                    yield f"{scenario.name}: step {number}, flow {position}: {complaint}"
            for reference in (*step.patch, *step.delete):
                if reference.count("/") != 1:
                    yield f"{scenario.name}: step {number}: {reference!r} is not KIND/NAME"


def _listed(one_or_more: str | tuple[str, ...]) -> tuple[str, ...]:
    return (one_or_more,) if isinstance(one_or_more, str) else one_or_more
