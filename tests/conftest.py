"""Fixtures that the tests of several rooms share, and the figures that a run of them reports.

Property tests try the same examples in every ordinary run, so that a red run is about the change it tests;
EXPLORE=1 (`make soak`) lets them look for new ones.
"""

import os
import signal

import pytest
from hypothesis import settings

from tests.servers.browser import chromium
from tests.servers.openid_provider import openid_provider

__all__ = ["chromium", "openid_provider"]

settings.register_profile("ordinary", derandomize=True, database=None, deadline=None)
settings.register_profile("explore", database=None, deadline=None)
settings.load_profile("explore" if os.environ.get("EXPLORE") else "ordinary")


def pytest_configure() -> None:
    """A shell that runs us in the background lets us ignore Ctrl-C, and what we start would, too."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """One line for each figure that a test recorded: what was counted, and how many."""
    reports = [report for each in ("passed", "failed") for report in terminalreporter.stats.get(each, ())]
    for report in reports:
        for name, value in report.user_properties:
            terminalreporter.write_line(f"{name}: {value}")
