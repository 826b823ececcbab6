"""Hosts of foreign addresses."""

import pytest

from erpsync.core.address import host_of, is_loopback


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://acme.my.erp.net/id", "acme.my.erp.net"),
        ("/elsewhere", ""),
        ("", ""),
        ("http://[", ""),
        ("//[x", ""),
        ("http://a]b", ""),
        ("http://a\u2100b/", ""),
    ],
)
def test_whatever_a_server_sends_has_a_host_or_none(url: str, host: str) -> None:
    """No address makes a fault."""
    assert host_of(url) == host


@pytest.mark.parametrize(
    ("host", "is_ours"),
    [
        ("localhost", True),
        ("127.8.9.10", True),
        ("::1", True),
        ("acme.localhost", False),
        ("10.0.0.1", False),
        ("", False),
    ],
)
def test_only_what_nobody_else_can_answer_is_loopback(host: str, is_ours: bool) -> None:
    """`check` and the identity's client ask the same question, so what one lets pass the other uses."""
    assert is_loopback(host) is is_ours
