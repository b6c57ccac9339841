"""The command line around all commands: what runs which, exit codes, streams, and that no mistake ends in a traceback.

What would touch the kernel is replaced by a recorder; `explain` and real processes have files of their own.
"""

import json
import sys
from pathlib import Path
from typing import Final

import pytest

import backends
from backends.null.backend import NullBackend
from proxy import __version__, app
from proxy.cli import main
from proxy.config.settings import Settings
from proxy.errors import ConfigError, KernelError, Unsupported
from proxy.server import client
from tests.unit.proxy.explaining import Answer, run

CONFIG: Final = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n"


class Recorder:
    """Stands for what would run; it remembers the settings, and raises if it is told to."""

    def __init__(self, error: Exception | None = None) -> None:
        self.seen: list[Settings] = []
        self._error = error

    def __call__(self, settings: Settings) -> int:
        self.seen.append(settings)
        if self._error is not None:
            raise self._error
        return 0


@pytest.fixture
def daemon(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    recorder = Recorder()
    monkeypatch.setattr(app, "run", recorder)
    return recorder


def failing(monkeypatch: pytest.MonkeyPatch, error: Exception) -> Answer:
    """Run a daemon that ends with this error."""
    monkeypatch.setattr(app, "run", Recorder(error))
    return run("run", "--manifests", "objects.yaml", "--cluster-cidr", "10.244.0.0/16")


def test_version() -> None:
    assert run("version") == Answer(0, f"sliceproxy {__version__}\n", "")
    assert run("--version") == Answer(0, f"{__version__}\n", "")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--help"], ["run", "plan", "cleanup", "explain", "state", "version", "COMMAND"]),
        (["-h"], ["run", "plan", "cleanup", "explain", "state", "version", "COMMAND"]),
        (["run", "--help"], ["--manifests PATH", "--cluster-cidr", "--proxy-mode", "default"]),
        (
            ["explain", "--help"],
            ["--manifests PATH", "--node NAME", "--server URL", "{text,json}", "default"],
        ),
        (["state", "--help"], ["--server URL", "http://127.0.0.1:10249", "{text,json}"]),
        (["cleanup", "--help"], ["usage: sliceproxy cleanup"]),
        (["plan", "--help"], ["--manifests PATH", "--exit-code", "--wait SECONDS", "{text,json}"]),
        (["version", "--help"], ["usage: sliceproxy version"]),
    ],
)
def test_every_command_has_help(arguments: list[str], words: list[str]) -> None:
    answer = run(*arguments)

    assert (answer.code, answer.stderr) == (0, "")
    assert [word for word in words if word not in answer.stdout] == []


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["frobnicate"],
        ["version", "extra"],
        ["explain", "--frobnicate"],
        [
            "explain",
            "--manifests",
            "objects.yaml",
            "--server",
            "http://127.0.0.1:1",
            "--node",
            "n",
        ],
        ["explain", "--output", "ansi"],
        ["state", "--manifests", "objects.yaml"],
        ["state", "extra"],
        ["run", "--frobnicate"],
        ["--frobnicate"],
        ["run", "extra"],
        ["--config-sync-period", "soon"],
        ["--masquerade-all=maybe"],
        ["--v", "loud"],
        ["--config"],
        # a flag is never abbreviated
        ["--manifest", "objects.yaml"],
    ],
)
def test_wrong_arguments_exit_2_with_usage_and_nothing_on_standard_output(
    arguments: list[str], daemon: Recorder
) -> None:
    answer = run(*arguments)

    assert (answer.code, answer.stdout) == (2, "")
    assert "usage: sliceproxy" in answer.stderr
    assert "error: " in answer.stderr
    assert daemon.seen == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--bogus"], "--bogus; see `sliceproxy run --help`"),
        (
            ["run", "--hostname_override=x"],
            "--hostname_override=x; did you mean --hostname-override? see `sliceproxy run --help`",
        ),
        (
            ["explain", "--manifest", "a", "--node", "n"],
            "--manifest; did you mean --manifests? see `sliceproxy explain --help`",
        ),
        (["state", "extra"], "extra; see `sliceproxy state --help`"),
    ],
)
def test_of_an_argument_that_is_unknown_it_is_said_where_the_known_ones_are(
    arguments: list[str], words: str
) -> None:
    answer = run(*arguments)

    told = answer.stderr.splitlines()[-1]
    assert told == f"sliceproxy: error: unrecognized arguments: {words}"


@pytest.mark.parametrize("command", [[], ["run"]], ids=["flags only", "run"])
def test_called_with_flags_as_kube_proxy_is_it_runs(command: list[str], daemon: Recorder) -> None:
    answer = run(
        *command,
        "--hostname-override=Node-A",
        "--cluster-cidr",
        "10.244.0.0/16",
        "--proxy-mode=nftables",
        "--masquerade-all",
        "--v=2",
        "--manifests",
        "objects.yaml",
    )

    assert (answer.code, answer.stdout) == (0, "")
    (settings,) = daemon.seen
    assert (settings.node_name, settings.mode) == ("node-a", "nftables")
    assert (settings.masquerade_all, settings.manifests) == (True, "objects.yaml")


@pytest.mark.parametrize(
    "flags", [["-v", "4", "--manifests", "x"], ["--manifests=x"], ["--init-only=false"]]
)
def test_whatever_flag_comes_first_it_runs(flags: list[str], daemon: Recorder) -> None:
    assert run(*flags).code == 0
    assert len(daemon.seen) == 1


def test_cleanup_and_init_only_are_commands_of_kube_proxys_own(
    monkeypatch: pytest.MonkeyPatch, daemon: Recorder
) -> None:
    init = Recorder()
    cleaned: list[str] = []

    def cleanup(_: Settings, mode: str = "") -> list[str]:
        cleaned.append(mode)
        return ["nftables: removed 3 objects"]

    monkeypatch.setattr(app, "init", init)
    monkeypatch.setattr(app, "cleanup", cleanup)

    assert run("--init-only").code == 0
    assert [len(init.seen), len(cleaned)] == [1, 0]
    for arguments in (["cleanup"], ["--cleanup"], ["run", "--cleanup=true"]):
        answer = run(*arguments)
        assert (answer.code, answer.stdout) == (0, "nftables: removed 3 objects\n")
    assert run("cleanup", "--mode", "ipvs").code == 0
    assert (len(init.seen), cleaned, len(daemon.seen)) == (1, ["", "", "", "ipvs"], 0)


MANIFESTS: Final = """\
kind: Service
metadata: {name: web, namespace: default}
spec: {clusterIP: 10.96.0.1, ports: [{port: 80}]}
---
kind: Service
metadata: {name: broken, namespace: default}
spec: {clusterIP: 10.96.0.2, ports: [{port: many}]}
---
kind: Node
metadata: {name: n1}
"""


def plan(file: Path, *arguments: str) -> Answer:
    """Ask what a start in the mode that programs nothing would do."""
    return run(
        "plan", "--manifests", str(file), "--hostname-override", "n1", "--proxy-mode", "null",
        "--cluster-cidr", "10.244.0.0/16", *arguments,
    )  # fmt: skip


def test_what_a_start_would_do_is_said_and_not_done(tmp_path: Path, daemon: Recorder) -> None:
    file = tmp_path / "objects.yaml"
    file.write_text(MANIFESTS)

    answer = plan(file)

    assert answer.code == 0
    assert answer.stdout.splitlines() == [
        "mode null on node n1: 1 service port",
        "to be written:",
        "  remember default/web (TCP, IPv4)",
        "1 object to be written or removed; nothing was changed",
    ]
    (warning,) = answer.warnings
    assert "Service default/broken" in warning
    assert daemon.seen == []


def test_whether_there_is_anything_to_do_can_be_told_by_the_exit_status(tmp_path: Path) -> None:
    file = tmp_path / "objects.yaml"
    file.write_text(MANIFESTS)
    busy = plan(file, "--exit-code", "-o", "json")
    file.write_text("kind: Node\nmetadata: {name: n1}\n")
    idle = plan(file, "--exit-code", "--output=json")

    assert (busy.code, idle.code) == (3, 0)
    assert json.loads(busy.stdout)["operations"] == [
        {"plan": 1, "phase": "program", "operation": "remember default/web (TCP, IPv4)"}
    ]
    assert json.loads(idle.stdout)["operations"] == []


@pytest.mark.parametrize("flag", ["--cleanup", "--init-only", "--write-config-to=config.yaml"])
def test_a_plan_is_not_asked_to_do_anything(flag: str, tmp_path: Path) -> None:
    answer = plan(tmp_path, flag)

    assert flag.partition("=")[0] not in run("plan", "--help").stdout
    assert flag.partition("=")[0] in run("run", "--help").stdout
    assert (answer.code, answer.stdout) == (2, "")
    assert (
        answer.stderr
        == f"sliceproxy: {flag.split('=', maxsplit=1)[0]}: is for run; plan changes nothing\n"
    )


def test_a_plan_without_objects_is_the_operators_mistake(tmp_path: Path) -> None:
    answer = plan(tmp_path / "missing")

    assert (answer.code, answer.stdout) == (2, "")
    assert (
        answer.stderr
        == f"sliceproxy: --manifests: {tmp_path}/missing: no such file or directory\n"
    )


def test_a_plan_says_that_the_node_is_not_known(tmp_path: Path) -> None:
    file = tmp_path / "objects.yaml"
    file.write_text(MANIFESTS)

    answer = plan(file, "--hostname-override", "n2")

    assert answer.code == 0
    assert "warning: no Node object named n2: its zone is unknown" in answer.warnings


@pytest.mark.parametrize("wait", ["0", "-1", "nan", "inf", "soon"])
def test_a_plan_waits_for_some_time(wait: str, tmp_path: Path) -> None:
    answer = plan(tmp_path, f"--wait={wait}")

    assert (answer.code, answer.stdout) == (2, "")
    assert "--wait" in answer.stderr


def test_without_standard_output_nobody_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "objects.yaml"
    file.write_text(MANIFESTS)
    monkeypatch.setattr(sys, "stdout", None)

    arguments = ["--manifests", str(file), "--node", "n1"]
    assert main(["explain", *arguments]) == 0


def test_cleaning_up_after_a_mode_that_does_not_exist_is_the_operators_mistake() -> None:
    answer = run("cleanup", "--mode", "ipvz")

    assert (answer.code, answer.stdout) == (2, "")
    assert (
        answer.stderr
        == "sliceproxy: --mode: 'ipvz' is none of nftables, ipvs, iptables, userspace, null\n"
    )


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            KernelError("nftables query", 1, "Operation not permitted"),
            "nftables query: needs the capability NET_ADMIN (Operation not permitted) (errno 1)",
        ),
        (KernelError("nftables query", 12, "no memory"), "nftables query: no memory (errno 12)"),
    ],
)
def test_cleaning_up_takes_a_right(
    error: KernelError, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Refused(NullBackend):
        async def cleanup(self) -> int:
            raise error

    monkeypatch.setattr(backends, "create", lambda *_: Refused())

    assert run("cleanup") == Answer(1, "", f"sliceproxy: {words}\n")


def test_write_config_to_writes_and_does_not_run(tmp_path: Path, daemon: Recorder) -> None:
    file = tmp_path / "config.yaml"

    answer = run("--write-config-to", str(file), "--cluster-cidr", "10.244.0.0/16")

    assert (answer.code, answer.stdout, answer.stderr) == (0, f"wrote {file}\n", "")
    assert "kind: KubeProxyConfiguration" in file.read_text()
    assert "clusterCIDR: 10.244.0.0/16" in file.read_text()
    assert daemon.seen == []
    # what was written is a configuration
    assert run("--config", str(file)).code == 0
    assert daemon.seen[0].cluster_cidrs == ("10.244.0.0/16",)


def test_write_config_to_says_what_cannot_be_written_and_where(tmp_path: Path) -> None:
    warned = run("--write-config-to", str(tmp_path / "config.yaml"))
    nowhere = run("--write-config-to", str(tmp_path / "missing" / "config.yaml"))

    assert warned.code == 0
    assert warned.stderr.startswith("warning: clusterCIDR is empty: ")
    assert (nowhere.code, nowhere.stdout) == (1, "")
    assert f"No such file or directory: {tmp_path}/missing/config.yaml" in nowhere.stderr


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (CONFIG + "bindAddress: nowhere\n", ["bindAddress", "IP address", "nowhere"]),
        (CONFIG + "mode: quantum\n", ["mode", "quantum", "nftables"]),
        (CONFIG + "iptables: {masqueradeBit: 99}\n", ["masqueradeBit", "31"]),
        (CONFIG + "conntrack: [1]\n", ["conntrack"]),
        ("kind: Pod\n", ["KubeProxyConfiguration"]),
        ("{", []),
        ("", []),
    ],
)
def test_a_mistake_in_the_configuration_exits_2_and_names_file_and_field(
    content: str, words: list[str], tmp_path: Path, daemon: Recorder
) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(content)

    answer = run("--config", str(file))

    assert (answer.code, answer.stdout) == (2, "")
    assert answer.stderr.startswith(f"sliceproxy: {file}")
    assert [word for word in words if word not in answer.stderr] == []
    assert daemon.seen == []


@pytest.mark.parametrize(
    "flags",
    [
        ["--config", "/nowhere/config.yaml"],
        ["--config", "/"],
        ["--sliceproxy-config", "/nowhere/config.yaml"],
        ["--bind-address", "nowhere"],
        ["--proxy-mode", "quantum"],
        ["--cluster-cidr", "10.244.0.0"],
        ["--hostname-override", " "],
        ["--manifests", "a", "--watch-events", "b"],
    ],
)
def test_a_mistake_in_a_flag_exits_2_and_names_it(flags: list[str], daemon: Recorder) -> None:
    answer = run(*flags)

    assert (answer.code, answer.stdout) == (2, "")
    assert answer.stderr.startswith("sliceproxy: ")
    assert flags[1] in answer.stderr or flags[0] in answer.stderr
    assert daemon.seen == []


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (ConfigError("mode: wrong"), 2, "sliceproxy: mode: wrong\n"),
        (Unsupported("nftables", "no kernel"), 1, "sliceproxy: nftables: no kernel\n"),
        (
            KernelError("add table", 1, "Operation not permitted"),
            1,
            "sliceproxy: add table: Operation not permitted (errno 1)\n",
        ),
        (
            FileNotFoundError(2, "No such file or directory", "events"),
            1,
            "sliceproxy: No such file or directory: events\n",
        ),
        (OSError(28, "No space left on device"), 1, "sliceproxy: [Errno 28] No space left on"),
    ],
)
def test_what_the_operator_can_act_on_is_said_in_a_sentence(
    error: Exception, code: int, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = failing(monkeypatch, error)

    assert (answer.code, answer.stdout) == (code, "")
    assert text in answer.stderr


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ZeroDivisionError):
        failing(monkeypatch, ZeroDivisionError())


def test_an_interrupt_exits_130_in_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_settings: Settings) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(app, "run", interrupted)

    assert run("run", "--cluster-cidr", "10.244.0.0/16").code == 130


def test_a_stream_that_does_not_exist_ends_the_real_daemon_with_a_sentence() -> None:
    answer = run(
        "--proxy-mode=null", "--metrics-bind-address=", "--watch-events=/nowhere/events.ndjson"
    )

    assert (answer.code, answer.stdout) == (2, "")
    (told,) = [line for line in answer.stderr.splitlines() if line.startswith("sliceproxy: ")]
    assert "No such file or directory" in told
    assert "/nowhere/events.ndjson" in told


def test_main_takes_its_arguments_from_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["sliceproxy", "version"])

    assert main() == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["explain", "--manifests", "objects.yaml"], "--node: --manifests needs"),
        (["explain", "--node", "n1"], "--node: goes with --manifests"),
        (["explain", "--server", "ftp://h"], "--server: 'ftp://h' is not of the form"),
        (["state", "--server", "http://h:x"], "--server: 'http://h:x' is no URL"),
    ],
)
def test_arguments_that_do_not_go_together_are_the_operators_to_change(
    arguments: list[str], words: str
) -> None:
    answer = run(*arguments)

    assert (answer.code, answer.stdout) == (2, "")
    assert words in answer.stderr


@pytest.mark.parametrize("arguments", [["explain"], ["explain", "shop/api"], ["state"]])
def test_without_manifests_the_daemon_on_this_node_is_asked(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str | None, str, object]] = []

    def ask(url: str | None, path: str, parameters: object) -> client.Page:
        asked.append((url, path, parameters))
        return client.Page("the answer\n", "")

    monkeypatch.setattr(client, "ask", ask)
    answer = run(*arguments)

    service = {"service": "shop/api"} if len(arguments) > 1 else {}
    parameters = {"output": "text", **service}
    assert answer == Answer(0, "the answer\n", "")
    assert asked == [(None, f"/debug/{arguments[0]}", parameters)]


@pytest.mark.parametrize(
    ("command", "otherwise"),
    [
        ("state", "If it serves metrics elsewhere, name its address with --server"),
        (
            "explain",
            "If it serves metrics elsewhere, name its address with --server, or read files with --manifests",
        ),
    ],
)
def test_where_nobody_answers_it_is_said_who_else_can_be_asked(
    command: str, otherwise: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask(*_: object) -> client.Page:
        raise client.NobodyError("nothing listens: does it run?")

    monkeypatch.setattr(client, "ask", ask)

    nobody = "sliceproxy: nothing listens: does it run?"
    assert run(command) == Answer(1, "", f"{nobody} {otherwise}\n")
    assert run(command, "--server", "http://h") == Answer(1, "", f"{nobody}\n")
