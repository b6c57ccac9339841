"""Log lines to standard error, as text or as JSON. Shell.

The JSON has the fields of Kubernetes components with `--logging-format=json`: `ts` in milliseconds since 1970, `msg`,
and `err` where something went wrong that nobody expected.
"""

import json
import logging
import sys
from typing import Final

from proxy.config.settings import Settings

_TEXT: Final = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_DEBUG_FROM_V: Final = 4
"""kube-proxy's developers call this level of verbosity debugging."""


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "ts": round(record.created * 1e3, 3),
            "level": record.levelname.lower(),
            "logger": record.name,
            "msg": record.getMessage(),
        }
        if record.exc_info:
            line["err"] = self.formatException(record.exc_info)
        return json.dumps(line)


def configure(settings: Settings, usual: int = logging.INFO) -> None:
    """Log as the settings say from now on: from `usual` up, unless more was asked for."""
    handler = logging.StreamHandler(sys.stderr)
    is_json = settings.log_format == "json"
    handler.setFormatter(JsonFormatter() if is_json else logging.Formatter(_TEXT))
    is_debugging = settings.verbosity >= _DEBUG_FROM_V
    logging.basicConfig(level=logging.DEBUG if is_debugging else usual, handlers=[handler])
