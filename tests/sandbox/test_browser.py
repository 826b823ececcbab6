"""The sign-in page in a real browser, and a single-page application that uses it."""

import json
import threading
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote, urlencode

import pytest
from playwright.async_api import Browser, Page, expect

from erpsync.sandbox.identity import NATIVE
from erpsync.sandbox.people import PASSWORD
from tests.sandbox.conftest import Caller
from tests.servers.npm import installed
from tests.servers.person import CALLBACK

pytestmark = pytest.mark.browser
SOURCE = Path(__file__).parent / "node"


class _Files(BaseHTTPRequestHandler):
    """One page under every path, and the library that it loads."""

    def __init__(self, library: bytes, *rest: object) -> None:
        self._library = library
        super().__init__(*rest)

    def do_GET(self) -> None:
        script = self.path == "/oidc-client-ts.js"
        body = self._library if script else (SOURCE / "page.html").read_bytes()
        self.send_response(200)
        self.send_header("Content-Type", "text/javascript" if script else "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def application() -> Iterator[str]:
    """The address of a single-page application with oidc-client-ts, on an origin of its own."""
    library = installed(SOURCE) / "node_modules/oidc-client-ts/dist/browser/oidc-client-ts.min.js"
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Files, library.read_bytes())) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


async def told(page: Page, word: str) -> dict[str, object]:
    """What the application says once it says something with this word."""
    await expect(page.locator("#told")).to_contain_text(word)
    content = await page.locator("#told").text_content()
    answer: dict[str, object] = json.loads(content or "")
    return answer


async def sign_in(page: Page, password: str = PASSWORD) -> None:
    await page.get_by_label("User name").fill("clerk")
    await page.get_by_label("Password").fill(password)
    await page.get_by_role("button", name="Sign in").click()


@pytest.mark.node
async def test_oidc_client_ts(chromium: Browser, application: str, reader: Caller) -> None:
    """Code with PKCE from a page of another origin: tokens, userinfo, renewal, and signing out again."""
    page = await chromium.new_page()
    await page.goto(f"{application}/?authority={quote(reader.sandbox.url)}/id")
    await told(page, "null")
    await page.get_by_role("button", name="Sign in").click()
    await sign_in(page)
    assert await told(page, "clerk") == {
        "user": "clerk",
        "name": "Clerk",
        "email": "clerk@sandbox.example",
        "rotated": True,
        "same_session": True,
    }
    await page.get_by_role("button", name="Sign out").click()
    await page.wait_for_url(f"{application}/")
    assert await told(page, "user") == {"user": None}


async def test_the_page_works_on_a_phone_without_scripts(chromium: Browser, reader: Caller) -> None:
    """Nothing is cut off, the keyboard is enough, a wrong password is announced, and the browser is sent back."""
    context = await chromium.new_context(
        viewport={"width": 320, "height": 640}, java_script_enabled=False, has_touch=True, is_mobile=True
    )
    page = await context.new_page()
    query = {"response_type": "code", "client_id": NATIVE, "redirect_uri": CALLBACK, "scope": "openid read"}
    query |= {"code_challenge": "x" * 43, "code_challenge_method": "S256"}
    await page.goto(f"{reader.sandbox.url}/id/connect/authorize?{urlencode(query)}")
    box = await page.locator("main").bounding_box()
    assert box is not None
    assert (box["x"] >= 0, box["x"] + box["width"] <= 320) == (True, True)
    await sign_in(page, "wrong")
    await expect(page.get_by_role("alert")).to_have_text("The user name or the password is wrong.")
    await expect(page.get_by_label("User name")).to_have_value("clerk")
    await expect(page.get_by_label("Password")).to_be_focused()
    await page.keyboard.type(PASSWORD)
    async with page.expect_request(lambda request: request.url.startswith(f"{CALLBACK}?code=")):
        await page.keyboard.press("Enter")
