"""Fixtures that the tests of several rooms share."""

from tests.servers.openid_provider import openid_provider

__all__ = ["openid_provider"]
