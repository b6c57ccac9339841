"""What the operator types: sub-commands, exit codes, and the only place that prints.

Exit codes: 0 done · 1 the question has no answer, or something failed · 2 the operator has to change something.
Called with flags only, as kube-proxy is, it runs the proxy.
"""

import argparse
import logging
import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from proxy import __version__
from proxy.errors import ConfigError, ProxyError

if TYPE_CHECKING:
    from proxy.config.settings import Settings


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if (
        arguments
        and arguments[0].startswith("-")
        and arguments[0] not in ("-h", "--help", "--version")
    ):
        arguments.insert(0, "run")
    args = _parser().parse_args(arguments)
    try:
        return int(args.command(args))
    except OSError as error:
        if isinstance(error, BrokenPipeError):  # the reader of our output has gone, as `head` does
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
        print(
            f"sliceproxy: {error.strerror}: {error.filename}"
            if error.filename
            else f"sliceproxy: {error}",
            file=sys.stderr,
        )
        return 1
    except ConfigError as error:
        print(f"sliceproxy: {error}", file=sys.stderr)
        return 2
    except ProxyError as error:
        print(f"sliceproxy: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    from proxy.config.flags import add_flags  # noqa: PLC0415 - `version` needs none of it

    parser = argparse.ArgumentParser(
        prog="sliceproxy",
        description="A per-node Kubernetes service proxy. Called with kube-proxy's flags only, it runs.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="program this node and keep it so", allow_abbrev=False)
    add_flags(run)
    run.set_defaults(command=_run)

    cleanup = commands.add_parser(
        "cleanup", help="remove everything sliceproxy has put into the kernel", allow_abbrev=False
    )
    cleanup.set_defaults(command=_cleanup)

    explain = commands.add_parser(
        "explain",
        help="say which endpoints serve a service on a node, and why",
        description="Says for every endpoint whether it serves, and why. Needs neither root nor a cluster.",
    )
    explain.add_argument(
        "service", nargs="?", metavar="NAMESPACE/SERVICE", help="default: all services"
    )
    explain.add_argument(
        "--manifests", required=True, metavar="PATH", help="a file or directory of objects"
    )
    explain.add_argument("--node", required=True, metavar="NAME", help="the node to look from")
    explain.add_argument(
        "-o", "--output", choices=("text", "json"), default="text", help="default: %(default)s"
    )
    explain.set_defaults(command=_explain)

    version = commands.add_parser("version", help="print the version")
    version.set_defaults(command=_version)
    return parser


def _version(_args: argparse.Namespace) -> int:
    print(f"sliceproxy {__version__}")
    return 0


def _explain(args: argparse.Namespace) -> int:
    import msgspec  # noqa: PLC0415 - each command imports only what it needs, to start at once

    from proxy import explain  # noqa: PLC0415
    from proxy.cache import Cache  # noqa: PLC0415
    from proxy.model import NodeInfo, ServiceName  # noqa: PLC0415
    from proxy.sources.manifests import load  # noqa: PLC0415

    node_name = args.node.strip().lower()
    cache = Cache(NodeInfo(name=node_name))
    events, warnings = load(Path(args.manifests), node_name)
    cache.apply(events, 0.0)
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)
    for problems in cache.problems.values():
        for problem in problems:
            print(f"warning: {problem}", file=sys.stderr)
    if not cache.node.is_known:
        print(f"warning: no Node object named {node_name}: its zone is unknown", file=sys.stderr)

    services = list(cache.services.values())
    if args.service is not None:
        namespace, slash, name = args.service.partition("/")
        wanted = ServiceName(namespace, name) if slash else ServiceName("default", namespace)
        found = cache.services.get(wanted)
        if found is None:
            print(f"sliceproxy: no Service {wanted} in {args.manifests}", file=sys.stderr)
            return 1
        if found.skipped:
            print(f"note: {wanted} is not proxied: {found.skipped}", file=sys.stderr)
        services = [found]
    explained = explain.explain(cache, services)
    if args.output == "json":
        document = msgspec.json.encode([one.document() for one in explained])
        print(msgspec.json.format(document, indent=2).decode())
    else:
        paint = explain.ansi if _is_colourful() else explain.plain
        print(explain.render_text(explained, paint), end="")
    return 0


def _is_colourful() -> bool:
    return (
        sys.stdout.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
    )


def _run(args: argparse.Namespace) -> int:
    from proxy.config import load  # noqa: PLC0415

    if path := getattr(args, "write_config_to", None):
        text, warnings = load.write_config(args, read_file=_read_file)
        for warning in warnings:
            print(f"warning: {warning}", file=sys.stderr)
        Path(path).write_text(text)
        print(f"wrote {path}")
        return 0
    settings, warnings = load.load(args, hostname=socket.gethostname(), read_file=_read_file)
    _log_to_stderr(settings)
    for warning in warnings:
        logging.getLogger("proxy.config").warning("%s", warning)
    if getattr(args, "cleanup", False):
        return _clean(settings)

    from proxy import app  # noqa: PLC0415

    if getattr(args, "init_only", False):
        return app.init(settings)
    return app.run(settings)


def _log_to_stderr(settings: "Settings") -> None:
    logging.basicConfig(
        level=logging.DEBUG if settings.verbosity >= 4 else logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )


def _read_file(path: str) -> bytes:
    return Path(path).read_bytes()


def _cleanup(args: argparse.Namespace) -> int:
    from proxy.config import load  # noqa: PLC0415

    settings, _ = load.load(args, hostname=socket.gethostname(), read_file=_read_file)
    return _clean(settings)


def _clean(settings: "Settings") -> int:
    from proxy import app  # noqa: PLC0415

    for line in app.cleanup(settings):
        print(line)
    return 0
