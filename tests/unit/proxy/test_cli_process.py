"""The command as a process: pipelines, streams that are closed or full, encodings, and what is imported."""

import itertools
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

import pytest

from tests.unit.proxy.explaining import Answer, endpoint_slice, service

ROOT: Final = Path(__file__).parents[3]


def python(
    *arguments: str, stdout: int = subprocess.PIPE, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run `python -m proxy` as a process of its own, with buffered output as in a pipeline."""
    inherited = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    return subprocess.run(
        [sys.executable, "-m", "proxy", *arguments],
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        check=False,
        cwd=ROOT,
        env=inherited | (environment or {}),
    )


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return a file of ten services with ten endpoints each."""
    file = tmp_path_factory.mktemp("manifests") / "objects.yaml"
    endpoints = [f"addresses: [10.1.0.{n}], nodeName: n{n}" for n in range(10)]
    documents = [service() + endpoint_slice(*endpoints) for _ in range(10)]
    file.write_text(
        "".join(
            text.replace("name: web,", f"name: web-{n},")
            .replace("service-name: web}", f"service-name: web-{n}}}")
            .replace("name: web-1,", f"name: web-{n},")
            for n, text in zip(itertools.count(), documents, strict=False)
        )
    )
    return str(file)


def test_the_command_as_a_process(objects: str) -> None:
    started = time.perf_counter()
    ran = python("explain", "--manifests", objects, "--node", "n1", "-o", "json")
    took_s = time.perf_counter() - started

    print(f"\nexplain answered about ten services after {took_s:.3f} s")
    assert ran.returncode == 0
    assert Answer(0, ran.stdout, "").documents[9]["servicePort"] == "default/web-9"
    assert ran.stderr == "warning: no Node object named n1: its zone is unknown\n"


def test_explaining_from_manifests_imports_nothing_for_servers_and_clusters(objects: str) -> None:
    program = (
        "import sys; from proxy.cli import main;"
        f"main(['explain', '--manifests', {objects!r}, '--node', 'n1', '-o', 'json']);"
        "print(*sys.modules, file=sys.stderr)"
    )

    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT
    )

    imported = set(ran.stderr.splitlines()[-1].split())
    assert "proxy.explain" in imported
    assert imported & {"aiohttp", "uvloop", "kubernetes", "asyncio", "backends"} == set()


@pytest.mark.parametrize("output", ["text", "json"])
def test_a_reader_that_has_gone_is_no_mishap(objects: str, output: str) -> None:
    """As with `| head -1`: however much of the output was still buffered, nothing is said and nothing hangs."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        for arguments in (("explain", "web-1"), ("explain",)):
            ran = python(
                *arguments, "--manifests", objects, "--node", "n1", "-o", output, stdout=writer
            )

            assert ran.returncode == 1
            assert ran.stderr == "warning: no Node object named n1: its zone is unknown\n"
    finally:
        os.close(writer)


def test_output_that_cannot_be_written_is_a_failure(objects: str) -> None:
    with Path("/dev/full").open("w") as full:
        explained = python("explain", "--manifests", objects, "--node", "n1", stdout=full.fileno())
        version = python("version", stdout=full.fileno())

    assert (explained.returncode, version.returncode) == (1, 1)
    assert version.stderr == "sliceproxy: [Errno 28] No space left on device\n"
    assert explained.stderr.endswith(version.stderr)


def test_standard_error_that_was_closed_does_not_mix_with_the_answer(objects: str) -> None:
    ran = subprocess.run(
        [
            "sh",
            "-c",
            'exec "$@" 2>&-',
            "sh",
            *(sys.executable, "-m", "proxy", "explain", "web-1", "--manifests", objects),
            *("--node", "n1", "-o", "json"),
        ],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        cwd=ROOT,
    )

    assert Answer(0, ran.stdout, "").only["servicePort"] == "default/web-1"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_names_that_the_terminal_cannot_show_are_shown_otherwise(
    encoding: str, tmp_path: Path
) -> None:
    file = tmp_path / "objects.yaml"
    file.write_text(service(ports="[{port: 80, name: prix-€}]"), encoding="utf-8")
    arguments = ["explain", "--manifests", str(file), "--node", "n1"]
    environment = {"PYTHONIOENCODING": encoding}

    as_json = python(*arguments, "-o", "json", environment=environment)
    as_text = python(*arguments, environment=environment)

    assert (as_json.returncode, as_text.returncode) == (0, 0)
    assert Answer(0, as_json.stdout, "").only["servicePort"] == "default/web:prix-€"
    expected = "prix-€" if encoding == "utf-8" else "prix-\\u20ac"
    assert as_text.stdout.startswith(f"default/web:{expected}  TCP")
