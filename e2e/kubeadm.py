"""kubeadm's configuration file, written for the network of the tests."""

from pathlib import Path

from e2e.topology import CLUSTER_CIDRS
from tests import kubeadm


def write(path: Path, kubeconfig: Path) -> Path:
    """Write it for a cluster of our network, and return where."""
    path.write_text(kubeadm.text(str(kubeconfig), CLUSTER_CIDRS))
    return path
