"""The flow suite's own parts that need no network: files, objects, questions, and what counts as wrong."""

from collections.abc import Mapping
from typing import Any

import pytest

from e2e.flows import checking, masquerade
from e2e.flows.answering import got_past, uneven
from e2e.flows.objects import Allocator, Objects
from e2e.flows.questions import Question, jobs
from e2e.flows.scenario import Check, Flow, ScenarioError, Step, parse
from e2e.flows.watching import Notes
from e2e.topology import Addresses

HOSTS = {
    name: Addresses(f"10.244.1.{n}", f"fd00:10:244:1::{n}") for n, name in enumerate("abcd", 2)
}
KNOWN = frozenset({*HOSTS, "external", "node"})
SERVICE: dict[str, Any] = {
    "kind": "Service",
    "metadata": {"name": "web"},
    "spec": {
        "type": "NodePort",
        "externalIPs": ["$externalIP4", "$externalIP6"],
        "ports": [{"name": "http", "port": 80}, {"name": "dns", "protocol": "UDP", "port": 53}],
    },
}
SLICE: dict[str, Any] = {
    "kind": "EndpointSlice",
    "metadata": {"name": "web-1"},
    "addressType": "$family",
    "endpoints": [{"addresses": ["$a"]}],
}


def file_with(flow: str) -> str:
    return f"feature: f\nscenarios: [{{name: one, steps: [{{flows: [{flow}]}}]}}]"


def made(*manifests: Mapping[str, Any]) -> Objects:
    return Objects(Allocator(), HOSTS, [dict(each) for each in manifests])


def rendered(objects: Objects, kind: str) -> list[dict[str, Any]]:
    return [each for each in objects.render() if each["kind"] == kind]


@pytest.mark.parametrize(
    ("flow", "complaint"),
    [
        ("{from: a, to: vip}", "step 1, flow 1: says either who `answers` or which `outcome`"),
        ("{from: a, to: vip, answers: b, outcome: dropped}", "says either"),
        ("{from: a, to: vip, outcome: rejected, source: kept}", "nobody answers what is rejected"),
        ("{from: [], to: vip, answers: b}", "names nobody"),
        ("{from: a, to: vip, answers: []}", "names nobody"),
        ("{from: a, to: vip, answers: b, source: {c: kept}}", "source of c, who must not answer"),
        ("{from: a, to: vip, answers: b, spread: true, sticky: w}", "either spread or sticky"),
        ("{from: a, to: vip, answers: b, forgotten: true}", "forgets what?"),
        ("{from: a, to: vip, outcome: lost}", "Invalid enum value 'lost'"),
        ("{from: a, to: vip, answer: b}", "unknown field `answer`"),
        ("{to: vip, answers: b}", "missing required field `from`"),
        ("{from: a", "not YAML"),
    ],
)
def test_a_flow_that_makes_no_sense_is_named_with_its_place(flow: str, complaint: str) -> None:
    with pytest.raises(ScenarioError, match=r"^f\.yaml: ") as caught:
        parse(file_with(flow), "f.yaml")

    assert complaint in str(caught.value)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("feature: f\nscenarios: [{name: one, steps: []}]", "one: no step has a flow"),
        (
            file_with("{from: a, to: vip, answers: b}").replace(
                "[{name", "[{name: one, steps: [{flows: [{from: a, to: vip, answers: b}]}]}, {name"
            ),
            "two scenarios are called 'one'",
        ),
        (
            file_with("{from: a, to: vip, answers: b}").replace(
                "[{flows", "[{delete: [web], flows"
            ),
            "step 1: 'web' is not KIND/NAME",
        ),
    ],
)
def test_a_scenario_that_makes_no_sense_is_named(text: str, complaint: str) -> None:
    with pytest.raises(ScenarioError) as caught:
        parse(text, "f.yaml")

    assert complaint in str(caught.value)


def test_a_service_gets_what_an_api_server_gives_it_and_keeps_it() -> None:
    objects = made(SERVICE)

    (first,) = rendered(objects, "Service")
    objects.change(Step(patch={"Service/web": {"spec": {"type": "ClusterIP"}}}))
    (second,) = rendered(objects, "Service")
    objects.change(Step(patch={"Service/web": {"spec": {"type": "NodePort"}}}))
    (third,) = rendered(objects, "Service")

    assert first["spec"]["clusterIP"] == first["spec"]["clusterIPs"][0]
    assert first["spec"]["ipFamilies"] == ["IPv4", "IPv6"]
    assert [p["protocol"] for p in first["spec"]["ports"]] == ["TCP", "UDP"]
    assert len({p["nodePort"] for p in first["spec"]["ports"]}) == 2
    assert "nodePort" not in second["spec"]["ports"][0]
    assert first["spec"] == third["spec"]
    assert first["metadata"]["uid"] == third["metadata"]["uid"]
    assert first["metadata"]["resourceVersion"] != third["metadata"]["resourceVersion"]


def test_a_service_of_one_family_gets_an_address_of_that_family() -> None:
    spec = {**SERVICE["spec"], "ipFamilies": ["IPv6"]}

    (service,) = rendered(made({**SERVICE, "spec": spec}), "Service")

    assert [":" in ip for ip in service["spec"]["clusterIPs"]] == [True]


@pytest.mark.parametrize("change", [{"type": "ExternalName"}, {"clusterIP": "None"}])
def test_what_has_no_cluster_ip_is_given_none(change: dict[str, str]) -> None:
    (service,) = rendered(made({**SERVICE, "spec": {**SERVICE["spec"], **change}}), "Service")

    assert service["spec"].get("clusterIP", "None") == "None"
    assert "clusterIPs" not in service["spec"]


def test_a_slice_stands_for_one_of_each_family() -> None:
    slices = rendered(made(SLICE), "EndpointSlice")

    assert [each["addressType"] for each in slices] == ["IPv4", "IPv6"]
    assert [each["metadata"]["name"] for each in slices] == ["web-1-ipv4", "web-1-ipv6"]
    assert [each["endpoints"][0]["addresses"][0] for each in slices] == [*HOSTS["a"]]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [("$a", r"\$a needs a 4 or 6 here"), ("$nobody4", "nobody is called nobody")],
)
def test_a_placeholder_without_a_meaning_is_named(text: str, complaint: str) -> None:
    with pytest.raises(ScenarioError, match=complaint):
        made({**SERVICE, "spec": {"externalIPs": [text]}}).render()


def test_a_patch_merges_and_null_removes() -> None:
    objects = made(SLICE)
    objects.change(
        Step(
            patch={"EndpointSlice/web-1": {"endpoints": None, "metadata": {"labels": {"x": "y"}}}}
        )
    )

    (first, _) = rendered(objects, "EndpointSlice")

    assert "endpoints" not in first
    assert first["metadata"]["labels"] == {"x": "y"}


@pytest.mark.parametrize("step", [Step(delete=("Service/no",)), Step(patch={"Service/no": {}})])
def test_what_is_not_there_cannot_be_changed(step: Step) -> None:
    with pytest.raises(ScenarioError, match="there is no Service/no; there is Service/web"):
        made(SERVICE).change(step)


def asked(flow: Flow, objects: Objects | None = None) -> list[list[Question]]:
    objects = objects or made(SERVICE)
    objects.render()
    return [list(job) for job in jobs([flow], objects, KNOWN)]


def test_a_flow_is_asked_for_each_client_frontend_port_and_family() -> None:
    flow = Flow(clients=("a", "node"), to=("clusterIP", "nodePort@second"), answers="b")

    questions = [question for (question,) in asked(flow)]

    assert len(questions) == 2 * 2 * 2 * 2
    assert {(q.port, q.protocol) for q in questions if q.target == "clusterIP"} == {
        (80, "TCP"),
        (53, "UDP"),
    }
    assert {q.address for q in questions if q.target != "clusterIP"} == {
        "172.18.1.1",
        "fd00:172:18:1::1",
    }


def test_a_sticky_flow_is_one_job_for_each_client_protocol_and_family() -> None:
    flow = Flow(clients=("a", "b"), to=("clusterIP", "nodePort"), answers="c", sticky="w")

    found = asked(flow)

    assert len(found) == 2 * 2 * 2
    assert all([each.target for each in job] == ["clusterIP", "nodePort"] for job in found)


def test_flows_of_a_step_with_the_same_word_are_asked_one_after_the_other() -> None:
    objects = made(SERVICE)
    objects.render()
    inside, outside, apart = (
        Flow(clients="a", to=target, answers="c", sticky=word, protocol="TCP", family="IPv4")
        for target, word in (("clusterIP", "w"), ("nodePort", "w"), ("nodePort", "v"))
    )

    found = jobs([inside, outside, apart], objects, KNOWN)

    assert [[each.flow for each in job] for job in found] == [[inside, outside], [apart]]


def test_an_undefined_port_is_asked_by_the_protocols_of_the_service() -> None:
    questions = asked(Flow(clients="a", to="clusterIP", port=443, outcome="rejected"))

    assert {(q.port, q.protocol) for (q,) in questions} == {(443, "TCP"), (443, "UDP")}


def test_what_a_service_has_lost_can_still_be_asked_by_name() -> None:
    objects = made(SERVICE)
    objects.render()
    objects.change(
        Step(patch={"Service/web": {"spec": {"ports": [{"name": "http", "port": 80}]}}})
    )

    gone = asked(Flow(clients="a", to="clusterIP", port="dns", outcome="rejected"), objects)
    left = asked(Flow(clients="a", to="clusterIP", answers="b"), objects)

    assert {q.protocol for (q,) in gone} == {"UDP"}
    assert {q.protocol for (q,) in left} == {"TCP"}


@pytest.mark.parametrize(
    ("flow", "complaint"),
    [
        (Flow(clients="me", to="clusterIP", answers="a"), "nobody is called me"),
        (Flow(clients="a", to="clusterIP", answers="me"), "nobody is called me"),
        (Flow(clients="a", to="vip", answers="b"), "there is no such frontend"),
        (Flow(clients="a", to="vip@second", answers="b"), "the node has no such address"),
        (Flow(clients="a", to="$b", answers="b"), "needs the number of a port"),
        (Flow(clients="a", to="clusterIP", service="no", answers="b"), "there is no service no"),
    ],
)
def test_a_flow_nobody_can_ask_is_named(flow: Flow, complaint: str) -> None:
    with pytest.raises(ScenarioError, match=complaint):
        asked(flow)


@pytest.mark.parametrize(
    ("outcome", "seen", "passed", "bare", "complaint"),
    [
        ("dropped", True, False, False, ""),
        ("rejected", True, False, False, ""),
        ("untouched", True, True, True, ""),
        ("dropped", False, False, False, "the packet never came to the node"),
        ("dropped", True, True, False, "got past all rules, translated"),
        ("rejected", True, True, True, "got past all rules, untranslated"),
        ("untouched", True, True, False, "but was translated"),
        ("untouched", True, False, False, "but was stopped"),
    ],
)
def test_silence_is_judged_by_where_the_packet_was_seen(
    outcome: Any, seen: bool, passed: bool, bare: bool, complaint: str
) -> None:
    flow = Flow(clients="a", to="vip", outcome=outcome)
    question = Question(flow, "a", "vip", "192.0.2.1", 80, "TCP", "IPv4")
    notes = Notes(*[{61000} if each else set() for each in (seen, passed, bare)])

    said = got_past(question, [61000], notes)

    assert complaint in said
    assert bool(complaint) == bool(said)


def test_a_spread_is_uneven_only_beyond_chance() -> None:
    assert uneven({"a": 125, "b": 125}) == ""
    assert uneven({"a": 140, "b": 110}) == ""
    assert "unevenly spread: a 180 times" in uneven({"a": 180, "b": 70})
    assert "chi-square" in uneven({"a": 100, "b": 50, "c": 50, "d": 50})


TABLE = """
policy       | who  | to       | default  | no detector
both Local   | a, b | vip      | all kept | here masq
"""


def test_a_table_of_masquerading_is_a_scenario_for_each_setting() -> None:
    feature = masquerade.parse(TABLE)

    assert [(each.name, each.setting) for each in feature.scenarios] == [
        ("both Local", "default"),
        ("both Local", "no detector"),
    ]
    (flow,) = feature.scenarios[1].steps[0].flows
    assert (flow.askers, flow.targets, flow.endpoints) == (("a", "b"), ("vip",), ("a",))
    assert flow.source == "masqueraded"


def test_what_a_table_says_of_the_node_itself_is_a_scenario_of_its_own() -> None:
    both, alone = TABLE.replace("a, b", "node, a"), TABLE.replace("a, b", "node")

    asking = [
        {each.name: each.steps[0].flows[0].askers for each in masquerade.parse(text).scenarios}
        for text in (both, alone)
    ]

    assert asking == [
        {"both Local": ("a",), "both Local, the node itself": ("node",)},
        {"both Local, the node itself": ("node",)},
    ]


@pytest.mark.parametrize(
    ("old", "new"), [("all kept", "some kept"), ("both", "no"), ("no detector", "magic")]
)
def test_a_table_with_an_unknown_word_is_refused(old: str, new: str) -> None:
    with pytest.raises(ScenarioError):
        masquerade.parse(TABLE.replace(old, new))


# --- health checks


def balanced(**spec: object) -> dict[str, Any]:
    local = {"type": "LoadBalancer", "externalTrafficPolicy": "Local", **spec}
    return {**SERVICE, "spec": {**SERVICE["spec"], **local}}


def test_a_health_check_node_port_is_given_where_the_api_server_gives_one_and_stays() -> None:
    objects = made(balanced())
    [first] = rendered(objects, "Service")
    objects.change(Step(patch={"Service/web": {"spec": {"externalTrafficPolicy": "Cluster"}}}))
    [without] = rendered(objects, "Service")
    objects.change(Step(patch={"Service/web": {"spec": {"externalTrafficPolicy": "Local"}}}))
    [again] = rendered(objects, "Service")

    port = first["spec"]["healthCheckNodePort"]
    assert port not in [each["nodePort"] for each in first["spec"]["ports"]]
    assert "healthCheckNodePort" not in without["spec"]
    assert again["spec"]["healthCheckNodePort"] == port
    assert objects.health_check_node_ports == [port]


def test_a_check_is_asked_of_each_address_by_each_client_over_each_family() -> None:
    objects = made(balanced(healthCheckNodePort=32700))
    rendered(objects, "Service")
    check = Check(clients=("a", "external"), at=("", "second"), status=503, endpoints=7)

    asked = checking.questions(check, objects, KNOWN)

    assert len(asked) == 8
    assert {each.port for each in asked} == {32700}
    assert {each.address for each in asked} == {
        *("172.18.0.1", "172.18.1.1"),
        *("fd00:172:18::1", "fd00:172:18:1::1"),
    }
    assert asked[0].wanted.startswith("503 application/json nosniff 7 {")
    assert '"name": "web"' in asked[0].wanted


@pytest.mark.parametrize(
    ("check", "complaint"),
    [
        (Check(clients="z", status=200), "nobody is called z"),
        (Check(clients="a", at="third", status=200), "the node has no address 'third'"),
        (Check(clients="a", status=200, service="api"), "api never had a health check node port"),
    ],
)
def test_a_check_of_what_is_not_there_is_named(check: Check, complaint: str) -> None:
    objects = made(balanced())
    rendered(objects, "Service")

    with pytest.raises(ScenarioError, match=complaint):
        checking.questions(check, objects, KNOWN)
