"""A person without a browser: reads the sandbox's sign-in page and sends its form."""

from html.parser import HTMLParser

import httpx2

from erpsync.sandbox.people import PASSWORD

CALLBACK = "http://127.0.0.1:53177/callback"
"""Where the sandbox's applications for people may be sent back to; nobody needs to listen there."""


class Form(HTMLParser):
    """The one form of a page: where it goes, and its fields."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.action = ""
        self.fields: dict[str, str | None] = {}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "form":
            self.action = given["action"] or ""
        if tag == "input":
            self.fields[given["name"] or ""] = given.get("value")


def sign_in(url: str, login: str = "admin", password: str = PASSWORD) -> str:
    """Opens an authorization URL and signs in; returns the address to which the browser is sent back."""
    with httpx2.Client(base_url=url.partition("/id/")[0], trust_env=False) as http:
        person = {"username": login, "password": password}
        return http.post(Form(http.get(url).text).action, data=person).headers["location"]
