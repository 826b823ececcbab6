"""Judging an answer of the Domain API: which error it is, and whether the same request may succeed later.

The status alone says little: ERP.net answers 500 to a broken business rule (error-handling.md), so a 5xx is a fault
of the server only where it carries no ERP error object. The field `info` (a stack trace) is never shown.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import unquote_plus

import httpx2

from erpsync.core.address import host_of
from erpsync.core.errors import (
    BusinessRuleError,
    ErpNetError,
    ForbiddenError,
    InvalidQueryError,
    LicenseExhaustedError,
    NotFoundError,
    RejectedError,
    ServerFaultError,
    ThrottledError,
    UnauthorizedError,
    UnreachableError,
)
from erpsync.core.redaction import LONGEST_FOREIGN
from erpsync.core.retry_after import retry_after
from erpsync.erpnet.json import decode

SAFE_METHODS = frozenset({"GET", "HEAD"})
GRANTED = "erpsync-granted-scope"
"""A header of our own on answers that a scope is missing: what the token was granted."""
NEVER_SENT = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout, httpx2.ProxyError)
"""Errors of requests that no server has seen."""
_LICENSE_MARK = "maximumlicensecountexceeded"
_ESCAPED = re.compile(r"\\u([0-9a-fA-F]{4})")
_ERROR_KEYS = frozenset({"error", "message", "type", "code", "title", "detail", "error_description"})
_QUERY_TYPES = ("NotSupportedException", "ODataException", "ArgumentException")
E = TypeVar("E", bound=ErpNetError)
_RULE = re.compile(r"\bR\d{3,}\b")
_SET_NAME = re.compile(r"\b[A-Z][A-Za-z]*(?:_[A-Z][A-Za-z]*)+\b")
_SCOPE = re.compile(r'scope="([\x20-\x7e]{1,200}?)"')
_LOST_TRANSACTION = "Invalid TransactionId"
_AUTH_HINT = (
    "the token is not for this server: check the instance's url, and proxies that ask people to sign in"
)
_BROKEN_HINT = "look at what the server, or a proxy before it, answers to this request"
_UNKNOWN_HINT = "the write may have been carried out: look before it is tried again"


@dataclass(frozen=True, slots=True)
class _ErpError:
    message: str
    code: int | None
    type: str


def says_no_license(status: int, headers: Mapping[str, str], body: bytes) -> bool:
    """Whether the answer says, in whatever shape and status, that no licence slot is free.

    Data of a success may well speak of it: there only an error object or what is no data at all says so.
    """
    if status >= 300:
        told = (headers.get("www-authenticate", ""), headers.get("location", ""))
        return _names_license(unquote_plus(" ".join(told))) or _names_license(body.decode(errors="replace"))
    lowered = body.lower()
    if b"exceeded" not in lowered and b"\\u00" not in lowered:  # of nearly every answer that is all
        return False
    try:
        return _is_license_error(decode(body))
    except ValueError:
        return _names_license(body.decode(errors="replace"))


def _names_license(text: str) -> bool:
    """In any case, with blanks or without, escaped as in JSON or not."""
    plain = _ESCAPED.sub(lambda escape: chr(int(escape[1], 16)), text)
    return _LICENSE_MARK in "".join(plain.split()).lower()


def _is_license_error(answer: object) -> bool:
    """Whether the JSON of a success is an error and no data: rows, an entity, a value that was asked for."""
    if isinstance(answer, list):
        return any(_names_license(each) for each in answer if isinstance(each, str))
    if not isinstance(answer, dict):
        return _names_license(str(answer))
    if "value" in answer or "Id" in answer or any(key.startswith("@odata.") for key in answer):
        return "error" in answer and _names_license(str(answer["error"]))
    return any(_names_license(str(told)) for key, told in answer.items() if key.lower() in _ERROR_KEYS)


def transaction_id(body: bytes) -> str:
    """What BeginTransaction answers: as text, as JSON, or as an OData scalar."""
    try:
        begun = decode(body)
    except ValueError:
        begun = body.decode(errors="replace")
    return str(begun.get("value") if isinstance(begun, dict) else begun).strip()


def refusal(status: int, headers: Mapping[str, str], body: bytes, where: str) -> ErpNetError:
    """The error that an answer stands for; `where` is method and path. One of 200 is no good for what it holds."""
    if says_no_license(status, headers, body):
        return LicenseExhaustedError(
            f"{where}: every licence slot of the instance is taken",
            where=where,
            hint="idle sessions end after 20 minutes; reserve a slot for the system user or plan fewer at once",
        )
    if status == 429:
        return ThrottledError(
            f"{where}: the server asks to slow down (429)", where=where, retry_after=retry_after(headers)
        )
    erp = _erp_error(body)
    if 300 <= status < 400 or (status < 300 and _is_markup(body)):
        return _signed_out(status, headers, where)
    if status < 300 and erp is None:
        return _truncated(where)
    if status in (401, 403) and (challenge := headers.get("www-authenticate", "")).count(
        "insufficient_scope"
    ):
        return _lacks_scope(status, challenge, headers.get(GRANTED, ""), where)
    if status == 401:
        return UnauthorizedError(
            f"{where}: the token is refused (401), a fresh one too",
            where=where,
            status=401,
            hint="check that the Trusted Application is enabled and that the identity belongs to this instance",
        )
    if status == 403:
        return ForbiddenError(
            f"{where}: {erp.message if erp else 'forbidden (403)'}",
            where=where,
            status=403,
            hint="check the rights of the system user and the scope of the identity (writing needs `update`)",
            code=erp.code if erp else None,
            type=erp.type if erp else "",
        )
    return _rejected(status, erp, where) if erp else _bare(status, headers, where)


def _lacks_scope(status: int, challenge: str, granted: str, where: str) -> ForbiddenError:
    """RFC 6750 section 3.1: the token is good, and for something else."""
    needed = _SCOPE.search(challenge)
    of = f" of: {needed[1]}" if needed else ""
    return ForbiddenError(
        f"{where}: the token lacks a scope{of} ({status})" + (f"; granted: {granted}" if granted else ""),
        where=where,
        status=status,
        hint="`erpsync identities` shows what was granted; add it to `scope` and to the Trusted Application's Scope",
    )


def unreachable(error: Exception, where: str) -> UnreachableError:
    """No answer, or half of one. After a write that may have been carried out it is not retryable."""
    told = UnreachableError(
        f"{where}: {str(error) or type(error).__name__}",
        where=where,
        hint="check that the server is up and the address right; its certificate may need `ca_file`",
    )
    return told if isinstance(error, NEVER_SENT) else _uncertain(told, where)


def is_sign_in_page(headers: Mapping[str, str], body: bytes) -> bool:
    """Whether HTML came where data should have."""
    return "html" in headers.get("content-type", "") and _is_markup(body)


def _is_markup(body: bytes) -> bool:
    return body.lstrip()[:1] == b"<"


def _truncated(where: str) -> UnreachableError:
    """An answer of 200 whose body is not whole: the server streams, so it can break in the middle."""
    error = UnreachableError(
        f"{where}: the answer is cut short or is not JSON", where=where, hint=_BROKEN_HINT
    )
    return _uncertain(error, where)


def _erp_error(body: bytes) -> _ErpError | None:
    """ERP.net's error object, wrapped in `error` or bare: its documentation shows both."""
    try:
        fields = decode(body)
    except ValueError:
        return None
    if isinstance(fields, dict) and isinstance(fields.get("error"), dict):
        fields = fields["error"]
    if not isinstance(fields, dict) or not isinstance(fields.get("message"), str):
        return None
    code, kind = fields.get("code"), fields.get("type")
    message = fields["message"].strip()[:LONGEST_FOREIGN]
    return _ErpError(message, code if isinstance(code, int) else None, kind if isinstance(kind, str) else "")


def _rejected(status: int, erp: _ErpError, where: str) -> RejectedError:
    kind, hint = _kind(status, erp, where)
    error = kind(
        f"{where}: {erp.message}", where=where, hint=hint, status=status, code=erp.code, type=erp.type
    )
    if _LOST_TRANSACTION in erp.message:
        error.retryable = True  # the unit of work as a whole, in a new transaction
    return error


def _kind(status: int, erp: _ErpError, where: str) -> tuple[type[RejectedError], str]:
    """The class of a refusal and its hint."""
    if "GetRenamedEntityTypes" in erp.message:
        names = [name for name in _SET_NAME.findall(erp.message) if name not in where]
        return NotFoundError, f"it is called {names[0]} now" if names else "the set was renamed"
    if _LOST_TRANSACTION in erp.message:
        return (
            RejectedError,
            "an API transaction lives 25 minutes at most and not over a restart of the server",
        )
    if erp.code == 2129:
        return BusinessRuleError, "such a row is there already"
    rule = _RULE.search(erp.message)
    if rule or erp.code == 2029:
        return BusinessRuleError, f"business rule {rule[0]}" if rule else "a business rule of the instance"
    if status == 404:
        return NotFoundError, ""
    if status == 400 or erp.type.endswith(_QUERY_TYPES):
        return InvalidQueryError, "ERP.net supports a part of OData: see its page on query options"
    return BusinessRuleError, ""


def _bare(status: int, headers: Mapping[str, str], where: str) -> ErpNetError:
    """A refusal without an ERP error object."""
    if status in (408, 425):
        return UnreachableError(f"{where}: the server gave up waiting ({status})", where=where)
    if status >= 500:
        fault = ServerFaultError(
            f"{where}: the server fails ({status})", where=where, retry_after=retry_after(headers)
        )
        return fault if status == 503 else _uncertain(fault, where)
    if status == 404:
        return NotFoundError(f"{where}: not found (404)", where=where, status=404)
    return RejectedError(f"{where}: refused ({status})", where=where, status=status)


def _signed_out(status: int, headers: Mapping[str, str], where: str) -> UnauthorizedError:
    target = host_of(headers.get("location", ""))
    what = f"redirects to {target or 'another page'}" if status >= 300 else "answers with an HTML page"
    return UnauthorizedError(
        f"{where}: the server {what} ({status})", where=where, status=status, hint=_AUTH_HINT
    )


def _uncertain(error: E, where: str) -> E:
    """For a write, nobody knows whether it was carried out."""
    if where.partition(" ")[0] not in SAFE_METHODS:
        error.retryable, error.hint = False, _UNKNOWN_HINT
    return error
