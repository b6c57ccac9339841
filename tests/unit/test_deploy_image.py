"""The Dockerfile takes what is there, all that the wheel needs, and nothing else."""

import fnmatch
import re
import tomllib

import proxy
from tests import deployment
from tests.deployment import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def steps(instruction: str) -> list[deployment.Step]:
    return [step for step in deployment.steps() if step.instruction == instruction]


def copied() -> set[str]:
    return {source for step in steps("COPY") for source in step.copied()}


def test_everything_copied_is_there() -> None:
    assert copied()
    assert [name for name in copied() if not (ROOT / name).exists()] == []


def test_everything_the_wheel_is_made_of_is_copied() -> None:
    project = PROJECT["project"]
    packages = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]

    needed = {"pyproject.toml", project["readme"], *project["license-files"], *packages}
    assert needed <= copied()


def test_every_lock_named_by_a_command_is_copied_before_it() -> None:
    seen: set[str] = set()
    named = set()
    for step in deployment.steps():
        if step.instruction == "COPY":
            seen.update(step.copied())
        locks = set(re.findall(r"--requirement (\S+)", step.rest))
        named |= locks
        assert locks <= seen
    assert named == {"requirements.lock", "requirements-dev.lock", "requirements-iptables.lock"}


def test_what_comes_from_the_network_is_checked_by_hash() -> None:
    commands = [
        command
        for step in steps("RUN")
        for command in step.rest.split("&&")
        if re.search(r"pip (install|wheel)", command)
    ]

    allowed = ("--require-hashes", "--no-index", "--no-build-isolation --no-deps")
    assert len(commands) == 5
    assert [each for each in commands if not any(option in each for option in allowed)] == []


def test_the_context_holds_what_is_copied_and_nothing_else() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]

    def is_sent(name: str) -> bool:
        # the last rule that matches decides
        sent = True
        for rule in rules:
            if fnmatch.fnmatch(name, rule.removeprefix("!").removeprefix("**/")):
                sent = rule.startswith("!")
        return sent

    assert {path.name for path in ROOT.iterdir() if is_sent(path.name)} == copied()
    assert not is_sent("__pycache__")


def test_the_last_stage_takes_the_wheels_of_the_first() -> None:
    (first, last) = steps("FROM")
    assert (first.stage, last.stage) == ("wheels", "")
    assert first.rest == f"{last.rest} AS wheels"

    (mounting,) = (step for step in steps("RUN") if "--mount" in step.rest)
    made = {
        found for step in steps("RUN") for found in re.findall(r"--wheel-dir (\S+)", step.rest)
    }
    assert mounting.stage == ""
    (target,) = made
    assert f"--mount=type=bind,from=wheels,source={target},target={target} " in mounting.rest
    assert f" {target}/*.whl " in mounting.rest


def test_the_programs_of_mode_iptables_are_in_the_last_stage_and_the_compiler_is_not() -> None:
    installed = {
        step.stage: re.findall(r"apt-get install --yes --no-install-recommends ([^&]+)", step.rest)
        for step in steps("RUN")
        if "apt-get" in step.rest
    }
    assert {stage: found[0].split() for stage, found in installed.items()} == {
        "wheels": ["gcc", "libc6-dev"],
        "": ["iptables"],
    }
    (last,) = (step for step in steps("RUN") if "apt-get" in step.rest and not step.stage)
    assert last.rest.endswith("&& rm -rf /var/lib/apt/lists/*")


def test_the_interpreter_is_one_that_the_project_takes() -> None:
    (argument,) = steps("ARG")
    found = re.fullmatch(r"PYTHON=python:3\.(\d+)-slim-\w+", argument.rest)

    assert found
    least = PROJECT["project"]["requires-python"].removeprefix(">=3.")
    assert int(found[1]) >= int(least)


def test_it_runs_isolated_and_as_root() -> None:
    (entry,) = steps("ENTRYPOINT")

    # the capabilities of a container go to root only
    assert (entry.stage, steps("USER")) == ("", [])
    assert entry.words() == ["python", "-I", "-m", "proxy"]


def test_the_label_says_the_version_and_the_licence() -> None:
    (label,) = steps("LABEL")
    prefix = "org.opencontainers.image."

    labels = dict(re.findall(rf'{re.escape(prefix)}(\w+)="([^"]*)"', label.rest))
    assert labels == {
        "title": PROJECT["project"]["name"],
        "description": PROJECT["project"]["description"],
        "version": proxy.__version__,
        "licenses": PROJECT["project"]["license"],
    }
