"""The identity site over HTTP: discovery, sign-in, the token endpoint and those around it."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode, urlsplit

import msgspec
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.types import ASGIApp

from erpsync.sandbox import page
from erpsync.sandbox.applications import OAuthError
from erpsync.sandbox.identity import jwks, openid_configuration
from erpsync.sandbox.instance import Instance
from erpsync.sandbox.sign_in import AuthorizationRequest, ReturnedError, checked, way_back, where_to_return
from erpsync.sandbox.tokens import SignIn, own_claims

COOKIE: Final = "erpsync_sandbox"
_FORM: Final = "application/x-www-form-urlencoded"
_NO_STORE: Final = {"Cache-Control": "no-store"}
_Form = Mapping[str, str]


def json_response(content: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Plain JSON."""
    return Response(msgspec.json.encode(content), status, headers, media_type="application/json")


class IdentitySite:
    """Answers every request below `/id`."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance

    def routes(self) -> list[BaseRoute]:
        """Pages of applications may read what is not meant for people (CORS); the rest is for browsers to show."""
        instance = self._instance

        class Origins(CORSMiddleware):
            def __init__(self, app: ASGIApp) -> None:
                super().__init__(app, allow_methods=["GET", "POST"], allow_headers=["Authorization"])

            def is_allowed_origin(self, origin: str) -> bool:
                return instance.identity.applications.serve(origin)

        both = ["GET", "POST"]
        readable = [
            Route("/.well-known/openid-configuration", self.configuration),
            Route("/.well-known/openid-configuration/jwks", self.keys),
            Route("/connect/token", self._for_clients(self.token), methods=["POST"]),
            Route("/connect/revocation", self._for_clients(self.revocation), methods=["POST"]),
            Route("/connect/introspect", self._for_clients(self.introspect), methods=["POST"]),
            Route("/connect/userinfo", self.userinfo, methods=both),
        ]
        return [
            Route("/id/connect/authorize", self.authorize, methods=both),
            Route("/id/account/login", self.login, methods=["POST"]),
            Route("/id/connect/endsession", self.end_session, methods=both),
            Mount("/id", routes=readable, middleware=[Middleware(Origins)]),
        ]

    async def configuration(self, _request: Request) -> Response:
        return json_response(openid_configuration(self._instance.issuer))

    async def keys(self, _request: Request) -> Response:
        return json_response(jwks())

    def _for_clients(self, answer: Callable[[_Form, str], Any]) -> Callable[[Request], Awaitable[Response]]:
        """An endpoint that clients post a form to; refusals as in RFC 6749 section 5.2."""

        async def handle(request: Request) -> Response:
            body, instance = await request.body(), self._instance
            try:
                if not request.headers.get("content-type", "").lower().startswith(_FORM):
                    raise OAuthError("invalid_request", "A form is expected.")
                with instance.lock:
                    return json_response(answer(_form(body), _authorization(request)), headers=_NO_STORE)
            except OAuthError as error:
                status = 401 if error.error == "invalid_client" and instance.behaviour.strict_401 else 400
                content = {"error": error.error, "error_description": error.description}
                return json_response(content, status, _NO_STORE)

        return handle

    def token(self, form: _Form, authorization: str) -> object:
        instance = self._instance
        return instance.identity.grants.token(form, authorization, instance.issuer, instance.behaviour)

    def revocation(self, form: _Form, authorization: str) -> object:
        client_id = self._client(form, authorization, "revocation")
        self._instance.identity.tokens.revoke(form["token"], client_id)
        return {}

    def introspect(self, form: _Form, authorization: str) -> object:
        client_id = self._client(form, authorization, "introspect")
        if self._instance.identity.applications[client_id].is_public:
            raise OAuthError("invalid_client", "Introspection is for confidential clients.")
        return self._instance.identity.tokens.introspect(form["token"], client_id)

    def _client(self, form: _Form, authorization: str, endpoint: str) -> str:
        issuer, behaviour = self._instance.issuer, self._instance.behaviour
        audiences = (f"{issuer}/connect/{endpoint}", f"{issuer}/connect/token", issuer)
        applications = self._instance.identity.applications
        application = applications.authenticate(form, authorization, behaviour, audiences)
        if "token" not in form:
            raise OAuthError("invalid_request", "The token is missing.")
        return application.client_id

    async def userinfo(self, request: Request) -> Response:
        """Claims about the person behind an access token (OpenID Connect Core section 5.3)."""
        scheme, _, text = _authorization(request).partition(" ")
        with self._instance.lock:
            token = self._instance.identity.tokens.lookup(text) if scheme.lower() == "bearer" else None
        if token is None:
            return _bearer_refusal(401, "invalid_token")
        if token.sign_in is None or "openid" not in token.scopes:
            return _bearer_refusal(403, "insufficient_scope")
        person = token.sign_in.person
        told = person.claims() if "profile" in token.scopes else {}
        return json_response({"sub": person.login, **told}, headers=_NO_STORE)

    async def authorize(self, request: Request) -> Response:
        """Sends whoever is signed in straight back, and shows the form to everybody else."""
        parameters = await _parameters(request)
        return self._answer(parameters, lambda asked: self._at_once(request, parameters, asked))

    async def login(self, request: Request) -> Response:
        """The form came back: the query is the request, the body says who it is."""
        form, parameters = _form(await request.body()), dict(request.query_params)
        origin = request.headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != request.url.netloc:
            return _refusal_page(OAuthError("access_denied", "The form was sent from another site."))
        return self._answer(parameters, lambda asked: self._enter(request, parameters, form, asked))

    def _answer(self, parameters: _Form, go_on: Callable[[AuthorizationRequest], Response]) -> Response:
        """Checks the request first. What is wrong is told to the application where that is safe, else on a page."""
        instance = self._instance
        with instance.lock:
            try:
                application, uri = where_to_return(instance.identity.applications, parameters)
            except OAuthError as error:
                return _refusal_page(error)
            try:
                return go_on(checked(application, uri, parameters))
            except ReturnedError as error:
                answer = {"error": error.error, "error_description": error.description}
                return _see(way_back(uri, instance.issuer, **answer, state=parameters.get("state")))

    def _at_once(self, request: Request, parameters: _Form, asked: AuthorizationRequest) -> Response:
        sign_ins = self._instance.identity.sign_ins
        sign_in = sign_ins.of(request.cookies.get(COOKIE, ""))
        if sign_in is not None and sign_ins.suffices(sign_in, asked):
            return self._go_back(parameters, asked, sign_in)
        if "none" in asked.prompts:
            raise ReturnedError("login_required", "Nobody is signed in.")
        return self._page(parameters, asked, parameters.get("login_hint", ""))

    def _enter(
        self, request: Request, parameters: _Form, form: _Form, asked: AuthorizationRequest
    ) -> Response:
        identity, login = self._instance.identity, form.get("username", "")
        person = identity.people.check(login, form.get("password", ""))
        if person is None:
            return self._page(parameters, asked, login, wrong=True)
        cookie = identity.sign_ins.enter(request.cookies.get(COOKIE, ""), person)
        sign_in = identity.sign_ins.of(cookie)
        assert sign_in is not None
        response = self._go_back(parameters, asked, sign_in)
        response.set_cookie(COOKIE, cookie, path="/id", httponly=True, samesite="lax")
        return response

    def _go_back(self, parameters: _Form, asked: AuthorizationRequest, sign_in: SignIn) -> Response:
        instance = self._instance
        code = instance.identity.sign_ins.issue_code(asked, sign_in, instance.behaviour.code_ttl)
        return _see(way_back(asked.redirect_uri, instance.issuer, code=code, state=parameters.get("state")))

    def _page(
        self, parameters: _Form, asked: AuthorizationRequest, login: str, *, wrong: bool = False
    ) -> Response:
        refusal = {"error": "access_denied", "error_description": "The person cancelled."}
        cancel = way_back(asked.redirect_uri, self._instance.issuer, **refusal, state=parameters.get("state"))
        action, application = f"/id/account/login?{urlencode(parameters)}", asked.application
        name = application.name or application.client_id
        text = page.sign_in(action, cancel, name, asked.scopes, login, wrong=wrong)
        return HTMLResponse(text, 403 if wrong else 200, page.HEADERS)

    async def end_session(self, request: Request) -> Response:
        """Signs a person out. A service has no business here: counted, nothing ends (session-revocation)."""
        parameters, identity = await _parameters(request), self._instance.identity
        hint = own_claims(parameters.get("id_token_hint", ""))
        with self._instance.lock:
            browser = identity.sign_ins.of(request.cookies.get(COOKIE, ""))
            sid = hint.get("sid") or (browser and browser.sid)
            if not sid:
                self._instance.sessions.violations["end_session"] += 1
                return HTMLResponse(page.signed_out("Nobody was signed in here."), headers=page.HEADERS)
            identity.sign_out(sid)
            application = identity.applications.enabled(str(hint.get("aud")))
        uri = parameters.get("post_logout_redirect_uri", "")
        if application is not None and application.leads_out_to(uri):
            state = {"state": parameters["state"]} if "state" in parameters else {}
            response = _see(f"{uri}{'&' if '?' in uri else '?'}{urlencode(state)}" if state else uri)
        else:
            response = HTMLResponse(page.signed_out("You can close this page."), headers=page.HEADERS)
        response.delete_cookie(COOKIE, path="/id")
        return response


def _refusal_page(error: OAuthError) -> Response:
    return HTMLResponse(page.refused(error.error, error.description), 400, page.HEADERS)


def _see(url: str) -> Response:
    """303, so that a browser which posted a password does not post it again."""
    return RedirectResponse(url, 303, _NO_STORE)


def _bearer_refusal(status: int, error: str) -> Response:
    return Response(status_code=status, headers={"WWW-Authenticate": f'Bearer error="{error}"'})


def _authorization(request: Request) -> str:
    return request.headers.get("authorization", "")


def _form(body: bytes) -> dict[str, str]:
    return dict(parse_qsl(body.decode(errors="replace")))


async def _parameters(request: Request) -> dict[str, str]:
    """Those of a GET or of a posted form (OpenID Connect Core section 3.1.2.1)."""
    return dict(request.query_params) if request.method == "GET" else _form(await request.body())
