"""deploy/daemonset.yaml fits together, and fits the program; docs/deployment.md fits both."""

import itertools
import json
import re
from pathlib import Path

import pytest
import yaml
from kubernetes.client import ApiClient

import proxy
from backends.ipvs import node_settings
from proxy.config.settings import Settings
from proxy.errors import ConfigError
from proxy.sources import kubeconfig
from proxy.sources.resources import resources
from proxy.sysctls import (
    HASH_SIZE,
    MAX,
    MAX_BY_CORES,
    TCP_BE_LIBERAL,
    TCP_CLOSE_WAIT,
    TCP_ESTABLISHED,
    UDP,
    UDP_STREAM,
)
from tests import deployment
from tests.deployment import Object, Permission
from tests.unit.proxy.config import loading

PAGE = deployment.ROOT / "docs/deployment.md"
NAMESPACE = "kube-system"
NODE = "worker-1"
LOCK = "/run/xtables.lock"


def load(files: dict[str, str] | None = None) -> tuple[Settings, tuple[str, ...]]:
    """Settings and warnings of the container's command line on a node."""
    return loading.run(
        *deployment.arguments(NODE), files=files or deployment.configuration(), hostname="other"
    )


# --- the objects among themselves


def test_the_objects_are_those_of_one_daemon_set() -> None:
    named = [(each["kind"], each["metadata"]["name"]) for each in deployment.objects()]

    kinds = (
        "ServiceAccount",
        "ClusterRole",
        "ClusterRoleBinding",
        "ConfigMap",
        "DaemonSet",
    )
    assert named == [(kind, "sliceproxy") for kind in kinds]


@pytest.mark.parametrize("written", deployment.objects(), ids=lambda each: each["kind"])
def test_every_field_is_one_that_kubernetes_knows(written: Object) -> None:
    client, model = ApiClient(), f"V1{written['kind']}"

    read = client.deserialize(json.dumps(written), model, "application/json")

    # fields that the model has not are lost
    back = client.sanitize_for_serialization(read)  # type: ignore[no-untyped-call] # the package has no types here
    assert back == written


def test_everything_with_a_namespace_is_in_the_same_one() -> None:
    namespaces = {each["kind"]: each["metadata"].get("namespace") for each in deployment.objects()}

    # critical pods are allowed in kube-system wherever quotas restrict them
    assert namespaces == {
        "ServiceAccount": NAMESPACE,
        "ClusterRole": None,
        "ClusterRoleBinding": None,
        "ConfigMap": NAMESPACE,
        "DaemonSet": NAMESPACE,
    }


def test_the_pods_account_is_bound_to_the_role() -> None:
    account = deployment.the("ServiceAccount")["metadata"]["name"]
    binding = deployment.the("ClusterRoleBinding")

    assert deployment.pod()["serviceAccountName"] == account
    assert binding["subjects"] == [
        {"kind": "ServiceAccount", "name": account, "namespace": NAMESPACE}
    ]
    role = deployment.the("ClusterRole")
    group, _, _ = role["apiVersion"].partition("/")
    assert binding["roleRef"] == {
        "apiGroup": group,
        "kind": "ClusterRole",
        "name": role["metadata"]["name"],
    }


def test_the_daemon_set_selects_its_own_pods() -> None:
    spec = deployment.the("DaemonSet")["spec"]

    wanted = spec["selector"]["matchLabels"]
    labels = spec["template"]["metadata"]["labels"]
    assert wanted
    assert wanted.items() <= labels.items()


def test_what_is_mounted_is_the_config_map_and_what_outlives_a_restart() -> None:
    config, state = deployment.container()["volumeMounts"]

    assert [config["name"], state["name"]] == [
        each["name"] for each in deployment.pod()["volumes"]
    ]
    assert config == {"name": "config", "mountPath": config["mountPath"], "readOnly": True}
    name = deployment.volume("config")["configMap"]["name"]
    assert name == deployment.the("ConfigMap")["metadata"]["name"]
    directory = load()[0].state_dir
    assert state == {"name": "state", "mountPath": directory}
    # the same place as outside, for a program that is started on the node itself
    assert deployment.volume("state")["hostPath"] == {
        "path": directory,
        "type": "DirectoryOrCreate",
    }


# --- the objects and the program


def test_the_configuration_loads_without_a_warning() -> None:
    settings, warnings = load()

    assert warnings == ()
    assert settings.node_name == NODE
    assert settings.cluster_cidrs == ("10.244.0.0/16",)
    assert settings.kubeconfig in deployment.configuration()


def test_every_file_of_the_config_map_is_read() -> None:
    settings, _ = load()

    read = {settings.config_file, settings.sliceproxy_config_file, settings.kubeconfig}
    assert read == deployment.configuration().keys()


def test_what_the_files_say_is_what_the_program_does_anyway() -> None:
    # but for what a cluster must say: so nobody has to wonder which of the values matter
    own = deployment.configuration()
    path = load()[0].config_file
    said = {"kubeconfig": load()[0].kubeconfig}
    (cidr,) = load()[0].cluster_cidrs
    plain = loading.HEADER + yaml.safe_dump({"clientConnection": said, "clusterCIDR": cidr})
    owned = load()[0].sliceproxy_config_file

    assert load({**own, path: plain, owned: loading.OWN_HEADER}) == load()


def test_a_cluster_that_was_not_named_is_refused_by_name(tmp_path: Path) -> None:
    (text,) = (text for path, text in deployment.configuration().items() if "kubeconfig" in path)
    file = tmp_path / "kubeconfig.conf"
    file.write_text(text)

    with pytest.raises(ConfigError, match=r"server: must be like https://host:6443, got .*PORT"):
        kubeconfig.load(str(file), master="", exec_timeout_s=1.0)


def test_what_has_to_be_set_is_marked() -> None:
    lines = deployment.MANIFEST.read_text().splitlines()

    marked = [
        following.split()[0]
        for line, following in itertools.pairwise(lines)
        if line.strip().startswith("# SET:")
    ]
    assert marked == ["clusterCIDR:", "server:", "image:"]


def test_the_role_allows_what_is_asked_for_and_no_more() -> None:
    asked = {
        Permission(resource.group, resource.plural, verb)
        for resource in resources(NODE)
        for verb in ("list", "watch")
    }
    asked |= {Permission("events.k8s.io", "events", verb) for verb in ("create", "patch")}

    assert deployment.permissions() == asked


def test_the_probes_ask_where_the_program_answers() -> None:
    settings, _ = load()
    container = deployment.container()

    assert settings.healthz_bind is not None
    asked = {
        name: container[name]["httpGet"]
        for name in ("startupProbe", "livenessProbe", "readinessProbe")
    }
    on_this_host = {"host": "127.0.0.1", "port": settings.healthz_bind.port}
    assert asked == {
        "startupProbe": {**on_this_host, "path": "/livez"},
        "livenessProbe": {**on_this_host, "path": "/livez"},
        "readinessProbe": {**on_this_host, "path": "/readyz"},
    }


def test_the_pod_is_there_before_any_network_and_on_every_node() -> None:
    pod = deployment.pod()

    assert (pod["hostNetwork"], pod["dnsPolicy"]) == (True, "Default")
    assert pod["priorityClassName"] == "system-node-critical"
    assert pod["tolerations"] == [{"operator": "Exists"}]
    assert pod["nodeSelector"] == {"kubernetes.io/os": "linux"}


def test_the_container_has_two_rights_and_writes_nothing_of_its_own() -> None:
    assert deployment.container()["securityContext"] == {
        "runAsUser": 0,
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN", "NET_BIND_SERVICE"]},
    }
    assert deployment.pod()["securityContext"] == {"seccompProfile": {"type": "RuntimeDefault"}}


def test_another_container_writes_the_settings_before_and_ends() -> None:
    before, container = deployment.init_container(), deployment.container()

    same = ("image", "env", "volumeMounts")
    assert [before[each] for each in same] == [container[each] for each in same]
    assert before["args"] == [*container["args"], "--init-only"]
    assert before["securityContext"] == {
        "privileged": True,
        "runAsUser": 0,
        "readOnlyRootFilesystem": True,
    }


def test_mode_iptables_gets_one_more_right_and_the_lock_and_nothing_else() -> None:
    plain, pod = deployment.pod(), deployment.pod("iptables")

    (container,), (other,) = pod["containers"], plain["containers"]
    assert container["securityContext"] == {
        **other["securityContext"],
        "capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN", "NET_BIND_SERVICE", "NET_RAW"]},
    }
    lock = {"name": "xtables-lock", "mountPath": LOCK}
    for before, after in itertools.chain(
        zip(plain["containers"], pod["containers"], strict=True),
        zip(plain["initContainers"], pod["initContainers"], strict=True),
    ):
        assert after["volumeMounts"] == [lock, *before["volumeMounts"]]
        same = before.keys() - {"volumeMounts", "securityContext"}
        assert {key: after[key] for key in same} == {key: before[key] for key in same}
    assert (
        pod["initContainers"][0]["securityContext"]
        == plain["initContainers"][0]["securityContext"]
    )
    assert pod["volumes"] == [
        {"name": "xtables-lock", "hostPath": {"path": LOCK, "type": "FileOrCreate"}},
        *plain["volumes"],
    ]
    assert {**plain, "containers": 0, "initContainers": 0, "volumes": 0} == {
        **pod,
        "containers": 0,
        "initContainers": 0,
        "volumes": 0,
    }


def test_the_patch_for_mode_iptables_is_one_that_the_page_and_kubernetes_know() -> None:
    (command,) = commands("kubectl .* patch daemonset sliceproxy --patch-file")
    assert command.split()[-1] == str(deployment.FOR_IPTABLES.relative_to(deployment.ROOT))
    written = deployment.patched(
        deployment.the("DaemonSet"), yaml.safe_load(deployment.FOR_IPTABLES.read_text())
    )
    client = ApiClient()
    read = client.deserialize(json.dumps(written), "V1DaemonSet", "application/json")
    back = client.sanitize_for_serialization(read)  # type: ignore[no-untyped-call] # the package has no types here
    assert back == written


def test_image_and_label_carry_the_version() -> None:
    labels = deployment.the("DaemonSet")["spec"]["template"]["metadata"]["labels"]

    assert deployment.container()["image"] == f"sliceproxy:{proxy.__version__}"
    assert labels["app.kubernetes.io/version"] == proxy.__version__


# --- the page


def test_the_page_lists_the_settings_that_are_written() -> None:
    text = PAGE.read_text()

    files = (MAX, HASH_SIZE, TCP_ESTABLISHED, TCP_CLOSE_WAIT, TCP_BE_LIBERAL, UDP, UDP_STREAM)
    of_ipvs = node_settings.wanted_settings(strict_arp=True, release="5.8.0")
    listed = dict(re.findall(r"^\| `/((?:proc|sys)/\S+)` \| (\d*)", text, re.MULTILINE))
    assert list(listed) == [*files, *of_ipvs]
    assert {file: int(listed[file]) for file in of_ipvs} == of_ipvs
    defaults = load()[0].conntrack
    assert f"`conntrack.maxPerCore` ({defaults.max_per_core})" in text
    assert f"`conntrack.min` ({defaults.min})" in text
    assert f"at most {MAX_BY_CORES}" in text


def commands(pattern: str) -> list[str]:
    """The commands on the page that match, without their line breaks."""
    text = re.sub(r" *\\\n *", " ", PAGE.read_text())
    return [line.strip() for line in text.splitlines() if re.match(rf" {{4,}}{pattern}", line)]


@pytest.mark.parametrize("mode", ["", "iptables"])
def test_the_documented_patch_takes_kubeadms_file(mode: str) -> None:
    (command,) = commands(r"kubectl .* patch daemonset sliceproxy --patch '.*kube-proxy")
    found = re.search("--patch '(.*)'", command)
    assert found

    pod = deployment.pod(mode, json.loads(found[1]))

    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert len(volumes) == len(pod["volumes"])
    for container in (*pod["initContainers"], *pod["containers"]):
        assert {mount["name"] for mount in container["volumeMounts"]} == volumes.keys()
    assert volumes["state"] == deployment.volume("state")
    assert volumes["config"].keys() == {"name", "projected"}
    theirs, ours = (source["configMap"] for source in volumes["config"]["projected"]["sources"])
    assert (theirs, ours["name"]) == ({"name": "kube-proxy"}, "sliceproxy")
    ((item),) = ours["items"]
    assert item["key"] == item["path"] == "sliceproxy.conf"


def test_kubeadms_file_is_read_in_place_of_ours() -> None:
    own = deployment.configuration()
    path = load()[0].config_file

    settings, warnings = load({**own, path: loading.KUBEADM})

    assert warnings == ()
    assert settings.kubeconfig == load()[0].kubeconfig


def test_the_page_builds_the_image_of_the_manifest() -> None:
    (build,) = commands("docker build")

    assert f"--tag {deployment.container()['image']}" in build
