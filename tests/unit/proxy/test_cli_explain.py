"""The command `explain`: what can be asked, where it reads, and what is said beside the answer."""

import contextlib
import io
from pathlib import Path

import pytest

from proxy.cli import main
from tests.unit.proxy.explaining import Answer, endpoint_slice, node, run, service

OBJECTS = service() + endpoint_slice("addresses: [10.1.0.1]") + node()
SHOP = service().replace("name: web, namespace: default", "name: api, namespace: shop")
TEXT = """\
default/web  TCP IPv4  on node n1, zone z1
  ClusterIP     10.96.0.1:80  policy Cluster
  cluster list  1 of 1 endpoint
  local list    not used by this service
  ENDPOINT     CLUSTER LIST  LOCAL LIST  NODE  ZONE  SLICE
  10.1.0.1:80  + ready       -           -     -     web-1
"""


@pytest.fixture
def objects(tmp_path: Path) -> Path:
    """Return a file with two services, and the node."""
    file = tmp_path / "objects.yaml"
    file.write_text(OBJECTS + SHOP)
    return file


def explain(path: object, *arguments: str, own: str = "n1") -> Answer:
    return run("explain", *arguments, "--manifests", str(path), "--node", own)


def explain_json(path: object, *arguments: str) -> Answer:
    return explain(path, *arguments, "-o", "json")


def names(answer: Answer) -> list[str]:
    assert answer.code == 0
    return sorted(d["servicePort"] for d in answer.documents)


def test_without_a_name_all_services_are_explained(objects: Path) -> None:
    answer = explain_json(objects)

    assert names(answer) == ["default/web", "shop/api"]
    assert answer.stderr == ""


@pytest.mark.parametrize(
    ("service_name", "expected"),
    [("default/web", "default/web"), ("web", "default/web"), ("shop/api", "shop/api")],
)
def test_a_name_without_namespace_is_in_default(
    service_name: str, expected: str, objects: Path
) -> None:
    answer = explain_json(objects, service_name)

    assert names(answer) == [expected]
    assert answer.stderr == ""


@pytest.mark.parametrize("output", ["text", "json"])
@pytest.mark.parametrize(
    ("service_name", "expected"),
    [
        ("nothing", "no Service default/nothing in"),
        ("shop/web", "no Service shop/web in"),
        ("default/web/http", "no Service default/web/http in"),
        ("Default/Web", "no Service Default/Web in"),
        ("default/", "no Service default/ in"),
        ("/web", "no Service /web in"),
        ("", "no Service default/ in"),
    ],
)
def test_a_name_that_no_object_has_exits_1_with_a_message(
    service_name: str, expected: str, output: str, objects: Path
) -> None:
    answer = explain(objects, service_name, "-o", output)

    assert (answer.code, answer.stdout) == (1, "")
    assert f"sliceproxy: {expected} {objects}" in answer.stderr


def test_a_service_of_that_name_elsewhere_is_hinted_at(objects: Path) -> None:
    assert explain(objects, "api").stderr == (
        f"sliceproxy: no Service default/api in {objects}; there is shop/api\n"
    )


@pytest.mark.parametrize("kind", ["EndpointSlice", "Node", "ConfigMap"])
def test_an_object_of_another_kind_is_no_service(kind: str, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(f"kind: {kind}\nmetadata: {{name: web}}\n")

    assert explain(tmp_path, "web").code == 1


def test_a_service_that_is_not_proxied_has_an_empty_answer_in_either_form(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(service(cluster_ip="None") + node())

    assert explain_json(tmp_path, "web") == Answer(
        0, "[]\n", "note: default/web is not proxied: headless\n"
    )
    assert explain(tmp_path, "web") == Answer(
        0, "", "note: default/web is not proxied: headless\n"
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ["explain", "--manifests", "PATH"],
        ["explain", "--node", "n1"],
        ["explain", "--manifests", "PATH", "--node"],
        ["explain", "--manifests", "PATH", "--node", "n1", "-o", "yaml"],
        ["explain", "--manifests", "PATH", "--node", "n1", "--kubeconfig", "x"],
        ["explain", "a", "b", "--manifests", "PATH", "--node", "n1"],
        # names that no node can have, and a path that a variable did not fill in
        ["explain", "--manifests", "PATH", "--node", ""],
        ["explain", "--manifests", "PATH", "--node", "  "],
        ["explain", "--manifests", "PATH", "--node", "n\x1b1"],
        ["explain", "--manifests", "PATH", "--node", "n\udcff"],
        ["explain", "--manifests", "", "--node", "n1"],
    ],
)
def test_wrong_flags_exit_2_and_print_nothing(arguments: list[str], objects: Path) -> None:
    answer = run(*[str(objects) if each == "PATH" else each for each in arguments])

    assert (answer.code, answer.stdout) == (2, "")
    assert "sliceproxy" in answer.stderr


def test_flags_may_stand_anywhere(objects: Path) -> None:
    orders = [
        ["-o", "json", "web", "--node", "n1", "--manifests", str(objects)],
        ["--output=json", "--node=n1", f"--manifests={objects}", "web"],
        ["web", f"--manifests={objects}", "--node=n1", "-o=json"],
        [f"--manifests={objects}", "--node=n1", "-ojson", "--", "web"],
    ]

    assert {run("explain", *order) for order in orders} == {explain_json(objects, "web")}


def test_a_path_that_cannot_be_read_exits_2_and_is_named(objects: Path, tmp_path: Path) -> None:
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    for path, why in (
        (tmp_path / "missing", "no such file or directory"),
        (objects / "below-a-file", "not a directory"),
        (loop, "too many levels of symbolic links"),
    ):
        answer = explain_json(path)

        assert (answer.code, answer.stdout) == (2, "")
        assert answer.stderr == f"sliceproxy: --manifests: {path}: {why}\n"


def test_a_directory_holds_what_its_files_hold(tmp_path: Path) -> None:
    (tmp_path / "1.yaml").write_text(service())
    (tmp_path / "2.yml").write_text(node())
    (tmp_path / "3.json").write_text(
        '{"kind": "EndpointSlice", "metadata": {"name": "a", "labels": {"kubernetes.io/service-name":'
        ' "web"}}, "addressType": "IPv4", "ports": [{"name": "", "port": 80}],'
        ' "endpoints": [{"addresses": ["10.1.0.1"]}]}'
    )
    for other in ("4.txt", ".5.yaml", "6.yaml~", "7.yaml.swp"):
        (tmp_path / other).write_text(SHOP)
    (tmp_path / "8.yaml").mkdir()
    (tmp_path / "8.yaml" / "9.yaml").write_text(SHOP)

    answer = explain_json(tmp_path)

    assert names(answer) == ["default/web"]
    assert answer.only["cluster"] == ["10.1.0.1:80"]
    assert answer.stderr == ""


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("broken.yaml", "kind: Service\nmetadata: {name: b\n", "line"),
        ("broken.yaml", "a: b: c\n", "line 1"),
        ("broken.yaml", "kind: \x01\n", ""),
        ("broken.yaml", "- kind: Service\n", "object"),
        ("broken.yaml", "just text\n", "object"),
        ("broken.json", '{"kind": "Service", "metadata": {"name": "b"', ""),
        ("broken.json", '{"kind": "Service",\n "metadata": nothing}', "line 2"),
        ("broken.json", "kind: Service\n", "line 1"),
        ("broken.json", "", ""),
        ("broken.yaml", "[" * 5000, ""),
        ("broken.json", "[" * 100_000, ""),
    ],
)
def test_a_broken_file_is_warned_of_and_the_others_are_read(
    name: str, content: str, words: str, tmp_path: Path
) -> None:
    (tmp_path / "a.yaml").write_text(OBJECTS)
    (tmp_path / name).write_text(content)
    (tmp_path / "z.yaml").write_text(SHOP)

    answer = explain_json(tmp_path)

    assert names(answer) == ["default/web", "shop/api"]
    (warning,) = answer.stderr.splitlines()
    assert warning.startswith(f"warning: File {tmp_path / name}")
    assert words in warning


def test_where_a_broken_file_leaves_nothing_to_explain_the_status_says_so(tmp_path: Path) -> None:
    (tmp_path / "broken.yaml").write_text("a: b: c\n")

    answer = explain_json(tmp_path / "broken.yaml")

    assert (answer.code, answer.stdout) == (1, "")
    assert any("broken.yaml" in warning for warning in answer.warnings)
    nothing = f"sliceproxy: no Service in {tmp_path}/broken.yaml is proxied"
    assert answer.stderr.splitlines()[-1] == nothing
    (tmp_path / "a.yaml").write_text(service(cluster_ip="None") + node())
    assert explain(tmp_path).code == 1
    assert explain(tmp_path, "web").code == 0, "it is not proxied, and that is an answer"


def test_a_file_that_is_not_text_is_warned_of_and_the_others_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(OBJECTS)
    (tmp_path / "b.yaml").write_bytes(bytes(range(256)))
    (tmp_path / "c.json").write_bytes(b'{"kind": "Service", "metadata": {"name": "\xff"}}')
    (tmp_path / "d.yaml").symlink_to("d.yaml")
    (tmp_path / "e.yaml").symlink_to("gone.yaml")

    answer = explain_json(tmp_path)

    assert names(answer) == ["default/web"]
    warned = [line.split()[2].rstrip(":") for line in answer.warnings]
    assert warned == [str(tmp_path / name) for name in ("b.yaml", "c.json", "d.yaml")]


def test_an_empty_directory_has_an_empty_answer(tmp_path: Path) -> None:
    expected = [
        "warning: no Node object named n1: its zone is unknown",
        f"note: no Service in {tmp_path} is proxied",
    ]

    as_json, as_text = explain_json(tmp_path), explain(tmp_path)

    assert (as_json.code, as_json.stdout, as_json.stderr.splitlines()) == (0, "[]\n", expected)
    assert (as_text.code, as_text.stdout, as_text.stderr.splitlines()) == (0, "", expected)


def test_an_object_in_two_files_is_that_of_the_last_and_a_warning_names_both(
    tmp_path: Path,
) -> None:
    (tmp_path / "10.yaml").write_text(service(cluster_ip="10.96.0.10"))
    (tmp_path / "9.yaml").write_text("# a comment\n---\n" + service(cluster_ip="10.96.0.9"))
    (tmp_path / "n.yaml").write_text(node())

    answer = explain_json(tmp_path)

    assert answer.only["frontends"][0]["address"] == "10.96.0.9"
    (warning,) = answer.warnings
    places = ["Service default/web", f"{tmp_path}/10.yaml:1", f"{tmp_path}/9.yaml:3"]
    assert [word for word in places if word not in warning] == []


def test_without_the_node_object_the_zone_is_unknown_and_that_is_said(objects: Path) -> None:
    answer = explain(objects, "web", "-o", "json", own="n7")

    assert (answer.only["node"], answer.only["zone"]) == ("n7", "")
    assert answer.stderr == "warning: no Node object named n7: its zone is unknown\n"


def test_what_has_no_name_is_found_by_its_file(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(OBJECTS)
    (tmp_path / "b.yaml").write_text("kind: Service\nspec: {clusterIP: 10.0.0.1}\n")

    (warning,) = explain_json(tmp_path).warnings

    assert warning.startswith(f"warning: File {tmp_path}/b.yaml: Service ")
    assert warning.endswith("metadata.name: missing")


class Terminal(io.StringIO):
    """Standard output that is a terminal."""

    def isatty(self) -> bool:
        return True


def on_a_terminal(path: Path) -> str:
    terminal = Terminal()
    with contextlib.redirect_stdout(terminal):
        assert main(["explain", "web", "--manifests", str(path), "--node", "n1"]) == 0
    return terminal.getvalue()


def test_the_text_form_is_plain_where_there_is_no_terminal(objects: Path) -> None:
    assert explain(objects, "web") == Answer(0, TEXT, "")
    assert explain(objects, "web", "-o", "text") == Answer(0, TEXT, "")


def test_the_text_form_is_coloured_on_a_terminal(
    objects: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    # https://no-color.org: an empty value says nothing
    monkeypatch.setenv("NO_COLOR", "")

    assert on_a_terminal(objects).startswith("\x1b[1mdefault/web\x1b[0m  TCP IPv4")


@pytest.mark.parametrize(("variable", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_colours_can_be_declined(
    variable: str, value: str, objects: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv(variable, value)

    assert on_a_terminal(objects) == TEXT


def test_json_is_never_coloured(objects: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    terminal = Terminal()
    with contextlib.redirect_stdout(terminal):
        main(["explain", "web", "--manifests", str(objects), "--node", "n1", "-o", "json"])

    assert terminal.getvalue() == explain_json(objects, "web").stdout


def test_names_cannot_steer_the_terminal(tmp_path: Path) -> None:
    clear = '"\\e[2J\\nweb"'
    (tmp_path / "a.yaml").write_text(
        f"kind: Service\nmetadata: {{name: {clear}}}\n"
        "spec: {clusterIP: 10.0.0.1, ports: [{port: 80}, {port: 80}]}\n---\n"
        + endpoint_slice(
            f"addresses: [10.1.0.1], nodeName: {clear}, zone: {clear}",
            name=clear,
            labels=f"{{kubernetes.io/service-name: {clear}}}",
        )
        + 'kind: Node\nmetadata: {name: n1, labels: {topology.kubernetes.io/zone: "a\\nb"}}\n'
    )

    answer = explain(tmp_path)

    assert answer.code == 0
    assert "\x1b" not in answer.stdout + answer.stderr
    assert answer.stdout.startswith(
        "default/\\x1b[2J\\nweb  TCP IPv4  on node n1, zone a\\nb\n  ClusterIP"
    )
    assert answer.stdout.splitlines()[-1].count("\\x1b[2J\\nweb") == 3
    assert "stands in the list twice" in answer.stderr
