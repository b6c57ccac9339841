import json
import logging

import pytest

from proxy.logs import JsonFormatter, configure
from tests.unit.proxy.config.loading import settings_of


def make_record(message: str, **fields: object) -> logging.LogRecord:
    return logging.makeLogRecord(
        {"msg": message, "levelname": "WARNING", "name": "proxy.app", "created": 12.3456} | fields
    )


def test_a_json_line_has_the_fields_of_kubernetes_components() -> None:
    line = JsonFormatter().format(make_record("two\nlines of %s", args=("text",)))

    assert "\n" not in line
    assert json.loads(line) == {
        "ts": 12345.6,
        "level": "warning",
        "logger": "proxy.app",
        "msg": "two\nlines of text",
    }


@pytest.mark.parametrize(
    ("verbosity", "usual", "wanted"),
    [
        (0, logging.INFO, logging.INFO),
        (0, logging.WARNING, logging.WARNING),
        (4, logging.WARNING, logging.DEBUG),
    ],
)
def test_from_which_level_up_it_is_logged(
    monkeypatch: pytest.MonkeyPatch, verbosity: int, usual: int, wanted: int
) -> None:
    seen: dict[str, object] = {}
    monkeypatch.setattr(logging, "basicConfig", lambda **given: seen.update(given))

    configure(settings_of(f"--v={verbosity}"), usual)

    assert seen["level"] == wanted


def test_an_unexpected_error_comes_with_its_traceback() -> None:
    error = ValueError("surprise")
    record = make_record("failed", exc_info=(ValueError, error, None))

    assert "ValueError: surprise" in json.loads(JsonFormatter().format(record))["err"]
