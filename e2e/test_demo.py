"""The demo itself, without its pauses: it succeeds, tells the truth, and leaves nothing behind."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DEMO = [sys.executable, "-m", "e2e.demo", "--fast"]

pytestmark = pytest.mark.requires("nftables")


def leftovers(output: str) -> list[str]:
    """What is still there of a demo with this output: namespaces (which hold its processes) and files."""
    run_id = re.findall(r"netns exec (sp-[0-9a-f]{6})", output)[0]
    directory = Path(re.findall(r"--(?:manifests|config) (/\S+)", output)[0]).parent
    namespaces = [path.name for path in Path("/run/netns").iterdir()]
    return [name for name in namespaces if name.startswith(run_id)] + [
        str(path) for path in [directory] if path.exists()
    ]


@pytest.mark.parametrize("source", ["manifests", "apiserver"])
def test_all_steps_take_effect_and_no_connection_fails(source: str) -> None:
    done = subprocess.run(
        DEMO,
        cwd=ROOT,
        env=os.environ | {"COLUMNS": "80", "SOURCE": source},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )

    lines = done.stdout.splitlines()
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    assert re.findall(r"^\[(\d)/7\] ", done.stdout, re.MULTILINE) == list("1234567")
    assert ("API server" in done.stdout) == (source == "apiserver")
    assert re.fullmatch(r"0 failed connections of [1-9]\d{3,}", lines[-1])
    assert len(re.findall(r"first answer after +\d+ ms", done.stdout)) == 9
    # without a terminal: nothing is redrawn or coloured, and no line is wider than usual
    assert "\x1b" not in done.stdout
    assert max(map(len, lines)) <= 80
    assert leftovers(done.stdout) == []


@pytest.mark.requires("iptables", "ipset")
def test_it_succeeds_in_another_mode_too() -> None:
    done = subprocess.run(
        DEMO,
        cwd=ROOT,
        env=os.environ | {"MODE": "iptables"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    assert "iptables-save" in done.stdout
    assert re.fullmatch(r"0 failed connections of [1-9]\d{3,}", done.stdout.splitlines()[-1])
    assert leftovers(done.stdout) == []


def test_it_succeeds_without_netfilter() -> None:
    done = subprocess.run(
        DEMO,
        cwd=ROOT,
        env=os.environ | {"MODE": "userspace"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    assert re.findall(r"^\[(\d)/7\] ", done.stdout, re.MULTILINE) == list("1234567")
    assert "refuses this process everything of netfilter" in done.stdout
    assert re.fullmatch(r"0 failed connections of [1-9]\d{3,}", done.stdout.splitlines()[-1])
    assert leftovers(done.stdout) == []


def test_a_mode_that_does_not_exist_is_refused() -> None:
    done = subprocess.run(
        DEMO, cwd=ROOT, env=os.environ | {"MODE": "ebpf"}, capture_output=True, check=False
    )

    assert (done.returncode, done.stdout) == (2, b"")
    assert b"MODE=ebpf: choose from nftables, iptables, ipvs, userspace" in done.stderr


def test_a_source_that_does_not_exist_is_refused() -> None:
    done = subprocess.run(
        DEMO, cwd=ROOT, env=os.environ | {"SOURCE": "etcd"}, capture_output=True, check=False
    )

    assert (done.returncode, done.stdout) == (2, b"")
    assert b"SOURCE=etcd: choose from manifests, apiserver" in done.stderr


def test_ctrl_c_ends_it_and_leaves_nothing_behind() -> None:
    # what runs in the background of a script is to ignore it, and so would whatever is started here
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with subprocess.Popen(
        DEMO,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        process_group=0,
    ) as demo:
        assert demo.stdout is not None
        seen = ""
        for line in demo.stdout:
            seen += line
            if line.startswith("[2/7]"):
                # a terminal sends it to the whole group: the daemon, pods and clients hear it too
                os.killpg(demo.pid, signal.SIGINT)
                break
        rest = demo.stdout.read()

    assert demo.returncode == 128 + signal.SIGINT, seen + rest
    assert rest.splitlines()[-1] == "SIGINT: stopped; everything is removed again"
    assert "Traceback" not in seen + rest
    assert leftovers(seen) == []
