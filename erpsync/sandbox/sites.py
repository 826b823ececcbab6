"""All that is answered over HTTP: root tools, the two sites, and the side door `/_sandbox/*`."""

from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Route

from erpsync.sandbox.applications import secret_hash
from erpsync.sandbox.domain_api import DomainApi
from erpsync.sandbox.faults import Fault
from erpsync.sandbox.identity import private_key
from erpsync.sandbox.identity_site import IdentitySite, json_response
from erpsync.sandbox.instance import Instance
from erpsync.sandbox.model import SETS, VERSION

Handler = Callable[[Request], Awaitable[Response]]
_ALL: Final = ["GET", "POST", "PATCH", "DELETE"]


def application(instance: Instance) -> Starlette:
    """The ASGI application of an instance, without its faults."""
    tools, side = _Tools(instance), _SideDoor(instance)
    api = DomainApi(instance)
    return Starlette(
        routes=[
            Route("/", tools.landing),
            *(Route(f"/{place}/auto-discovery", tools.auto_discovery) for place in ("sys", "tools")),
            *(Route(f"/{place}/sha256", tools.sha256) for place in ("sys/tools", "tools")),
            Route("/tools/ver", tools.version),
            Route("/tools/server-info", tools.server_info),
            *IdentitySite(instance).routes(),
            Route("/api/domain/odata", api.handle),
            Route("/api/domain/odata/{path:path}", api.handle, methods=_ALL),
            Route("/_sandbox/stats", side.stats),
            Route("/_sandbox/sessions", side.sessions),
            Route("/_sandbox/private-key", side.private_key),
            Route("/_sandbox/faults", side.faults, methods=["GET", "POST", "DELETE"]),
            *(Route(f"/_sandbox/{name}", side.post, methods=["POST"]) for name in side.actions),
        ]
    )


class _Tools:
    """The anonymous tools of the instance root."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance

    async def landing(self, _request: Request) -> Response:
        return HTMLResponse(f"<!doctype html><title>SANDBOX</title><h1>SANDBOX</h1><p>Version {VERSION}</p>")

    async def auto_discovery(self, _request: Request) -> Response:
        url, status = self._instance.url, self._instance.behaviour.api_status
        api = {"Url": f"{url}/api", "AdditionalProperties": {"ODataServiceRoot": self._instance.service_root}}
        sites = [_site("ID", "Working") | {"Url": f"{url}/id", "System": True}]
        if status != "absent":
            sites.append(_site("DomainAPI", status) | api)
        return json_response({"Host": url.partition("//")[2], "DbName": "SANDBOX", "WebSites": sites})

    async def sha256(self, request: Request) -> Response:
        return json_response({"sha256": secret_hash(request.query_params.get("secret", ""))})

    async def version(self, _request: Request) -> Response:
        return PlainTextResponse(VERSION)

    async def server_info(self, _request: Request) -> Response:
        return json_response(
            {"version": VERSION, "downloads": {}, "internalApi": {"useHttpCompression": False}}
        )


def _site(kind: str, status: str) -> dict[str, object]:
    return {"Type": kind, "Status": status, "StatusDescription": "", "System": False}


class _SideDoor:
    """What tests and demonstrations use to look inside and to make things happen; no part of ERP.net."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        self.actions: dict[str, Callable[[Any], object]] = {
            "apps": self._register,
            "touch": self._touch,
            "revoke": lambda _: instance.identity.tokens.revoke_all(),
            "restart": lambda _: instance.restart(),
            "occupy": lambda body: instance.sessions.occupy(body["slots"]),
            "secret": lambda body: instance.identity.applications.set_secret(
                body["client_id"], body["secret"]
            ),
            "password": lambda body: instance.identity.set_password(body["login"], body["password"]),
            "clock": self._clock,
            "behaviour": self._behave,
        }

    async def stats(self, _request: Request) -> Response:
        return json_response(self._instance.stats())

    async def sessions(self, _request: Request) -> Response:
        with self._instance.lock:
            return json_response(self._instance.sessions.listing())

    async def private_key(self, _request: Request) -> Response:
        return PlainTextResponse(private_key())

    async def faults(self, request: Request) -> Response:
        faults, body = self._instance.faults, await request.body()
        with self._instance.lock:
            if request.method == "DELETE":
                faults.clear()
            if request.method == "POST":
                try:
                    armed = msgspec.json.decode(body, type=list[Fault] | Fault)
                except (msgspec.ValidationError, msgspec.DecodeError) as error:
                    return json_response({"error": str(error)}, 400)
                for fault in armed if isinstance(armed, list) else [armed]:
                    faults.arm(fault)
            return json_response(faults.listing())

    async def post(self, request: Request) -> Response:
        """One of `actions`; answers what it returns."""
        body = await request.body()
        name = request.url.path.rpartition("/")[2]
        try:
            with self._instance.lock:
                return json_response(self.actions[name](msgspec.json.decode(body or b"{}")))
        except (KeyError, TypeError, ValueError) as error:  # a body that the action cannot use
            return json_response({"error": f"{type(error).__name__}: {error}"}, 400)

    def _register(self, body: dict[str, Any]) -> object:
        identity = self._instance.identity
        wants_token = body.pop("reference_token", False)
        identity.applications.register(**body)
        token = identity.reference_token(body["client_id"]) if wants_token else None
        return {"client_id": body["client_id"], "reference_token": token}

    def _touch(self, body: dict[str, Any]) -> object:
        return touch(self._instance, body["set"], body.get("count", 1))

    def _clock(self, body: dict[str, float]) -> object:
        clock = self._instance.clock
        clock.advance(body.get("advance", 0))
        clock.rescale(body.get("scale", clock.scale))
        clock.skew = body.get("skew", clock.skew)
        return {"scale": clock.scale, "skew": clock.skew, "elapsed": clock.elapsed()}

    def _behave(self, body: dict[str, Any]) -> object:
        self._instance.behaviour = self._instance.behaviour.changed(body)
        return self._instance.behaviour


def touch(instance: Instance, set_name: str, count: int) -> list[str]:
    """Saves the first `count` rows of a set as if somebody had changed them. Returns their ids."""
    sql = f'SELECT id FROM "{SETS[set_name].name}" ORDER BY sort LIMIT ?'  # noqa: S608 - a name of the model
    with instance.lock:
        ids = [row[0] for row in instance.database.query(sql, (count,))]
        for row_id in ids:
            instance.writer.touch(SETS[set_name], row_id)
        return ids
