"""A kubeconfig file into `Access`, and the pod's service account into the same. Shell; blocks.

What is in the file is looked up here, so that every mistake is named by its field; what it means is left to the
`kubernetes` package (relative paths, client certificates, tokens, basic authentication, auth-provider sections).
Keys that stand in the file itself never touch a disk: they are handed on as files that exist in memory only.
"""

import base64
import contextlib
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from proxy.errors import ConfigError
from proxy.sources import access, exec_plugin
from proxy.sources.access import Access

if TYPE_CHECKING:
    from kubernetes.client import Configuration

_SERVICE_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_FILES: Final = (
    ("clusters", "certificate-authority"),
    ("users", "client-certificate"),
    ("users", "client-key"),
)

# YAML and the package alike hand over plain values of any shape.
Section = dict[str, Any]


class _Context(NamedTuple):
    """The parts of a kubeconfig that count, with the names by which errors call them."""

    cluster: Section
    cluster_name: str
    user: Section
    user_name: str


def load(path: str, *, master: str, exec_timeout_s: float) -> Access:
    """Return what the current context of a kubeconfig says. Raises ConfigError, naming file and field."""
    context = _context(path, _parse(path))
    folder = str(Path(path).resolve().parent)
    user, cluster = dict(context.user), dict(context.cluster)
    if master:
        cluster["server"] = access.check_server("--master", master)
    else:
        where = f"{path}: {context.cluster_name}.server"
        cluster["server"] = access.check_server(where, _text(where, cluster.get("server")))
    files = [path, *_token_file(path, context.user_name, user, folder)]
    expires_s = math.inf
    if "exec" in user and not user.get("token"):
        where = f"{path}: {context.user_name}.exec"
        credential = exec_plugin.run(
            where,
            user.pop("exec"),
            folder=folder,
            cluster=_cluster_info(cluster, folder),
            timeout_s=exec_timeout_s,
        )
        expires_s = credential.expires_s
        _put_credential(user, credential)
    with _in_memory(path, cluster, user, context) as descriptors:
        files += _certificate_files(path, context, cluster, user, folder, descriptors)
        return _access(path, cluster, user, context, folder, tuple(files), expires_s)


def load_service_account(
    environ: Mapping[str, str] = os.environ, folder: Path = _SERVICE_ACCOUNT
) -> Access:
    """Return what the pod's service account says. Raises ConfigError where there is none."""
    hint = "pass --kubeconfig FILE (or clientConnection.kubeconfig, or --master URL) when not running in a pod"
    if not environ.get("KUBERNETES_SERVICE_HOST") or not environ.get("KUBERNETES_SERVICE_PORT"):
        raise ConfigError(
            f"no API server: KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not set; {hint}"
        )
    token_file, ca_file = folder / "token", folder / "ca.crt"
    where = f"service account (or {hint})"
    for file in (token_file, ca_file):
        access.read_text(where, str(file))
    from kubernetes.config import ConfigException  # noqa: PLC0415 - slow to import
    from kubernetes.config.incluster_config import InClusterConfigLoader  # noqa: PLC0415

    config = _configuration()
    loader_type: Any = InClusterConfigLoader  # the package has no types here
    try:
        loader_type(str(token_file), str(ca_file), environ=environ).load_and_set(config)
    except (ConfigException, OSError) as error:
        raise ConfigError(f"{where}: {error}") from error
    return _from_configuration(
        "service account", config, files=(str(token_file), str(ca_file)), expires_s=math.inf
    )


def _parse(path: str) -> Section:
    text = access.read_text("kubeconfig", path)
    import yaml  # noqa: PLC0415 - slow to import

    try:
        document = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: is no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(document, dict):
        raise ConfigError(f"{path}: must be a kubeconfig with clusters, contexts and users")
    return document


def _context(path: str, document: Section) -> _Context:
    name = document.get("current-context")
    if not name:
        raise ConfigError(f"{path}: current-context: not set: name one of the contexts")
    context = _named(path, document, "contexts", str(name), "context")
    where = f"contexts[{name}].context"
    cluster_name = _text(f"{path}: {where}.cluster", context.get("cluster"))
    cluster = _named(path, document, "clusters", cluster_name, "cluster")
    user_name = context.get("user") or ""
    user = _named(path, document, "users", str(user_name), "user") if user_name else {}
    return _Context(cluster, f"clusters[{cluster_name}].cluster", user, f"users[{user_name}].user")


def _named(path: str, document: Section, section: str, name: str, key: str) -> Section:
    entries = document.get(section)
    for entry in entries if isinstance(entries, list) else ():
        if isinstance(entry, dict) and entry.get("name") == name:
            found = entry.get(key) or {}
            if not isinstance(found, dict):
                raise ConfigError(f"{path}: {section}[{name}].{key}: must be an object")
            return found
    raise ConfigError(f"{path}: {section}: has no entry with the name {name!r}")


def _text(where: str, value: object) -> str:
    if not isinstance(value, str) or not value:
        raise ConfigError(f"{where}: missing")
    return value


def _token_file(path: str, user_name: str, user: Section, folder: str) -> list[str]:
    """Put the token of a `tokenFile` in place, which is stronger than `token`, and return the file."""
    if not user.get("tokenFile"):
        return []
    where = f"{path}: {user_name}.tokenFile"
    file = str(Path(folder) / _text(where, user.pop("tokenFile")))
    user["token"] = access.read_text(where, file)
    return [file]


def _put_credential(user: Section, credential: exec_plugin.Credential) -> None:
    if credential.token:
        user["token"] = credential.token
    if credential.certificate:
        user["client-certificate-data"] = base64.b64encode(
            credential.certificate.encode()
        ).decode()
        user["client-key-data"] = base64.b64encode(credential.key.encode()).decode()


def _cluster_info(cluster: Section, folder: str) -> Section:
    """Return what a plugin with provideClusterInfo is told."""
    names = (
        "server",
        "tls-server-name",
        "insecure-skip-tls-verify",
        "certificate-authority-data",
        "proxy-url",
    )
    info: Section = {name: cluster[name] for name in names if name in cluster}
    authority = cluster.get("certificate-authority")
    if isinstance(authority, str) and "certificate-authority-data" not in info:
        with contextlib.suppress(OSError):
            data = (Path(folder) / authority).read_bytes()
            info["certificate-authority-data"] = base64.b64encode(data).decode()
    for extension in cluster.get("extensions") or ():
        if (
            isinstance(extension, dict)
            and extension.get("name") == "client.authentication.k8s.io/exec"
        ):
            info["config"] = extension.get("extension")
    return info


@contextlib.contextmanager
def _in_memory(
    path: str, cluster: Section, user: Section, context: _Context
) -> Iterator[frozenset[str]]:
    """Turn what is given as `…-data` into files in memory, and yield their names."""
    descriptors: list[int] = []
    names = []
    try:
        for section, key in _FILES:
            part, where = _part(section, cluster, user, context)
            data = part.pop(f"{key}-data", None)
            if not data:
                continue
            try:
                content = base64.b64decode(data, validate=False)
            except (ValueError, TypeError) as error:
                raise ConfigError(f"{path}: {where}.{key}-data: is no base64: {error}") from error
            descriptor = os.memfd_create(key)
            descriptors.append(descriptor)
            os.write(descriptor, content)
            part[key] = f"/proc/self/fd/{descriptor}"
            names.append(part[key])
        yield frozenset(names)
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def _part(section: str, cluster: Section, user: Section, context: _Context) -> tuple[Section, str]:
    if section == "clusters":
        return cluster, context.cluster_name
    return user, context.user_name


def _certificate_files(
    path: str,
    context: _Context,
    cluster: Section,
    user: Section,
    folder: str,
    in_memory: frozenset[str],
) -> list[str]:
    """Check that the files exist that the kubeconfig names, and return them."""
    files = []
    for section, key in _FILES:
        part, where = _part(section, cluster, user, context)
        if not part.get(key):
            continue
        name = _text(f"{path}: {where}.{key}", part[key])
        if name not in in_memory:
            file = str(Path(folder) / name)
            access.read_text(f"{path}: {where}.{key}", file)
            files.append(file)
    if bool(user.get("client-certificate")) != bool(user.get("client-key")):
        raise ConfigError(
            f"{path}: {context.user_name}: client-certificate and client-key need each other"
        )
    return files


def _access(
    path: str,
    cluster: Section,
    user: Section,
    context: _Context,
    folder: str,
    files: tuple[str, ...],
    expires_s: float,
) -> Access:
    from kubernetes.config import ConfigException  # noqa: PLC0415 - slow to import
    from kubernetes.config.kube_config import KubeConfigLoader  # noqa: PLC0415
    from urllib3.exceptions import HTTPError  # noqa: PLC0415

    document = {
        "current-context": "it",
        "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
        "clusters": [{"name": "it", "cluster": cluster}],
        "users": [{"name": "it", "user": user}],
    }
    config = _configuration()
    loader_type: Any = KubeConfigLoader  # the package has no types here
    try:
        loader = loader_type(document, config_base_path=folder)
        loader.load_and_set(config)
    except (
        ConfigException,
        HTTPError,  # of those that the package asks for tokens
        OSError,
        ValueError,
        TypeError,
        AttributeError,
        KeyError,
    ) as error:
        where = f"{path}: {context.cluster_name} and {context.user_name}"
        raise ConfigError(f"{where}: {error}") from error
    expiry = getattr(loader, "expiry", None)
    if expiry is not None:
        expires_s = min(expires_s, expiry.timestamp())
    return _from_configuration(path, config, files, expires_s, str(cluster.get("proxy-url") or ""))


def _configuration() -> "Configuration":
    from kubernetes.client import Configuration  # noqa: PLC0415 - slow to import

    return Configuration()


def _from_configuration(
    where: str,
    config: "Configuration",
    files: tuple[str, ...],
    expires_s: float,
    proxy: str = "",
) -> Access:
    server = access.check_server(where, config.host)
    tls = None
    if server.startswith("https://"):
        tls = access.tls_context(
            where,
            ca_file=config.ssl_ca_cert or "",
            cert_file=config.cert_file or "",
            key_file=config.key_file or "",
            is_insecure=not config.verify_ssl,
        )
    return Access(
        server=server,
        tls=tls,
        headers=_headers(where, config.api_key.get("BearerToken")),
        tls_server_name=config.tls_server_name or "",
        proxy=access.check_proxy(f"{where}: proxy", proxy or access.proxy_for(server)),
        expires_s=expires_s,
        files=files,
    )


def _headers(where: str, authorization: str | None) -> dict[str, str]:
    """Return the header that the package would send; its schemes come in any case, its tokens with their line ends."""
    if not authorization:
        return {}
    scheme, _, secret = authorization.strip().partition(" ")
    if scheme.lower() == "bearer":
        return access.bearer(where, secret.strip())
    return {"Authorization": f"{scheme} {secret.strip()}"}
