"""A sandbox for each test, one for the tests that only read, and a small client for both."""

from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import pytest

from erpsync.sandbox.identity import CLIENT_ID, CLIENT_SECRET
from erpsync.sandbox.server import Sandbox

PRODUCTS = "General_Products_Products"


class Caller:
    """A plain HTTP client with a token of its own."""

    def __init__(self, sandbox: Sandbox, client_id: str = CLIENT_ID, secret: str = CLIENT_SECRET) -> None:
        self.sandbox = sandbox
        self.http = httpx2.Client(base_url=sandbox.url, trust_env=False)
        self._credentials = {"client_id": client_id, "client_secret": secret}
        self.token = ""

    def ask_token(self, **form: str) -> httpx2.Response:
        return self.http.post(
            "/id/connect/token", data={"grant_type": "client_credentials", **self._credentials, **form}
        )

    def renew(self, **form: str) -> None:
        self.token = self.ask_token(**form).json()["access_token"]

    def call(self, method: str, path: str, **options: Any) -> httpx2.Response:
        if not self.token:
            self.renew()
        headers = {"Authorization": f"Bearer {self.token}", **options.pop("headers", {})}
        url = path if path.startswith("http") else f"/api/domain/odata/{path}"
        return self.http.request(method, url, headers=headers, **options)

    def get(self, path: str, **params: Any) -> httpx2.Response:
        return self.call("GET", path, params={f"${name}": value for name, value in params.items()} or None)

    def value(self, path: str, **params: Any) -> list[dict[str, Any]]:
        response = self.get(path, **params)
        assert response.status_code == 200, response.text
        return response.json()["value"]

    def error(self, path: str, **params: Any) -> tuple[int, dict[str, Any]]:
        response = self.get(path, **params)
        return response.status_code, response.json()["error"]

    def pages(self, path: str, **params: Any) -> Iterator[list[dict[str, Any]]]:
        page = self.get(path, **params).json()
        yield page["value"]
        while link := page.get("@odata.nextLink"):
            page = self.call("GET", link).json()
            yield page["value"]


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    """A sandbox that the test may change as it likes."""
    with Sandbox() as running:
        yield running


@pytest.fixture
def make_caller() -> Iterator[Callable[..., Caller]]:
    """Makes clients that are closed after the test."""
    made: list[Caller] = []

    def make(sandbox: Sandbox, *credentials: str) -> Caller:
        made.append(Caller(sandbox, *credentials))
        return made[-1]

    yield make
    for caller in made:
        caller.http.close()


@pytest.fixture
def caller(sandbox: Sandbox, make_caller: Callable[..., Caller]) -> Caller:
    """A client of the test's own sandbox."""
    return make_caller(sandbox)


@pytest.fixture(scope="package")
def reader() -> Iterator[Caller]:
    """A client of a sandbox shared by the tests that only read."""
    with Sandbox(license_slots=100) as running:
        shared = Caller(running)
        yield shared
        shared.http.close()
