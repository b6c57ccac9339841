"""Asking `sliceproxy explain` in a test: manifests as text go in, the documents and what was said beside them come out.

The command runs in this process, from the command line to the printed answer. Manifests are as short as the command allows: the
namespace, apiVersions and everything an API server would fill in are left out unless a test is about them.
"""

import contextlib
import io
import json
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from proxy.cli import main

# What JSON can hold. Tests reach deep into these values, and a precise type would only be in their way.
Document = dict[str, Any]

KEYS = [
    "servicePort",
    "protocol",
    "family",
    "node",
    "zone",
    "cluster",
    "local",
    "reachable",
    "anyUsable",
    "topology",
    "endpoints",
    "frontends",
    "sessionAffinity",
    "healthCheckNodePort",
    "sourceRanges",
]
ENDPOINT_KEYS = [
    "address",
    "slice",
    "ready",
    "serving",
    "terminating",
    "isLocal",
    "nodeName",
    "zone",
    "cluster",
    "local",
]


class Answer(NamedTuple):
    """What the command printed, and its exit code."""

    code: int
    stdout: str
    stderr: str

    @property
    def documents(self) -> list[Document]:
        """The JSON on standard output; it must have no other content."""
        documents: list[Document] = json.loads(self.stdout)
        return documents

    @property
    def only(self) -> Document:
        (document,) = self.documents
        return document

    @property
    def warnings(self) -> list[str]:
        return [line for line in self.stderr.splitlines() if line.startswith("warning: ")]


def run(*arguments: str) -> Answer:
    """Run `sliceproxy` with these arguments."""
    stdout, stderr = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
        try:
            code: object = main(arguments)
        except SystemExit as stop:
            code = stop.code
    assert isinstance(code, int)
    return Answer(code, stdout.getvalue(), stderr.getvalue())


def ask(
    manifests: str | bytes,
    *arguments: str,
    node: str = "n1",
    name: str = "objects.yaml",
    output: str = "json",
) -> Answer:
    """Run `sliceproxy explain` on a file of this content."""
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory, name)
        file.write_bytes(manifests.encode() if isinstance(manifests, str) else manifests)
        answer = run("explain", *arguments, "--manifests", str(file), "--node", node, "-o", output)
    return answer._replace(stderr=answer.stderr.replace(f"{directory}/", ""))


def explain(
    manifests: str | bytes, node: str = "n1", name: str = "objects.yaml"
) -> list[Document]:
    """Return the documents about all services in these manifests."""
    answer = ask(manifests, node=node, name=name)
    assert answer.code == 0
    return answer.documents


def service(
    spec: str = "",
    *,
    cluster_ip: str = "10.96.0.1",
    ports: str = "[{port: 80}]",
    status: str = "null",
    labels: str = "null",
) -> str:
    """Return the Service default/web, with a few more fields in its spec, as one YAML document."""
    return (
        "kind: Service\n"
        f"metadata: {{name: web, namespace: default, labels: {labels}}}\n"
        f"spec: {{clusterIP: {cluster_ip}, ports: {ports}, {spec}}}\n"
        f"status: {status}\n"
        "---\n"
    )


def endpoint_slice(
    *endpoints: str,
    name: str = "web-1",
    labels: str = "{kubernetes.io/service-name: web}",
    address_type: str = "IPv4",
    ports: str = '[{name: "", port: 80}]',
) -> str:
    """Return a slice of default/web as one YAML document; endpoints are the insides of YAML mappings."""
    listed = ", ".join(f"{{{endpoint}}}" for endpoint in endpoints)
    return (
        "kind: EndpointSlice\n"
        f"metadata: {{name: {name}, namespace: default, labels: {labels}}}\n"
        f"addressType: {address_type}\n"
        f"ports: {ports}\n"
        f"endpoints: [{listed}]\n"
        "---\n"
    )


def node(name: str = "n1", zone: str = "z1") -> str:
    """Return a Node in a zone as one YAML document."""
    return (
        "kind: Node\n"
        f"metadata: {{name: {name}, labels: {{topology.kubernetes.io/zone: {zone}}}}}\n"
        "---\n"
    )
