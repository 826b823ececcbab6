"""A headless Chromium, Debian's own, driven by Playwright; it reaches nothing but loopback.

Without it the tests that need it are skipped, or fail where TESTS_REQUIRE_BROWSER=1.
"""

import os
import shutil
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.async_api import Browser

_FLAGS = [
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
]


@pytest.fixture
async def chromium() -> "AsyncIterator[Browser]":
    """The running browser."""
    program = shutil.which("chromium")
    if program is None:
        if os.environ.get("TESTS_REQUIRE_BROWSER") == "1":
            pytest.fail("chromium is not installed")
        pytest.skip("chromium is not installed")
    from playwright.async_api import async_playwright, expect  # takes half a second: not in every run

    expect.set_options(timeout=30_000)
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=program, args=_FLAGS)
        yield browser
        await browser.close()
