"""Which error an answer is."""

import json
from datetime import timedelta

import httpx2
import pytest

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
from erpsync.erpnet.answer import refusal, says_no_license, unreachable

READ, WRITE = "GET Crm_Customers", "POST Crm_Sales_Customers"


def erp(message: str = "No.", code: int = 0, kind: str = "X", wrapped: bool = True) -> bytes:
    error = {"message": message, "code": code, "type": kind, "info": "at Aloe.Secret.Stack.Trace()"}
    return json.dumps({"error": error} if wrapped else error).encode()


RENAMED = (
    "The entity set name 'Crm_Customers' is no longer supported. Use 'Crm_Sales_Customers' instead. "
    "For all renames see https://x/GetRenamedEntityTypes"
)
LICENSE = "MaximumLicenseCountExceeded: all licenses are in use."
CASES = [
    # case, status, body, where, class, retryable, in the message, in the hint
    ("license-500", 500, erp(LICENSE), READ, LicenseExhaustedError, True, "slot", "20 minutes"),
    ("license-401", 401, erp(LICENSE), READ, LicenseExhaustedError, True, "slot", ""),
    ("license-403-text", 403, LICENSE.encode(), READ, LicenseExhaustedError, True, "slot", ""),
    ("license-503-html", 503, f"<p>{LICENSE}</p>".encode(), READ, LicenseExhaustedError, True, "", ""),
    (
        "license-200",
        200,
        erp("x", kind="MaximumLicenseCountExceeded"),
        READ,
        LicenseExhaustedError,
        True,
        "",
        "",
    ),
    ("429", 429, b"", WRITE, ThrottledError, True, "429", ""),
    ("401", 401, b"", READ, UnauthorizedError, False, "401", "Trusted Application"),
    ("403", 403, erp("Scope missing."), WRITE, ForbiddenError, False, "Scope missing.", "`update`"),
    ("403-bare", 403, b"", READ, ForbiddenError, False, "403", "scope"),
    ("redirect", 302, b"", READ, UnauthorizedError, False, "login.example", "sign in"),
    ("html-200", 200, b"<!doctype html>", READ, UnauthorizedError, False, "HTML", "url"),
    ("business-500", 500, erp("Broken.", 2029), READ, BusinessRuleError, False, "Broken.", "business rule"),
    ("rule", 500, erp("(Constraint R27159)", 2029), WRITE, BusinessRuleError, False, "", "R27159"),
    ("duplicate", 500, erp("Prohibited duplication", 2129), WRITE, BusinessRuleError, False, "", "already"),
    ("bare-object", 500, erp("Broken.", wrapped=False), READ, BusinessRuleError, False, "Broken.", ""),
    ("message-only", 500, b'{"error": {"message": "Nein."}}', READ, BusinessRuleError, False, "Nein.", ""),
    ("renamed-404", 404, erp(RENAMED), READ, NotFoundError, False, "", "Crm_Sales_Customers now"),
    ("renamed-500", 500, erp(RENAMED, kind="NotSupportedException"), READ, NotFoundError, False, "", "now"),
    ("404", 404, erp("Not found."), READ, NotFoundError, False, "Not found.", ""),
    ("404-bare", 404, b"<html>", READ, NotFoundError, False, "404", ""),
    ("400", 400, erp("Bad property."), READ, InvalidQueryError, False, "Bad property.", "OData"),
    ("operator", 500, erp("or?", kind="NotSupportedException"), READ, InvalidQueryError, False, "or?", ""),
    ("transaction", 500, erp("Invalid TransactionId abc"), WRITE, RejectedError, True, "abc", "25 minutes"),
    ("500-read", 500, b"", READ, ServerFaultError, True, "500", ""),
    ("500-html", 500, b"<html>", READ, ServerFaultError, True, "500", ""),
    ("502-write", 502, b"", WRITE, ServerFaultError, False, "502", "look before"),
    ("503-write", 503, b"", WRITE, ServerFaultError, True, "503", ""),
    ("504-json", 504, b'{"x": 1}', READ, ServerFaultError, True, "504", ""),
    ("408", 408, b"", READ, UnreachableError, True, "408", ""),
    ("418", 418, b"", READ, RejectedError, False, "418", ""),
]


@pytest.mark.parametrize(
    ("status", "body", "where", "kind", "retryable", "message", "hint"),
    [pytest.param(*case[1:], id=case[0]) for case in CASES],
)
def test_answers_are_classified(
    status: int, body: bytes, where: str, kind: type[ErpNetError], retryable: bool, message: str, hint: str
) -> None:
    """The error object decides, not the status; the error says where, whether to wait, and what to do."""
    headers = {"location": "https://login.example/x?code=s3cret"} if status == 302 else {}
    error = refusal(status, headers, body, where)
    assert type(error) is kind
    assert error.retryable is retryable
    assert message in str(error)
    assert hint in error.hint
    assert error.where == where
    assert "Stack" not in str(error)
    assert "s3cret" not in str(error)


DATA = [
    {"@odata.context": "$metadata#X/$entity", "Message": LICENSE, "Id": "1"},
    {"Id": "1", "Message": LICENSE},
    {"Notes": LICENSE},
    {"value": LICENSE},
    {"value": [{"error": LICENSE}], "error": {"message": "broken off"}},
    [{"Message": LICENSE}],
]


@pytest.mark.parametrize("data", DATA, ids=json.dumps)
def test_data_may_speak_of_licences(data: object) -> None:
    """What somebody wrote into a row, or a value that was asked for, is no refusal."""
    assert not says_no_license(200, {}, json.dumps(data).encode())


def test_an_error_may_come_after_rows() -> None:
    """A server that had begun with 200 says behind the rows that it cannot go on."""
    assert says_no_license(200, {}, json.dumps({"value": [{}], "error": {"message": LICENSE}}).encode())


def test_erp_fields_are_kept() -> None:
    """Status, code and type of ERP.net are on the error."""
    error = refusal(500, {}, erp("No.", 2129, "Aloe.Exception"), WRITE)
    assert isinstance(error, RejectedError)
    assert (error.status, error.code, error.type) == (500, 2129, "Aloe.Exception")


def test_retry_after_is_kept() -> None:
    """The server's wait is on the error, as seconds or as a date against the answer's own."""
    error = refusal(429, {"retry-after": "7"}, b"", READ)
    assert isinstance(error, ThrottledError)
    assert error.retry_after == timedelta(seconds=7)
    dates = {"retry-after": "Thu, 01 Jan 2026 00:00:30 GMT", "date": "Thu, 01 Jan 2026 00:00:00 GMT"}
    fault = refusal(503, dates, b"", READ)
    assert isinstance(fault, ServerFaultError)
    assert fault.retry_after == timedelta(seconds=30)


@pytest.mark.parametrize(
    ("error", "where", "retryable"),
    [
        (httpx2.ConnectError("refused"), WRITE, True),
        (httpx2.ReadTimeout("slow"), READ, True),
        (httpx2.ReadTimeout("slow"), WRITE, False),
        (httpx2.RemoteProtocolError("peer closed"), WRITE, False),
    ],
)
def test_unknown_fate_of_a_write_is_not_retryable(error: Exception, where: str, retryable: bool) -> None:
    """A write that may have arrived is not repeated by itself; one that never left is."""
    assert unreachable(error, where).retryable is retryable
