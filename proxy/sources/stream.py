"""Watch events from a pipe or file, one JSON object a line, as in the body of a Kubernetes watch response.

Shell. Events of all kinds may be mixed. A bookmark that ends the initial list marks its kind as listed; the end
of the stream ends the source, and what it delivered stays.

Bytes are read in large pieces and cut into lines wherever the pieces end. Decoding happens in the call in which
the bytes came, because a task switch would cost as much as the work; when there is more than a few milliseconds
of it, the event loop gets its turn in between, and nothing more is read meanwhile.
"""

import asyncio
import contextlib
import fcntl
import logging
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from proxy.model import Rejected
from proxy.sources import intake
from proxy.sources.decode import MalformedError, WatchEvent, decode_event
from proxy.sources.events import KINDS, Deliver, Event, Problems, Synced
from proxy.sources.intake import Intake, ObjectKey

_LOG = logging.getLogger(__name__)

_READ_BYTES: Final = 1 << 20
_LONGEST_LINE_BYTES: Final = 16 << 20
_BUDGET_S: Final = 0.005
