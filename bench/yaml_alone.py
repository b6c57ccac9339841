"""What YAML costs for some files, and nothing else: `python -m bench.yaml_alone DIRECTORY`.

Prints as JSON the seconds from text to plain values, the way the daemon reads them, and how many of them libyaml
takes to hand over its events, which is the least that any reader of YAML pays.
"""

import json
import sys
import time
from pathlib import Path

import yaml

from proxy.sources import plain_yaml


def main() -> None:
    """Parse every file of a directory in both ways."""
    texts = [path.read_bytes() for path in sorted(Path(sys.argv[1]).iterdir())]
    started_s = time.monotonic()
    for text in texts:
        for _ in plain_yaml.read(text):
            pass
    values_s = time.monotonic() - started_s
    started_s = time.monotonic()
    for text in texts:
        parser = yaml.CSafeLoader(text)
        while parser.get_event() is not None:
            pass
    print(json.dumps({"values_s": values_s, "libyaml_s": time.monotonic() - started_s}))


if __name__ == "__main__":
    main()
