"""Hosts of foreign addresses."""

import pytest

from erpsync.core.address import host_of


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
