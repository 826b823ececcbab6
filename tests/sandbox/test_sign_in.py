"""People sign in: the page, the way back, codes, refresh tokens, and the end of a session."""

import hashlib
import json
import re
import secrets
from base64 import b64encode, urlsafe_b64decode, urlsafe_b64encode
from html import unescape
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx2
import pytest
from joserfc import jwt
from joserfc.jwk import KeySet

from erpsync.sandbox.identity import CLIENT_ID, CLIENT_SECRET, NATIVE, WEB
from erpsync.sandbox.people import PASSWORD
from erpsync.sandbox.server import Sandbox
from tests.servers.person import CALLBACK, Form

SCOPE = "openid profile read update offline_access"


class Browser:
    """Somebody's browser and, at the other end of the redirect, the application that sent them."""

    def __init__(self, sandbox: Sandbox, client_id: str = NATIVE) -> None:
        self.sandbox = sandbox
        self.client_id = client_id
        self.http = httpx2.Client(base_url=sandbox.url, trust_env=False)
        self.verifier = secrets.token_urlsafe(32)

    def parameters(self, **changes: str | None) -> dict[str, str]:
        digest = hashlib.sha256(self.verifier.encode()).digest()
        given = {
            "response_type": "code",
            "client_id": self.client_id,
            "redirect_uri": CALLBACK,
            "scope": SCOPE,
            "state": "s&t=1",
            "nonce": "n0",
            "code_challenge": urlsafe_b64encode(digest).decode().rstrip("="),
            "code_challenge_method": "S256",
            **changes,
        }
        return {name: value for name, value in given.items() if value is not None}

    def authorize(self, **changes: str | None) -> httpx2.Response:
        return self.http.get("/id/connect/authorize", params=self.parameters(**changes))

    def submit(
        self, page: httpx2.Response, login: str = "admin", password: str = PASSWORD
    ) -> httpx2.Response:
        form = Form(page.text)
        assert set(form.fields) == {"username", "password"}
        return self.http.post(form.action, data={"username": login, "password": password})

    def code(self, **changes: str | None) -> str:
        page = self.authorize(**changes)
        returned = page if page.is_redirect else self.submit(page)
        return back(returned)["code"]

    def token(self, **form: str | None) -> httpx2.Response:
        own = {"client_id": self.client_id}
        if self.client_id == WEB:
            own["client_secret"] = CLIENT_SECRET
        given = {name: value for name, value in {**own, **form}.items() if value is not None}
        return self.http.post("/id/connect/token", data=given)

    def redeem(self, code: str, **changes: str | None) -> httpx2.Response:
        form = {"redirect_uri": CALLBACK, "code_verifier": self.verifier, **changes}
        return self.token(grant_type="authorization_code", code=code, **form)

    def refresh(self, refresh_token: str, **changes: str) -> httpx2.Response:
        return self.token(grant_type="refresh_token", refresh_token=refresh_token, **changes)

    def signed_in(self) -> dict[str, Any]:
        """The answer of the token endpoint after a whole sign-in."""
        return self.redeem(self.code()).json()

    def api(self, access_token: str) -> int:
        headers = {"Authorization": f"Bearer {access_token}"}
        return self.http.get("/api/domain/odata/GetVersion", headers=headers).status_code


def back(response: httpx2.Response) -> dict[str, str]:
    """What the browser brings back to the application."""
    assert response.status_code == 303, response.text
    assert response.headers["location"].startswith(f"{CALLBACK}?")
    return {
        name: values[0] for name, values in parse_qs(urlsplit(response.headers["location"]).query).items()
    }


def claims(token: str) -> dict[str, Any]:
    part = token.split(".")[1]
    return json.loads(urlsafe_b64decode(part + "=" * (-len(part) % 4)))


def error(response: httpx2.Response) -> str:
    assert response.status_code == 400
    return response.json()["error"]


@pytest.fixture
def browser(sandbox):
    """A browser that is signed in nowhere, on behalf of the native application."""
    made = Browser(sandbox)
    yield made
    made.http.close()


@pytest.fixture
def shared(reader):
    """A browser that is signed in nowhere, at a sandbox which the tests do not change."""
    made = Browser(reader.sandbox)
    yield made
    made.http.close()


def test_a_person_signs_in_and_the_application_gets_tokens(browser):
    """Page, password, code, tokens: state and issuer come back, and the tokens say who it is."""
    returned = back(browser.submit(browser.authorize()))
    issuer = f"{browser.sandbox.url}/id"
    assert (returned["state"], returned["iss"]) == ("s&t=1", issuer)
    answer = browser.redeem(returned["code"]).json()
    assert (answer["scope"], answer["token_type"], answer["expires_in"]) == (SCOPE, "Bearer", 3600)
    keys = KeySet.import_key_set(browser.http.get("/id/.well-known/openid-configuration/jwks").json())
    told = jwt.decode(answer["id_token"], keys, algorithms=["RS256"]).claims
    half = hashlib.sha256(answer["access_token"].encode()).digest()[:16]
    assert (told["iss"], told["aud"], told["sub"], told["nonce"]) == (issuer, NATIVE, "admin", "n0")
    assert told["at_hash"] == urlsafe_b64encode(half).decode().rstrip("=")
    access = claims(answer["access_token"])
    users = browser.sandbox.read("Systems_Security_Users", "Id", "Login")
    assert (access["sub"], access["id"]) == next(
        (user["Login"], user["Id"]) for user in users if user["Login"] == "admin"
    )
    assert access["sid"] == told["sid"]
    assert "client_system_user" not in access
    assert browser.api(answer["access_token"]) == 200


def test_a_wrong_password_is_said_and_the_name_is_kept(shared):
    """The page comes again with an alert; after the right password all goes on."""
    page = shared.submit(shared.authorize(), login='a"><b>', password="wrong")
    assert page.status_code == 403
    assert "password is wrong" in page.text
    assert 'role="alert"' in page.text
    assert Form(page.text).fields["username"] == 'a"><b>'
    assert "<b>" not in page.text
    assert "code" in back(shared.submit(page))


def test_a_person_may_cancel(shared):
    """The page's link leads back with access_denied and the state."""
    link = unescape(re.search('<a href="([^"]*)">Cancel</a>', shared.authorize().text)[1])
    returned = {name: values[0] for name, values in parse_qs(urlsplit(link).query).items()}
    assert link.startswith(f"{CALLBACK}?")
    assert (returned["error"], returned["state"]) == ("access_denied", "s&t=1")


def test_the_legacy_scope_is_let_pass(shared):
    """`DomainApi` is asked for by samples; it is not granted."""
    assert shared.redeem(shared.code(scope="openid DomainApi read")).json()["scope"] == "openid read"


def test_nobody_signs_in_as_the_system_or_as_nobody(shared):
    """Users without a password and unknown ones get the same answer as a wrong password."""
    for login, password in (("SYSTEM_APPLICATION_USER", ""), ("nobody", PASSWORD), ("admin", "")):
        assert shared.submit(shared.authorize(), login, password).status_code == 403


def test_the_page_cannot_be_framed_scripted_or_kept(shared):
    """Its headers forbid frames, scripts and caches, and its style is the one they name."""
    page = shared.authorize(login_hint="<script>")
    policy = page.headers["content-security-policy"]
    style = re.search("<style>(.*?)</style>", page.text, re.DOTALL)[1]
    assert f"'sha256-{b64encode(hashlib.sha256(style.encode()).digest()).decode()}'" in policy
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert page.headers["cache-control"] == "no-store"
    assert "<script" not in page.text
    assert Form(page.text).fields["username"] == "<script>"


def test_a_form_from_another_site_is_refused(shared):
    """A password that another site's page sends is not looked at."""
    action = Form(shared.authorize().text).action
    form = {"username": "admin", "password": PASSWORD}
    for origin, status in (("http://evil.example", 400), ("null", 400), (shared.sandbox.url, 303)):
        assert shared.http.post(action, data=form, headers={"Origin": origin}).status_code == status


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"client_id": "nobody"}, "unauthorized_client"),
        ({"client_id": None}, "unauthorized_client"),
        ({"redirect_uri": None}, "invalid_redirect_uri"),
        ({"redirect_uri": "http://127.0.0.1:53177/Callback"}, "invalid_redirect_uri"),
        ({"redirect_uri": "http://127.0.0.1:x/callback"}, "invalid_redirect_uri"),
        ({"redirect_uri": "https://127.0.0.1:53177/callback"}, "invalid_redirect_uri"),
        ({"redirect_uri": "http://a@127.0.0.1:53177/callback"}, "invalid_redirect_uri"),
        ({"redirect_uri": "http://127.0.0.1.evil.example/callback"}, "invalid_redirect_uri"),
        ({"redirect_uri": "http://127.0.0.1:1/callback?x=1"}, "invalid_redirect_uri"),
        ({"redirect_uri": '"><script>alert(1)</script>'}, "invalid_redirect_uri"),
        ({"client_id": CLIENT_ID}, "invalid_redirect_uri"),
    ],
)
def test_where_sending_back_is_not_safe_a_page_says_what_is_wrong(shared, changes, expected):
    """An unknown application or redirect URI is never redirected to."""
    response = shared.authorize(**changes)
    assert response.status_code == 400
    assert f"<code>{expected}</code>" in response.text
    assert "<script" not in response.text


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"response_type": None}, "invalid_request"),
        ({"response_type": "token"}, "unsupported_response_type"),
        ({"response_mode": "fragment"}, "invalid_request"),
        ({"code_challenge": None}, "invalid_request"),
        ({"code_challenge_method": "plain"}, "invalid_request"),
        ({"code_challenge_method": None}, "invalid_request"),
        ({"code_challenge": "short"}, "invalid_request"),
        ({"scope": "openid sec"}, "invalid_scope"),
        ({"prompt": "none"}, "login_required"),
        ({"prompt": "none login"}, "invalid_request"),
        ({"max_age": "soon"}, "invalid_request"),
        ({"request": "e30."}, "request_not_supported"),
    ],
)
def test_what_is_wrong_with_a_request_is_told_to_the_application(shared, changes, expected):
    """The browser goes back with the error, the state and the issuer (RFC 6749 section 4.1.2.1)."""
    returned = back(shared.authorize(**changes))
    assert (returned["error"], returned["state"]) == (expected, "s&t=1")
    assert returned["iss"] == f"{shared.sandbox.url}/id"


def test_only_native_applications_may_choose_their_port(sandbox, browser):
    """Without the permission a redirect URI has to match to the letter, and a confidential one needs no PKCE."""
    fixed = {"redirect_uris": [CALLBACK, "https://app.example/back?to=1"], "name": "Fixed <app>"}
    sandbox.register("fixed", "s", **fixed)
    assert browser.authorize(client_id="fixed", redirect_uri="http://127.0.0.1:1/callback").status_code == 400
    page = browser.authorize(
        client_id="fixed",
        redirect_uri="https://app.example/back?to=1",
        code_challenge=None,
        code_challenge_method=None,
        scope="openid read",
    )
    assert "Fixed &lt;app&gt;" in page.text
    location = browser.submit(page).headers["location"]
    assert location.startswith("https://app.example/back?to=1&code=")


def test_a_browser_that_is_signed_in_is_sent_back_at_once(browser):
    """Single sign-on: no page, the same session; `login` and `max_age` ask again, and the same person keeps it."""
    first = claims(browser.signed_in()["access_token"])
    for changes in ({}, {"prompt": "none"}, {"max_age": "3600"}):
        assert "code" in back(browser.authorize(**changes))
    again = browser.redeem(back(browser.submit(browser.authorize(prompt="login")))["code"]).json()
    assert claims(again["access_token"])["sid"] == first["sid"]
    browser.sandbox.skew(60)
    assert browser.authorize(max_age="30").status_code == 200
    other = browser.redeem(back(browser.submit(browser.authorize(prompt="login"), "clerk"))["code"]).json()
    assert claims(other["access_token"])["sid"] != first["sid"]


@pytest.mark.parametrize(
    "changes",
    [
        {"code_verifier": "x" * 43},
        {"code_verifier": None},
        {"redirect_uri": "http://127.0.0.1:1/callback"},
        {"redirect_uri": None},
        {"client_id": WEB, "client_secret": CLIENT_SECRET},
        {"code": "unknown"},
    ],
)
def test_a_code_is_for_the_one_who_asked(shared, changes):
    """Verifier, redirect URI and application have to be those of the request."""
    assert error(shared.redeem(**{"code": shared.code(), **changes})) == "invalid_grant"


def test_a_verifier_for_a_request_without_challenge_is_refused(sandbox):
    """A confidential application that sent no challenge cannot come with a verifier: somebody stripped it."""
    browser = Browser(sandbox, WEB)
    code = browser.code(code_challenge=None, code_challenge_method=None)
    assert error(browser.redeem(code)) == "invalid_grant"
    assert browser.redeem(code, code_verifier=None).status_code == 200
    browser.http.close()


def test_a_code_is_good_once_and_not_for_long(browser):
    """The second use ends what came of the first; after a minute there is no first."""
    code = browser.code()
    answer = browser.redeem(code).json()
    assert browser.api(answer["access_token"]) == 200
    assert error(browser.redeem(code)) == "invalid_grant"
    assert browser.api(answer["access_token"]) == 401
    assert error(browser.refresh(answer["refresh_token"])) == "invalid_grant"
    late = browser.code()
    browser.sandbox.advance(61)
    assert error(browser.redeem(late)) == "invalid_grant"


def test_refresh_tokens_rotate_within_one_session(browser):
    """Each use brings a new pair of tokens, the session and its licence slot stay the same."""
    answers = [browser.signed_in()]
    for _ in range(3):
        assert browser.api(answers[-1]["access_token"]) == 200
        answers.append(browser.refresh(answers[-1]["refresh_token"]).json())
    assert len({answer["refresh_token"] for answer in answers}) == 4
    assert len({claims(answer["access_token"])["sid"] for answer in answers}) == 1
    assert len({claims(answer["access_token"])["jti"] for answer in answers}) == 4
    assert claims(answers[-1]["id_token"])["sub"] == "admin"
    stats = browser.sandbox.stats()
    assert (stats["sessions_opened"], stats["violations"]) == (1, 0)


def test_a_refresh_token_used_twice_ends_its_family(browser):
    """Reuse kills the successor too, unless it comes within the time that is allowed for lost answers."""
    browser.sandbox.behave(refresh_reuse_seconds=10)
    first = browser.signed_in()["refresh_token"]
    second = browser.refresh(first).json()["refresh_token"]
    third = browser.refresh(first).json()["refresh_token"]
    assert len({first, second, third}) == 3
    browser.sandbox.advance(11)
    assert error(browser.refresh(first)) == "invalid_grant"
    assert error(browser.refresh(second)) == error(browser.refresh(third)) == "invalid_grant"


def test_an_answer_can_be_lost_after_the_token_rotated(browser):
    """A reset with `pass` comes when the work is done: the token that was sent is used up."""
    first = browser.signed_in()["refresh_token"]
    browser.sandbox.fail({"where": "token", "pass": True, "reset": True})
    with pytest.raises(httpx2.TransportError):
        browser.refresh(first)
    assert error(browser.refresh(first)) == "invalid_grant"


def test_without_rotation_one_refresh_token_serves(browser):
    """Answers bring no new one then (RFC 6749 section 6)."""
    browser.sandbox.behave(rotate_refresh=False)
    first = browser.signed_in()["refresh_token"]
    answers = [browser.refresh(first).json() for _ in range(2)]
    assert all("refresh_token" not in answer and answer["access_token"] for answer in answers)


def test_refresh_tokens_end(sandbox, browser):
    """A day for public applications and thirty for others, or what the switch says; a new password ends them all."""
    web = Browser(sandbox, WEB)
    public, confidential = browser.signed_in(), web.signed_in()
    sandbox.advance(86_401)
    assert error(browser.refresh(public["refresh_token"])) == "invalid_grant"
    confidential = web.refresh(confidential["refresh_token"]).json()
    sandbox.behave(refresh_ttl=5)
    short = browser.signed_in()["refresh_token"]
    sandbox.advance(5)
    assert error(browser.refresh(short)) == "invalid_grant"
    sandbox.set_password("admin", "changed")
    assert error(web.refresh(confidential["refresh_token"])) == "invalid_grant"
    assert browser.submit(browser.authorize(prompt="login"), password="changed").status_code == 303
    web.http.close()


def test_a_refreshed_token_can_be_narrower_and_never_wider(browser):
    """More scopes are refused without using the token up; fewer are granted for this once."""
    first = browser.redeem(browser.code(scope="openid read offline_access")).json()["refresh_token"]
    assert error(browser.refresh(first, scope="read update")) == "invalid_scope"
    narrow = browser.refresh(first, scope="read").json()
    assert narrow["scope"] == "read"
    assert "id_token" not in narrow
    assert browser.refresh(narrow["refresh_token"]).json()["scope"] == "openid read offline_access"


def test_a_refresh_token_is_for_its_own_application(sandbox, browser):
    """Another application cannot use it, and does not harm it by trying."""
    first = browser.signed_in()["refresh_token"]
    web = Browser(sandbox, WEB)
    assert error(web.refresh(first)) == "invalid_grant"
    assert browser.refresh(first).status_code == 200
    web.http.close()


def test_without_offline_access_there_is_no_refresh_token(shared):
    """And without `openid` there is no id token."""
    answer = shared.redeem(shared.code(scope="read")).json()
    assert not {"refresh_token", "id_token"} & set(answer)


def test_a_public_application_is_no_service(shared):
    """It authenticates with nothing, so Client Credentials are refused; a secret of its own is a mistake."""
    assert error(shared.token(grant_type="client_credentials")) == "unauthorized_client"
    assert error(shared.token(grant_type="client_credentials", client_secret="x")) == "invalid_client"


def test_userinfo_tells_about_a_person(sandbox, browser, caller):
    """The claims follow the scopes; services and false tokens are refused as RFC 6750 says."""

    def ask(token: str) -> httpx2.Response:
        return browser.http.get("/id/connect/userinfo", headers={"Authorization": f"Bearer {token}"})

    told = ask(browser.signed_in()["access_token"]).json()
    assert (told["sub"], told["name"], told["email"]) == ("admin", "Administrator", "admin@sandbox.example")
    assert ask(browser.redeem(browser.code(scope="openid")).json()["access_token"]).json() == {"sub": "admin"}
    caller.renew()
    assert ask(caller.token).status_code == 403
    refused = ask("e30.e30.e30")
    assert (refused.status_code, "invalid_token" in refused.headers["www-authenticate"]) == (401, True)


def test_tokens_can_be_revoked(browser):
    """RFC 7009: an access token alone, a refresh token with its family; unknown ones are fine, another's are not."""

    def revoke(token: str, **form: str) -> httpx2.Response:
        own = {"client_id": NATIVE, "token": token, **form}
        return browser.http.post("/id/connect/revocation", data=own)

    answer = browser.signed_in()
    assert (
        error(revoke(answer["refresh_token"], client_id=WEB, client_secret=CLIENT_SECRET)) == "invalid_grant"
    )
    assert revoke(answer["access_token"]).status_code == revoke("unknown").status_code == 200
    assert browser.api(answer["access_token"]) == 401
    successor = browser.refresh(answer["refresh_token"]).json()
    assert revoke(answer["refresh_token"], token_type_hint="refresh_token").status_code == 200
    assert error(browser.refresh(successor["refresh_token"])) == "invalid_grant"
    assert error(browser.http.post("/id/connect/revocation", data={"client_id": NATIVE})) == "invalid_request"


def test_tokens_can_be_introspected(sandbox):
    """RFC 7662: a confidential application learns about its own live tokens, and of others only that."""

    def ask(token: str, **form: str) -> dict[str, Any]:
        own = {"client_id": WEB, "client_secret": CLIENT_SECRET, "token": token, **form}
        return browser.http.post("/id/connect/introspect", data=own).json()

    browser = Browser(sandbox, WEB)
    answer = browser.signed_in()
    told = ask(answer["access_token"])
    assert (told["active"], told["client_id"], told["sub"]) == (True, WEB, "admin")
    assert set(told["scope"].split()) == set(SCOPE.split())
    assert ask(answer["refresh_token"])["active"] is True
    assert ask(answer["access_token"], client_id=CLIENT_ID) == {"active": False}
    browser.refresh(answer["refresh_token"])
    assert ask(answer["refresh_token"]) == ask("unknown") == {"active": False}
    assert ask("x", client_id=NATIVE, client_secret="")["error"] == "invalid_client"
    browser.http.close()


@pytest.mark.parametrize("by_hint", [True, False])
def test_signing_out_ends_the_session_of_a_person(browser, by_hint):
    """Cookie, licence slot and refresh token go; the access token lives, and using it again is a violation."""
    answer = browser.signed_in()
    browser.api(answer["access_token"])
    given = {
        "id_token_hint": answer["id_token"],
        "post_logout_redirect_uri": "http://127.0.0.1/",
        "state": "z",
    }
    response = browser.http.get("/id/connect/endsession", params=given if by_hint else {})
    if by_hint:
        assert response.headers["location"] == "http://127.0.0.1/?state=z"
    assert browser.sandbox.stats()["sessions_open"] == 0
    assert browser.authorize().status_code == 200
    assert error(browser.refresh(answer["refresh_token"])) == "invalid_grant"
    assert browser.sandbox.stats()["violations"] == 0
    assert browser.api(answer["access_token"]) == 200
    assert browser.sandbox.stats()["violations_by_kind"] == {"session_cycled": 1}


def test_nobody_is_sent_just_anywhere_after_signing_out(browser):
    """A page is shown where the address is none of the application's."""
    hint = browser.signed_in()["id_token"]
    given = {"id_token_hint": hint, "post_logout_redirect_uri": "https://evil.example/"}
    response = browser.http.get("/id/connect/endsession", params=given)
    assert (response.status_code, "Signed out" in response.text) == (200, True)


def test_a_persons_session_slides_and_has_no_end_of_its_own(browser):
    """It outlives the hour after which a service's session ends, as long as it is used."""
    answer = browser.signed_in()
    for _ in range(8):
        assert browser.api(answer["access_token"]) == 200
        browser.sandbox.advance(19 * 60)
        answer = browser.refresh(answer["refresh_token"]).json()
    assert browser.sandbox.stats()["sessions_opened"] == 1
    browser.sandbox.advance(60)
    assert browser.sandbox.stats()["sessions_open"] == 0


def test_people_and_services_use_one_instance_with_sessions_of_their_own(browser, caller):
    """Each person and each service has a slot, and none disturbs another."""
    person = browser.signed_in()["access_token"]
    for _ in range(2):
        assert (browser.api(person), caller.get("GetVersion").status_code) == (200, 200)
    assert {session["user"] for session in browser.sandbox.sessions()} == {"admin", "SYSTEM_APPLICATION_USER"}
    assert browser.sandbox.stats()["violations"] == 0


def test_a_person_may_have_a_reference_token(sandbox, browser):
    """It works until its days are over, by either header."""
    token = sandbox.reference_token(NATIVE, "clerk", days=2)
    assert browser.api(token) == 200
    assert [session["user"] for session in sandbox.sessions()] == ["clerk"]
    sandbox.advance(2 * 86_400)
    assert browser.http.get("/api/domain/odata/GetVersion", headers={"X-Api-Key": token}).status_code == 401
    with pytest.raises(KeyError):
        sandbox.reference_token(NATIVE, "nobody")


@pytest.mark.parametrize("path", [".well-known/openid-configuration", "connect/userinfo"])
def test_pages_of_applications_may_read_answers(shared, path):
    """CORS is for the origins of registered redirect URIs, preflights included."""
    allowed = {}
    for origin in ("http://127.0.0.1", "http://127.0.0.1:7", "https://evil.example"):
        asked = {"Origin": origin, "Access-Control-Request-Method": "GET"}
        asked["Access-Control-Request-Headers"] = "authorization"
        preflight = shared.http.options(f"/id/{path}", headers=asked)
        real = shared.http.get(f"/id/{path}", headers={"Origin": origin})
        allowed[origin] = [
            answer.headers.get("access-control-allow-origin") == origin for answer in (preflight, real)
        ]
    assert list(allowed.values()) == [[True, True], [True, True], [False, False]]


def test_the_request_can_be_posted(shared):
    """An application may send its request as a form (OpenID Connect Core section 3.1.2.1)."""
    page = shared.http.post("/id/connect/authorize", data=shared.parameters())
    assert dict(parse_qs(urlsplit(Form(page.text).action).query))["state"] == ["s&t=1"]
    assert urlencode({"nonce": "n0"}) in Form(page.text).action
