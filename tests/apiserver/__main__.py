"""The stand-in as a process of its own: prints its URL on the first line, then serves until SIGTERM or SIGINT."""

import argparse
import asyncio
import gc
import json
import signal
from collections.abc import Iterator
from pathlib import Path

import uvloop
import yaml

from tests.apiserver.control import Control
from tests.apiserver.kubeconfig import Credentials
from tests.apiserver.resources import Object
from tests.apiserver.running import running

_SUFFIXES = (".json", ".yaml", ".yml")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.apiserver", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0: any free one")
    parser.add_argument(
        "--manifests", type=Path, help="what it holds at first: JSON and YAML files"
    )
    parser.add_argument(
        "--tls-dir", type=Path, help="serve HTTPS, with an authority and certificates made here"
    )
    parser.add_argument("--kubeconfig", type=Path, help="written for clients")
    parser.add_argument("--token-file", type=Path, help="written for clients, and when it rotates")
    parser.add_argument(
        "--credentials",
        choices=("token", "certificate", "none"),
        help="what clients must show; default: token with --tls-dir, else none",
    )
    parser.add_argument(
        "--control", help="a Unix socket for tests, see tests/apiserver/control.py"
    )
    parser.add_argument("--window", type=int, default=20_000, help="changes that it remembers")
    return parser.parse_args()


def load(directory: Path) -> Iterator[Object]:
    """The objects in all files of a directory."""
    for file in sorted(directory.iterdir()):
        if file.suffix not in _SUFFIXES:
            continue
        text = file.read_text()
        if text.lstrip().startswith("{"):
            documents = [json.loads(text)]
        else:
            documents = list(yaml.load_all(text, Loader=yaml.CSafeLoader))
        for document in documents:
            if isinstance(document, dict):
                yield from document.get("items", [document])


async def _serve(arguments: argparse.Namespace) -> None:
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    default: Credentials = "token" if arguments.tls_dir else "none"
    credentials: Credentials = arguments.credentials or default
    async with running(
        load(arguments.manifests) if arguments.manifests else (),
        host=arguments.host,
        port=arguments.port,
        is_tls=arguments.tls_dir is not None,
        credentials=credentials,
        window=arguments.window,
        directory=arguments.tls_dir,
        kubeconfig_file=arguments.kubeconfig,
        token_file=arguments.token_file,
    ) as started:
        gc.freeze()
        control = Control(started.server)
        if arguments.control:
            await control.start(arguments.control)
        print(started.server.url, flush=True)
        await stopping.wait()
        await control.stop()


if __name__ == "__main__":
    uvloop.run(_serve(_arguments()))
