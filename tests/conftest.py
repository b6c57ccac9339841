"""What all tests share: the report of the suites, and that no example is too slow."""

import pytest
from hypothesis import HealthCheck, settings

from tests import suite_report

# how long an example takes tells how busy the machine is, and nothing about what is tested
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")

# the report is itself tested by running pytest on small examples
pytest_plugins = ["pytester"]


def pytest_configure(config: pytest.Config) -> None:
    """Report by suite."""
    suite_report.register(config)
