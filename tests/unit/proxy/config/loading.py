"""Loading settings in a test: a command line, and files that exist only in the test."""

import argparse
from collections.abc import Callable

from proxy.config import flags, load
from proxy.config.settings import Settings

HEADER = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n"
OWN_HEADER = "apiVersion: sliceproxy/v1alpha1\nkind: SliceProxyConfiguration\n"
CONFIG = "/etc/config.conf"
OWN = "/etc/sliceproxy.conf"

# a range of pods, so that the warning about its absence stands only where a test is about it
PODS = "clusterCIDR: 10.244.0.0/16\n"

KUBEADM = """\
apiVersion: kubeproxy.config.k8s.io/v1alpha1
bindAddress: 0.0.0.0
bindAddressHardFail: false
clientConnection:
  acceptContentTypes: ""
  burst: 0
  contentType: ""
  kubeconfig: /var/lib/kube-proxy/kubeconfig.conf
  qps: 0
clusterCIDR: 10.244.0.0/16,fd00:10:244::/56
configSyncPeriod: 0s
conntrack:
  maxPerCore: null
  min: null
  tcpBeLiberal: false
  tcpCloseWaitTimeout: null
  tcpEstablishedTimeout: null
  udpStreamTimeout: 0s
  udpTimeout: 0s
detectLocal:
  bridgeInterface: ""
  interfaceNamePrefix: ""
detectLocalMode: ""
enableProfiling: false
healthzBindAddress: ""
hostnameOverride: ""
iptables:
  localhostNodePorts: null
  masqueradeAll: false
  masqueradeBit: null
  minSyncPeriod: 0s
  syncPeriod: 0s
ipvs:
  excludeCIDRs: null
  minSyncPeriod: 0s
  scheduler: ""
  strictARP: false
  syncPeriod: 0s
  tcpFinTimeout: 0s
  tcpTimeout: 0s
  udpTimeout: 0s
kind: KubeProxyConfiguration
logging:
  flushFrequency: 0
  options:
    json:
      infoBufferSize: "0"
    text:
      infoBufferSize: "0"
  verbosity: 0
metricsBindAddress: ""
mode: ""
nftables:
  masqueradeAll: false
  masqueradeBit: null
  minSyncPeriod: 0s
  syncPeriod: 0s
nodePortAddresses: null
oomScoreAdj: null
portRange: ""
showHiddenMetricsForVersion: ""
winkernel:
  enableDSR: false
  forwardHealthCheckVip: false
  networkName: ""
  rootHnsEndpointName: ""
  sourceVip: ""
"""


def parse(*argv: str) -> argparse.Namespace:
    """Parse a command line as the program does; a usage error ends in SystemExit."""
    parser = argparse.ArgumentParser(prog="sliceproxy")
    flags.add_flags(parser)
    return parser.parse_args(argv)


def reader(files: dict[str, str]) -> Callable[[str], bytes]:
    """Return a function that reads these files, and no others."""

    def read_file(path: str) -> bytes:
        if path not in files:
            raise FileNotFoundError(2, "No such file or directory", path)
        return files[path].encode()

    return read_file


def run(
    *argv: str, files: dict[str, str] | None = None, hostname: str = "node-1"
) -> tuple[Settings, tuple[str, ...]]:
    """Return settings and warnings of a command line."""
    return load.load(parse(*argv), hostname=hostname, read_file=reader(files or {}))


def from_file(body: str, *argv: str) -> tuple[Settings, tuple[str, ...]]:
    """Return settings and warnings of a KubeProxyConfiguration with this body."""
    return run("--config", CONFIG, *argv, files={CONFIG: HEADER + body})


def from_own(body: str, kube_proxy: str = PODS) -> tuple[Settings, tuple[str, ...]]:
    """Return settings and warnings of a SliceProxyConfiguration with this body, besides a KubeProxyConfiguration."""
    files = {CONFIG: HEADER + kube_proxy, OWN: OWN_HEADER + body}
    return run("--config", CONFIG, "--sliceproxy-config", OWN, files=files)
