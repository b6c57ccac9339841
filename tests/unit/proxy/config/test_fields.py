"""No field of kube-proxy is forgotten, and whoever sets one without effect is told why."""

import pytest

from proxy.config import fields, kubeproxy
from proxy.config.kubeproxy import KubeProxyConfiguration
from proxy.config.settings import Settings
from tests.unit.proxy.config.loading import KUBEADM, from_file, run

SET_TO: dict[str, object] = {
    "clientConnection.acceptContentTypes": "application/vnd.kubernetes.protobuf",
    "clientConnection.contentType": "application/cbor",
    "logging.flushFrequency": "1s",
    "logging.vmodule": (kubeproxy.VModuleItem(file_pattern="proxier", verbosity=5),),
    "logging.options.text.splitStream": True,
    "logging.options.text.infoBufferSize": "1Ki",
    "logging.options.json.splitStream": True,
    "logging.options.json.infoBufferSize": "1Ki",
    "enableProfiling": True,
    "showHiddenMetricsForVersion": "1.35",
    "winkernel.networkName": "l2bridge",
    "winkernel.sourceVip": "10.0.0.1",
    "winkernel.enableDSR": True,
    "winkernel.rootHnsEndpointName": "cbr0",
    "winkernel.forwardHealthCheckVip": True,
    "portRange": "30000-32767",
    "windowsRunAsService": True,
}


def test_every_field_is_either_used_or_not_applicable() -> None:
    assert sorted([*fields.USED, *fields.NOT_APPLICABLE]) == sorted(kubeproxy.leaves())


@pytest.mark.parametrize("path", [path for path, field in fields.USED.items() if field.setting])
def test_a_used_field_names_a_setting_that_exists(path: str) -> None:
    settings, _ = run()
    value: object = settings
    for name in fields.USED[path].setting.split("."):
        assert hasattr(value, name)
        value = getattr(value, name)


@pytest.mark.parametrize("path", fields.NOT_APPLICABLE)
def test_a_field_without_effect_is_a_warning_once_it_asks_for_something(path: str) -> None:
    config = kubeproxy.put(KubeProxyConfiguration(), path, SET_TO[path])

    assert list(fields.without_effect(config)) == [(path, fields.NOT_APPLICABLE[path].reason)]


@pytest.mark.parametrize(
    ("path", "value"),
    [(path, value) for path, field in fields.NOT_APPLICABLE.items() for value in field.harmless],
)
def test_a_value_that_asks_for_nothing_is_no_warning(path: str, value: object) -> None:
    config = kubeproxy.put(KubeProxyConfiguration(), path, value)

    assert list(fields.without_effect(config)) == []


def test_the_file_that_kubeadm_writes_gives_no_warning() -> None:
    settings, warnings = run("--config", "f", files={"f": KUBEADM})

    assert warnings == ()
    assert isinstance(settings, Settings)


def test_a_warning_names_file_field_and_reason() -> None:
    _, warnings = from_file("clusterCIDR: 10.0.0.0/8\nwinkernel: {enableDSR: true}\n")

    assert warnings == (
        "/etc/config.conf: winkernel.enableDSR: has no effect: this program runs on Linux only",
    )


@pytest.mark.parametrize(
    ("path", "advice"),
    [
        ("Mode", "did you mean mode?"),
        ("bindAddres", "did you mean bindAddress?"),
        ("conntrack.maxPerCpu", "did you mean conntrack.maxPerCore?"),
        ("udpTimeout", "did you mean ipvs.udpTimeout or conntrack.udpTimeout?"),
        ("masqueradeAll", "write nftables.masqueradeAll"),
        ("syncPeriod", "write it in the section of the mode"),
        ("clusterCIDRs", "write clusterCIDR, with a comma between two ranges"),
        ("udpIdleTimeout", "was for kube-proxy's userspace mode"),
        ("resourceContainer", "does nothing since Kubernetes 1.17"),
        ("conntrack.max", "write conntrack.maxPerCore and conntrack.min"),
        ("ipvs.masqueradeAll", "write iptables.masqueradeAll"),
        ("fallback", "belongs in the file of --sliceproxy-config"),
        ("something", "kube-proxy has no such field"),
        ("endpointSliceProxying", "EndpointSlices are always used, delete it"),
        ("spec.EndpointSliceProxying", "EndpointSlices are always used, delete it"),
    ],
)
def test_an_unknown_field_comes_with_what_to_write_instead(path: str, advice: str) -> None:
    assert advice in fields.describe_unknown(path)


def test_advice_is_given_only_for_fields_that_do_not_exist() -> None:
    known = [
        path
        for path in kubeproxy.leaves()
        if "unknown field" not in fields.describe_unknown(f"{path}X")
    ]

    assert known == []


def test_the_old_switch_for_slices_is_found_wherever_it_is_buried() -> None:
    data: dict[str, object] = {
        "endpointSliceProxying": True,
        "spec": {"proxy": {"EndpointSliceProxying": True}},
        "featureGates": {"EndpointSliceProxying": True},
    }

    assert list(fields.buried_switches(data)) == [
        "endpointSliceProxying",
        "spec.proxy.EndpointSliceProxying",
    ]
