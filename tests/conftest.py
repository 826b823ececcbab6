"""Fixtures that the tests of several rooms share, and the figures that a run of them reports."""

import pytest

from tests.servers.browser import chromium
from tests.servers.openid_provider import openid_provider

__all__ = ["chromium", "openid_provider"]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """One line for each figure that a test recorded: what was counted, and how many."""
    reports = [report for each in ("passed", "failed") for report in terminalreporter.stats.get(each, ())]
    for report in reports:
        for name, value in report.user_properties:
            terminalreporter.write_line(f"{name}: {value}")
