"""What the operator types: sub-commands, exit codes, and the only place that prints.

Exit codes: 0 done · 1 the question has no answer, or something failed · 2 the operator has to change something ·
3 if asked for: something is to be done.
Called with flags only, as kube-proxy is, it runs the proxy.
"""

import argparse
import difflib
import itertools
import logging
import math
import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, TextIO

from proxy import __version__
from proxy.errors import ConfigError, ProxyError

SOMETHING_TO_DO: Final = 3
_NOT_FOR_A_PLAN: Final = ("cleanup", "init-only", "write-config-to")
_OTHER_ADDRESS: Final = "If it serves metrics elsewhere, name its address with --server"

if TYPE_CHECKING:
    from proxy.config.settings import Settings


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code. Arguments that make no sense raise SystemExit(2), as argparse has it."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if (
        arguments
        and arguments[0].startswith("-")
        and arguments[0] not in ("-h", "--help", "--version")
    ):
        arguments.insert(0, "run")
    try:
        try:
            parser, commands = _parser()
            args, unknown = parser.parse_known_args(arguments)
            if unknown:
                parser.error(_unknown_words(unknown, args.name, commands[args.name]))
            return int(args.command(args))
        finally:
            _flush(sys.stdout)  # here, where a failure can still be told
    except KeyboardInterrupt:
        return 130
    except (OSError, ProxyError) as error:
        return _failed(error)


def _failed(error: Exception) -> int:
    """Say what went wrong and return the exit code."""
    text = str(error)
    if isinstance(error, OSError) and error.filename:
        text = f"{error.strerror}: {error.filename}"
    if not isinstance(error, BrokenPipeError):  # the reader of our output has gone, as `head` does
        _tell(f"sliceproxy: {text}")
    for stream in (sys.stdout, sys.stderr):
        try:
            _flush(stream)
        except OSError:  # the interpreter would try again on exit, and complain
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return 2 if isinstance(error, ConfigError) else 1


def _flush(stream: TextIO | None) -> None:
    if stream is not None:  # as it is where the caller closed it
        stream.flush()


def _tell(text: str) -> None:
    """Print to standard error. Names in manifests may hold anything, also what steers a terminal."""
    lines = [line if line.isprintable() else ascii(line)[1:-1] for line in text.split("\n")]
    if sys.stderr is not None:  # print would take standard output instead
        print("\n".join(lines), file=sys.stderr)


def _unknown_words(unknown: Sequence[str], name: str, command: argparse.ArgumentParser) -> str:
    """Return what to say of arguments that a command does not have."""
    known = list(command._option_string_actions)  # noqa: SLF001 - nothing else tells them
    similar = [
        close
        for each in unknown
        for close in difflib.get_close_matches(each.partition("=")[0], known, n=1, cutoff=0.8)
    ]
    hint = f"did you mean {' or '.join(similar)}? " if similar else ""
    return f"unrecognized arguments: {' '.join(unknown)}; {hint}see `sliceproxy {name} --help`"


def _parser() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """Return the parser of everything, and those of the commands by their names."""
    from proxy.config.flags import add_flags  # noqa: PLC0415 - `version` needs none of it

    parser = argparse.ArgumentParser(
        prog="sliceproxy",
        description="A per-node Kubernetes service proxy. Called with kube-proxy's flags only, it runs.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, dest="name", metavar="COMMAND")

    run = commands.add_parser("run", help="program this node and keep it so", allow_abbrev=False)
    add_flags(run)
    run.set_defaults(command=_run)

    plan = commands.add_parser(
        "plan",
        help="say what a start would change in the kernel, and change nothing",
        description="Reads the objects and what the kernel holds, and prints the operations that bring one to the other, in"
        " the order in which `run` with the same flags carries them out. Whether a mode can be had is found out as `run`"
        " does it: by trying, out of the way of everything. Not listed is what else `run` does: it writes kernel settings,"
        " listens for node ports at localhost, and once all is done removes what other modes or tools of this mode have left"
        " (and in mode ipvs endpoints that went, when their connections have ended). What the kernel will refuse is not known.",
        allow_abbrev=False,
    )
    add_flags(plan, hidden=_NOT_FOR_A_PLAN)
    plan.add_argument(
        "--wait",
        type=_seconds,
        default=30.0,
        metavar="SECONDS",
        help="how long it may take until everything is listed; default: %(default)g",
    )
    plan.add_argument(
        "--exit-code",
        action="store_true",
        help=f"exit status {SOMETHING_TO_DO} instead of 0 if there is anything to do",
    )
    _add_output(plan)
    plan.set_defaults(command=_plan)

    cleanup = commands.add_parser(
        "cleanup", help="remove everything sliceproxy has put into the kernel", allow_abbrev=False
    )
    cleanup.add_argument(
        "--mode", default="", help="only what this mode has put there; another may be running"
    )
    cleanup.set_defaults(command=_cleanup)

    explain = commands.add_parser(
        "explain",
        help="say which endpoints serve a service on a node, and why",
        description="Says for every endpoint whether it serves, and why. Asks the sliceproxy that runs on this node,"
        " or reads manifests, which needs neither root nor a cluster.",
        allow_abbrev=False,
    )
    explain.add_argument(
        "service",
        nargs="?",
        metavar="[NAMESPACE/]SERVICE",
        help="without it, all services; without a namespace, that of the namespace default",
    )
    asked = explain.add_mutually_exclusive_group()
    asked.add_argument("--manifests", metavar="PATH", help="a file or directory of objects")
    _add_server(asked)
    explain.add_argument("--node", metavar="NAME", help="with --manifests: the node to look from")
    _add_output(explain)
    explain.set_defaults(command=_explain)

    state = commands.add_parser(
        "state",
        help="say how the sliceproxy on this node is doing",
        description="Asks a running sliceproxy how far it is and what is not as it should be.",
        allow_abbrev=False,
    )
    _add_server(state)
    _add_output(state)
    state.set_defaults(command=_state)

    version = commands.add_parser("version", help="print the version")
    version.set_defaults(command=_version)
    return parser, commands.choices


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is no number of seconds above 0")
    return seconds


def _add_server(parser: "argparse._ActionsContainer") -> None:
    parser.add_argument(
        "--server",
        metavar="URL",
        help="the metrics address of a running sliceproxy; default: http://127.0.0.1:10249, or http://[::1]:10249",
    )


def _add_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-o", "--output", choices=("text", "json"), default="text", help="default: %(default)s"
    )


def _version(_args: argparse.Namespace) -> int:
    print(f"sliceproxy {__version__}")
    return 0


def _state(args: argparse.Namespace) -> int:
    _print_answer(args.server, "/debug/state", {"output": args.output}, _OTHER_ADDRESS)
    return 0


def _explain(args: argparse.Namespace) -> int:
    if args.manifests is not None:
        return _explain_manifests(args)
    if args.node is not None:
        raise ConfigError("--node: goes with --manifests; a running sliceproxy knows its node")
    output = "ansi" if args.output == "text" and _is_colourful() else args.output
    parameters = {"output": output}
    if args.service is not None:
        parameters["service"] = args.service
    otherwise = f"{_OTHER_ADDRESS}, or read files with --manifests"
    _print_answer(args.server, "/debug/explain", parameters, otherwise)
    return 0


def _print_answer(
    server: str | None, path: str, parameters: dict[str, str], otherwise: str
) -> None:
    """Ask a running daemon and print what it says. If none is found, `otherwise` says what else can be done."""
    from proxy.server import client  # noqa: PLC0415

    try:
        page = client.ask(server, path, parameters)
    except client.NobodyError as error:
        if server is not None:
            raise
        raise ProxyError(f"{error} {otherwise}") from error
    if page.note:
        _tell(f"note: {page.note}")
    _print(page.text)


def _print(text: str) -> None:
    """Print text whatever encoding the output has."""
    if sys.stdout is None:  # as it is where the caller closed it
        return
    encoding = sys.stdout.encoding or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding), end="")


def _explain_manifests(args: argparse.Namespace) -> int:
    from proxy import explain, explain_text, rejections  # noqa: PLC0415 - each command imports only what it needs, to start at once
    from proxy.cache import Cache  # noqa: PLC0415
    from proxy.model import NodeInfo  # noqa: PLC0415
    from proxy.sources import manifest_set, manifests  # noqa: PLC0415

    if not args.manifests:
        raise ConfigError("--manifests: must name a file or a directory")
    if args.node is None:
        raise ConfigError("--node: --manifests needs the name of the node to look from")
    node_name = args.node.strip().lower()
    if not (node_name and node_name.isprintable()):
        raise ConfigError(f"--node: {args.node!a} is no name of a Node")
    cache = Cache(NodeInfo(name=node_name))
    try:
        events, warnings = manifests.load(Path(args.manifests), node_name)
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        raise ConfigError(f"--manifests: {args.manifests}: {why}") from error
    cache.apply(events, 0.0)
    for warning in (*warnings, *rejections.warnings(cache)):
        _tell(f"warning: {warning}")

    where = f"in {args.manifests}"
    services = list(cache.services.values())
    if args.service is not None:
        services = [explain.find(cache, args.service, where)]
    explained = explain.explain(cache, services)
    if not explained:
        nothing = explain.why_nothing(services, where)
        rejected = itertools.chain.from_iterable(cache.problems.values())
        if args.service is None and any(each.kind == manifest_set.FILE for each in rejected):
            raise ProxyError(nothing)
        _tell(f"note: {nothing}")
    if args.output == "json":
        print(explain_text.render_json(explained))
    else:
        paint = explain_text.ansi if _is_colourful() else explain_text.plain
        _print(explain_text.render_text(explained, paint))
    return 0


def _is_colourful() -> bool:
    return (
        sys.stdout is not None
        and sys.stdout.isatty()
        and not os.environ.get("NO_COLOR")  # as no-color.org has it, an empty one says nothing
        and os.environ.get("TERM") != "dumb"
    )


def _run(args: argparse.Namespace) -> int:
    from proxy import logs  # noqa: PLC0415
    from proxy.config import load  # noqa: PLC0415

    if path := getattr(args, "write_config_to", None):
        text, warnings = load.write_config(args, read_file=_read_file)
        for warning in warnings:
            _tell(f"warning: {warning}")
        Path(path).write_text(text)
        print(f"wrote {path}")
        return 0
    settings, warnings = load.load(args, hostname=socket.gethostname(), read_file=_read_file)
    logs.configure(settings)
    for warning in warnings:
        logging.getLogger("proxy.config").warning("%s", warning)
    if getattr(args, "cleanup", False):
        return _clean(settings)

    from proxy import app  # noqa: PLC0415

    if getattr(args, "init_only", False):
        return app.init(settings)
    return app.run(settings)


def _plan(args: argparse.Namespace) -> int:
    from proxy import logs  # noqa: PLC0415
    from proxy.config import load  # noqa: PLC0415

    for name in _NOT_FOR_A_PLAN:
        if getattr(args, name.replace("-", "_"), None):
            raise ConfigError(f"--{name}: is for run; plan changes nothing")
    settings, warnings = load.load(args, hostname=socket.gethostname(), read_file=_read_file)
    logs.configure(settings, usual=logging.WARNING)
    for warning in warnings:
        _tell(f"warning: {warning}")

    from proxy import app, rehearsal  # noqa: PLC0415

    found = app.plan(settings, args.wait)
    for warning in found.warnings:
        _tell(f"warning: {warning}")
    render = rehearsal.render_json if args.output == "json" else rehearsal.render_text
    _print(render(found))
    return SOMETHING_TO_DO if args.exit_code and found.operations else 0


def _read_file(path: str) -> bytes:
    return Path(path).read_bytes()


def _cleanup(args: argparse.Namespace) -> int:
    from proxy.config import load  # noqa: PLC0415

    settings, _ = load.load(args, hostname=socket.gethostname(), read_file=_read_file)
    return _clean(settings, args.mode)


def _clean(settings: "Settings", mode: str = "") -> int:
    from proxy import app  # noqa: PLC0415

    for line in app.cleanup(settings, mode):
        print(line)
    return 0
