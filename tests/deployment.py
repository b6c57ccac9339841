"""What deploy/ and the Dockerfile say, as values: for the tests that check them and those that run them."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

ROOT = Path(__file__).parents[1]
MANIFEST = ROOT / "deploy/daemonset.yaml"
FOR_IPTABLES = ROOT / "deploy/mode-iptables.yaml"
DOCKERFILE = ROOT / "Dockerfile"

# What YAML can hold.
Object = dict[str, Any]


def objects() -> list[Object]:
    """All objects of the manifest, in its order."""
    return list(yaml.safe_load_all(MANIFEST.read_text()))


def the(kind: str) -> Object:
    """The one object of a kind."""
    (found,) = (each for each in objects() if each["kind"] == kind)
    return found


def pod(mode: str = "", *patches: Object) -> Object:
    """The pod's spec, with what is patched into it for a mode, and then with other patches."""
    written = the("DaemonSet")
    if mode == "iptables":
        patches = (yaml.safe_load(FOR_IPTABLES.read_text()), *patches)
    for patch in patches:
        written = patched(written, patch)
    spec: Object = written["spec"]["template"]["spec"]
    return spec


def patched(value: Any, patch: Any) -> Any:
    """A strategic merge, as `kubectl patch` does it: named objects of a list are merged, new ones come first, other lists are replaced."""
    if isinstance(value, dict) and isinstance(patch, dict):
        kept = {key: each for key, each in value.items() if key in patch.get("$retainKeys", value)}
        new = {key: patched(kept.get(key), each) for key, each in patch.items()}
        new.pop("$retainKeys", None)
        return kept | new
    if isinstance(value, list) and all(isinstance(each, dict) for each in [*value, *patch]):
        names = {_name(each): each for each in value}
        merged = {_name(each): patched(names.get(_name(each), {}), each) for each in patch}
        added = {name: each for name, each in merged.items() if name not in names}
        return [*(added | names | merged).values()]
    return patch


def _name(item: Object) -> str:
    """What tells the items of a list apart."""
    return str(item.get("mountPath") or item["name"])


def container(mode: str = "") -> Object:
    """The only container."""
    (found,) = pod(mode)["containers"]
    return dict(found)


def init_container() -> Object:
    """The only container that runs before it."""
    (found,) = pod()["initContainers"]
    return dict(found)


def mount(name: str) -> Object:
    """Where the container has a volume of the pod."""
    (found,) = (each for each in container()["volumeMounts"] if each["name"] == name)
    return dict(found)


def volume(name: str) -> Object:
    """A volume of the pod."""
    (found,) = (each for each in pod()["volumes"] if each["name"] == name)
    return dict(found)


def arguments(node_name: str) -> list[str]:
    """The command line on that node: as the kubelet does, with the variables of `env` filled in, and others left."""
    fields = {"spec.nodeName": node_name}
    values = {
        each["name"]: fields[each["valueFrom"]["fieldRef"]["fieldPath"]]
        for each in container()["env"]
    }
    return [
        re.sub(r"\$\((\w+)\)", lambda found: values.get(found[1], found[0]), argument)
        for argument in container()["args"]
    ]


def configuration() -> dict[str, str]:
    """Path in the container → text, of every file that the ConfigMap brings."""
    directory = mount("config")["mountPath"]
    data = the("ConfigMap")["data"]
    return {f"{directory}/{name}": text for name, text in data.items()}


class Permission(NamedTuple):
    """One request that a rule allows, over all namespaces."""

    group: str
    resource: str
    verb: str


def permissions() -> set[Permission]:
    """Everything the ClusterRole allows."""
    return {
        Permission(group, resource, verb)
        for rule in the("ClusterRole")["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


class Step(NamedTuple):
    """An instruction of the Dockerfile. `stage` is the name of its stage; the last stage has none."""

    stage: str
    instruction: str
    rest: str

    def copied(self) -> list[str]:
        """What a COPY from the build context takes."""
        *sources, _target = self.rest.split()
        return sources

    def words(self) -> list[str]:
        """The arguments of an instruction that is written as a JSON array."""
        words: list[str] = json.loads(self.rest)
        return words


def steps() -> Iterator[Step]:
    """The instructions in their order, each on one line, without comments."""
    text = re.sub(r"^\s*#.*\n", "", DOCKERFILE.read_text(), flags=re.MULTILINE)
    stage = ""
    for line in re.sub(r"\\\n\s*", "", text).splitlines():
        instruction, _, rest = line.partition(" ")
        if instruction == "FROM":
            stage = rest.partition(" AS ")[2]
        if instruction:
            yield Step(stage, instruction, rest)
