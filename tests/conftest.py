"""What all tests share: the report of the suites."""

import pytest

from tests import suite_report

# the report is itself tested by running pytest on small examples
pytest_plugins = ["pytester"]


def pytest_configure(config: pytest.Config) -> None:
    """Report by suite."""
    suite_report.register(config)
