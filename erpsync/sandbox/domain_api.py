"""The Domain API site: who may do which operation, and the answer.

Source: domain-api, and OData 4.0 where that is silent.
"""

import re
from collections.abc import Mapping
from contextlib import nullcontext
from decimal import Decimal
from typing import Any, Final
from urllib.parse import quote, urlencode

import msgspec
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from erpsync.sandbox.errors import ErpError, malformed, not_found
from erpsync.sandbox.filter import Sql
from erpsync.sandbox.instance import Instance
from erpsync.sandbox.metadata import csdl, service_document
from erpsync.sandbox.model import RENAMED, SETS, VERSION, EntitySet
from erpsync.sandbox.query import Query, page_sql, parse_projection, parse_query
from erpsync.sandbox.sessions import LicensesExhaustedError
from erpsync.sandbox.tokens import Token

_JSON: Final = (
    "application/json;odata.metadata=minimal;odata.streaming=true;IEEE754Compatible=false;charset=utf-8"
)
_HEADERS: Final = {"OData-Version": "4.0"}
_RESOURCE: Final = re.compile(r"(?P<set>\w+)(?:\((?P<key>[^)]*)\))?(?:/(?P<rest>.+))?")
_GUID: Final = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_DECODER: Final = msgspec.json.Decoder(float_hook=Decimal)
_READS: Final = ("GET", "HEAD")


class DomainApi:
    """Answers every request below `/api/domain/odata/`."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance

    async def handle(self, request: Request) -> Response:
        """One request, from its credentials to its answer; refusals are answered in the shape of ERP.net."""
        body = await request.body()
        instance = self._instance
        try:
            with instance.lock:
                token = self._token(request)
                if token is None:
                    return self._unauthorized(request)
                self._check_scope(token, "read" if request.method in _READS else "update")
                self._enter_session(token)
                return self._operation(request, token, body)
        except ErpError as error:
            return _json(error.body(wrapped=instance.behaviour.error_wrapper), status=error.status)

    def _token(self, request: Request) -> Token | None:
        """The valid token of the request; two credentials at once are none."""
        scheme, _, bearer = request.headers.get("authorization", "").partition(" ")
        texts = [bearer] if scheme else []
        texts += [request.headers[name] for name in ("x-api-key", "api-key") if name in request.headers]
        if len(texts) > 1:
            self._instance.sessions.violations["mixed_credentials"] += 1
        if len(texts) != 1 or scheme.lower() not in ("", "bearer"):
            return None
        return self._instance.identity.tokens.lookup(texts[0])

    def _unauthorized(self, request: Request) -> Response:
        if self._instance.behaviour.login_redirect and "authorization" not in request.headers:
            return RedirectResponse(f"{self._instance.issuer}/account/login", status_code=302)
        return Response(status_code=401, headers={"WWW-Authenticate": 'Bearer error="invalid_token"'})

    def _check_scope(self, token: Token, scope: str) -> None:
        if scope not in token.scopes:
            raise ErpError(
                f"The scope '{scope}' is required.", status=403, kind="UnauthorizedAccessException"
            )

    def _enter_session(self, token: Token) -> None:
        instance, behaviour = self._instance, self._instance.behaviour
        person = token.sign_in is not None
        key = token.token_id if behaviour.session_key == "token" else f"{token.client_id} {token.user}"
        if token.sign_in is not None:
            key = token.sign_in.sid
        try:
            instance.sessions.use(key, token.client_id, token.user, behaviour.license_slots, person=person)
        except LicensesExhaustedError as error:
            message = "MaximumLicenseCountExceeded: all licenses are in use."
            raise ErpError(message, status=behaviour.license_status) from error
        if not person:
            instance.sessions.watch(token.client_id, token.token_id, behaviour.parallel_token_grace)

    def _operation(self, request: Request, token: Token, body: bytes) -> Response:
        path = request.path_params.get("path", "").removesuffix("()")
        match request.method, path:
            case ("POST", "$batch"):
                raise ErpError(
                    "$batch is not supported by this instance.", status=501, kind="NotSupportedException"
                )
            case ("POST", "BeginTransaction"):
                return Response(self._instance.transactions.begin(), media_type="text/plain")
            case ("POST", "EndTransaction"):
                return self._end_transaction(request, _object(body))
            case (method, _) if method in _READS and path in _DOCUMENTS:
                return self._document(path)
        with self._within_transaction(request):
            if (request.method, path) == ("POST", "Import"):
                return _json(self._instance.writer.import_objects(_object(body)))
            return self._resource(request, token, path, body)

    def _document(self, path: str) -> Response:
        root = self._instance.service_root
        match path:
            case "$metadata":
                return Response(csdl(), media_type="application/xml", headers=_HEADERS)
            case "GetVersion":
                return _json({"@odata.context": f"{root}$metadata#Edm.String", "version": VERSION})
            case "GetRenamedEntityTypes":
                rows = [{"OldName": old, "NewName": new, "Version": at} for old, (new, at) in RENAMED.items()]
                return _json({"@odata.context": f"{root}$metadata", "value": rows})
            case "Reset":
                return _json({"success": True})
            case _:
                return _json(service_document(root))

    def _within_transaction(self, request: Request) -> Any:
        transaction_id = request.headers.get("transactionid") or request.query_params.get("tr")
        if not transaction_id:
            return nullcontext()
        return self._instance.database.overlay(self._instance.transactions.find(transaction_id).images)

    def _end_transaction(self, request: Request, body: Mapping[str, Any]) -> Response:
        transaction_id = request.headers.get("transactionid") or request.query_params.get("tr", "")
        transaction = self._instance.transactions.end(transaction_id)
        if body.get("commit", True):
            now, database = self._instance.now_text(), self._instance.database
            for row in filter(None, transaction.images.values()):
                row["AggregateLastUpdateTimeUtc"] = now
            with database.unit():
                database.apply(transaction.images)
        return Response(status_code=204)

    def _resource(self, request: Request, token: Token, path: str, body: bytes) -> Response:
        match = _RESOURCE.fullmatch(path)
        if match is None:
            raise not_found(f"The resource '{path}'")
        entity_set, rest = self._entity_set(match["set"]), match["rest"]
        if entity_set.scope != "read":
            self._check_scope(token, entity_set.scope)
        options = dict(request.query_params)
        key = None if match["key"] is None else _key(match["key"])
        writer = self._instance.writer
        match request.method, key, rest:
            case ("GET" | "HEAD", None, None):
                return self._collection(entity_set, options)
            case ("GET" | "HEAD", None, "$count"):
                return Response(str(self._count(entity_set, options)), media_type="text/plain")
            case ("GET" | "HEAD", str(row_id), None):
                return self._single(entity_set, row_id, options)
            case ("POST", None, None):
                row_id = writer.post(entity_set, _object(body))
                return self._created(entity_set, row_id) if row_id else Response(status_code=204)
            case ("PATCH", str(row_id), None):
                writer.update(entity_set, row_id, _object(body))
            case ("DELETE", str(row_id), None):
                writer.delete(entity_set, row_id)
            case ("POST", str(row_id), str(action)):
                writer.act(entity_set, row_id, action, _object(body))
            case _:
                raise not_found(f"The operation {request.method} '{path}'")
        return Response(status_code=204, headers=_HEADERS)

    def _entity_set(self, name: str) -> EntitySet:
        if name in RENAMED:
            message = (
                f"The entity set name '{name}' is no longer supported. Use '{RENAMED[name][0]}' instead. "
                f"For all renames see {self._instance.service_root}GetRenamedEntityTypes"
            )
            raise ErpError(
                message, status=self._instance.behaviour.renamed_status, kind="NotSupportedException"
            )
        if name not in SETS:
            raise not_found(f"The resource '{name}'")
        return SETS[name]

    def _parse(self, entity_set: EntitySet, options: Mapping[str, str]) -> Query:
        truncate = self._instance.behaviour.date_time_filter == "truncate"
        return parse_query(entity_set, options, truncate_times=truncate)

    def _collection(self, entity_set: EntitySet, options: dict[str, str]) -> Response:
        """One page. The row after its last tells whether there is another, and is where that begins (paging.md)."""
        query = self._parse(entity_set, options)
        sql = page_sql(entity_set, query)
        rows = self._instance.database.query(sql.text, sql.values)
        root = self._instance.service_root
        head: dict[str, Any] = {"@odata.context": f"{root}$metadata#{entity_set.name}"}
        if query.count:
            head["@odata.count"] = self._count(entity_set, options)
        if query.top and len(rows) > query.top:
            head["@odata.nextLink"] = self._next_link(entity_set, options, query, rows[query.top][1])
        shown = rows if query.top is None else rows[: query.top]
        start = msgspec.json.encode(head)[:-1]
        content = b"".join((start, b',"value":[', b",".join([row[0] for row in shown]), b"]}"))
        return Response(content, media_type=_JSON, headers=_HEADERS)

    def _next_link(self, entity_set: EntitySet, options: dict[str, str], query: Query, next_id: str) -> str:
        kept = {name: value for name, value in options.items() if name not in ("$skip", "$skiptoken")}
        if query.order or entity_set.keyless or entity_set.view:
            kept["$skip"] = str(query.skip + (query.top or 0))
        else:
            kept["$skiptoken"] = next_id
        relative = f"{entity_set.name}?{urlencode(kept, quote_via=quote)}"
        behaviour = self._instance.behaviour
        if behaviour.next_link_origin:
            return f"{behaviour.next_link_origin}/api/domain/odata/{relative}"
        return relative if behaviour.next_links == "relative" else self._instance.service_root + relative

    def _count(self, entity_set: EntitySet, options: Mapping[str, str]) -> int:
        where = self._parse(entity_set, options).where
        condition = f" WHERE {where.text}" if where.text else ""
        sql = f'SELECT count(*) FROM "{entity_set.name}"{condition}'  # noqa: S608 - names come from the model
        return int(self._instance.database.query(sql, where.values)[0][0])

    def _single(
        self, entity_set: EntitySet, row_id: str, options: Mapping[str, str], status: int = 200
    ) -> Response:
        query = Query(parse_projection(entity_set, options), Sql("id = ?", (row_id,)))
        sql = page_sql(entity_set, query)
        rows = [] if entity_set.keyless else self._instance.database.query(sql.text, sql.values)
        if not rows:
            raise not_found(f"The object {entity_set.name}({row_id})")
        context = msgspec.json.encode(f"{self._instance.service_root}$metadata#{entity_set.name}/$entity")
        content = b'{"@odata.context":' + context + b"," + rows[0][0][1:]
        return Response(content, status, media_type=_JSON, headers=_HEADERS)

    def _created(self, entity_set: EntitySet, row_id: str) -> Response:
        response = self._single(entity_set, row_id, {"$select": "Id,default"}, 201)
        response.headers["Location"] = f"{self._instance.service_root}{entity_set.name}({row_id})"
        return response


_DOCUMENTS: Final = ("", "$metadata", "GetVersion", "GetRenamedEntityTypes", "Reset")


def _json(content: object, status: int = 200) -> Response:
    return Response(msgspec.json.encode(content), status, media_type=_JSON, headers=_HEADERS)


def _key(text: str) -> str:
    if not _GUID.fullmatch(text):
        raise malformed(f"Invalid key '{text}'.")
    return text.lower()


def _object(body: bytes) -> dict[str, Any]:
    """The JSON object of a request, decimals exact and keys in their order."""
    if not body:
        return {}
    try:
        value = _DECODER.decode(body)
    except msgspec.DecodeError as error:
        raise malformed("The body is not valid JSON.") from error
    if not isinstance(value, dict):
        raise malformed("A JSON object is expected.")
    return value
