"""The file that tells clients where the server is and who they are, as kubeadm writes it for kube-proxy."""

import json
from pathlib import Path
from typing import Literal

from tests.apiserver.certificates import Files

Credentials = Literal["token", "certificate", "none"]


def write(
    path: Path,
    *,
    server: str,
    files: Files | None,
    credentials: Credentials,
    token_file: Path | None,
) -> None:
    """Write it. JSON is YAML too."""
    cluster = {"server": server}
    if files is not None:
        cluster["certificate-authority"] = str(files.authority)
    user = {}
    if credentials == "token" and token_file is not None:
        user = {"tokenFile": str(token_file)}
    elif credentials == "certificate" and files is not None:
        user = {"client-certificate": str(files.client), "client-key": str(files.client_key)}
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "default", "cluster": cluster}],
        "users": [{"name": "default", "user": user}],
        "contexts": [
            {
                "name": "default",
                "context": {"cluster": "default", "namespace": "default", "user": "default"},
            }
        ],
        "current-context": "default",
    }
    path.write_text(json.dumps(document, indent=2) + "\n")
