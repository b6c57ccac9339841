"""Loading settings in a test: a command line, and files that exist only in the test."""

import argparse
from collections.abc import Callable

from proxy.config import flags, load
from proxy.config.settings import Settings
from tests import kubeadm

HEADER = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n"
OWN_HEADER = "apiVersion: sliceproxy/v1alpha1\nkind: SliceProxyConfiguration\n"
CONFIG = "/etc/config.conf"
OWN = "/etc/sliceproxy.conf"

# a range of pods, so that the warning about its absence stands only where a test is about it
PODS = "clusterCIDR: 10.244.0.0/16\n"

KUBEADM = kubeadm.text(
    "/var/lib/kube-proxy/kubeconfig.conf", ("10.244.0.0/16", "fd00:10:244::/56")
)


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


def settings_of(*argv: str, hostname: str = "n1") -> Settings:
    """Return the settings of a command line that names no file."""
    return run(*argv, hostname=hostname)[0]


def from_file(body: str, *argv: str) -> tuple[Settings, tuple[str, ...]]:
    """Return settings and warnings of a KubeProxyConfiguration with this body."""
    return run("--config", CONFIG, *argv, files={CONFIG: HEADER + body})


def from_own(body: str, kube_proxy: str = PODS) -> tuple[Settings, tuple[str, ...]]:
    """Return settings and warnings of a SliceProxyConfiguration with this body, besides a KubeProxyConfiguration."""
    files = {CONFIG: HEADER + kube_proxy, OWN: OWN_HEADER + body}
    return run("--config", CONFIG, "--sliceproxy-config", OWN, files=files)
