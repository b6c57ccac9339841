"""Where the daemon has its objects from, and so how a step of the demo changes them: files, or an API server."""

import contextlib
import http.client
import json
import ssl
import time
import urllib.parse
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

from e2e import kubeadm
from e2e.demo import slices
from e2e.demo.slices import Listing
from e2e.namespace import Namespace, TopologyError
from e2e.topology import CLUSTER_CIDRS
from tests.apiserver.process import StandIn

SourceName = Literal["manifests", "apiserver"]
_TIMEOUT_S = 30.0


class Manifests:
    """A directory. The daemon reads it again after each change."""

    told = (
        "it reads Services and EndpointSlices from",
        "files and decides which pods may answer.",
    )

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.arguments = ["--manifests", str(directory), "--cluster-cidr", ",".join(CLUSTER_CIDRS)]

    def change(self, listings: Iterable[Listing]) -> float:
        """Have the slices list these pods and no other; return the time just before."""
        return slices.write(self.directory / "endpointslices.yaml", listings)


class Api:
    """A stand-in API server on the node. The directory holds the same objects, for whoever explains them."""

    told = (
        "it watches Services and EndpointSlices on",
        "an API server and decides who may answer.",
    )

    def __init__(self, directory: Path, server: StandIn, node: Namespace, config: Path) -> None:
        self.directory = directory
        self.arguments = ["--config", str(config)]
        self._server = server
        self._node = node
        self._trusted = ssl.create_default_context(cafile=server.authority)

    def change(self, listings: Iterable[Listing]) -> float:
        """Have the slices list these pods and no other, as a controller does it; return the time just before."""
        file = self.directory / "endpointslices.yaml"
        slices.write(file, listings)
        address = urllib.parse.urlsplit(self._server.url)
        assert address.hostname is not None
        with (
            self._node.entered(),
            contextlib.closing(
                http.client.HTTPSConnection(
                    address.hostname, address.port, context=self._trusted, timeout=_TIMEOUT_S
                )
            ) as connection,
        ):
            connection.connect()
            begun_s = time.monotonic()
            for document in slices.documents(file):
                self._put(connection, document)
        return begun_s

    def _put(self, connection: http.client.HTTPSConnection, document: dict[str, Any]) -> None:
        namespace, name = (document["metadata"][part] for part in ("namespace", "name"))
        headers = {
            "Authorization": f"Bearer {self._server.token_file.read_text()}",
            "Content-Type": "application/json",
        }
        path = f"/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices/{name}"
        connection.request("PUT", path, json.dumps(document), headers)
        with connection.getresponse() as response:
            text = response.read().decode()
        if response.status != http.HTTPStatus.OK:
            raise TopologyError(f"PUT {path}: {response.status}: {text}")


Source = Manifests | Api


@contextlib.contextmanager
def opened(
    name: SourceName, *, manifests: Path, node: Namespace, directory: Path
) -> Iterator[Source]:
    """The source of that name with the objects of these manifests. Its files are in `directory`."""
    if name == "manifests":
        yield Manifests(manifests)
        return
    with StandIn(directory / "api", popen=node.popen, manifests=manifests) as server:
        config = kubeadm.write(directory / "kube-proxy.conf", server.kubeconfig)
        yield Api(manifests, server, node, config)
