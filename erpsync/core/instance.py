"""Instances and identities as values."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Literal

from erpsync.core.secret import SecretReference


@dataclass(frozen=True, slots=True)
class Instance:
    """One ERP.net database (`kind` "erpnet", sites discovered from `url`), or another server (`kind` "oidc").

    `api` holds the only origins that ever get a token of an "oidc" instance. `rate` is requests per second.
    """

    name: str
    kind: Literal["erpnet", "oidc"]
    url: str | None = None
    issuer: str | None = None
    api: tuple[str, ...] = ()
    tags: frozenset[str] = frozenset()
    timezone: str | None = None
    license_slots: int = 1
    max_runs: int | None = None
    access: Literal["full", "read"] = "full"
    ca_file: Path | None = None
    proxy: str | None = None
    connect_timeout: timedelta = timedelta(seconds=10)
    read_timeout: timedelta = timedelta(seconds=120)
    rate: float | None = None
    vars: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Identity:
    """A named way of being someone at an instance; `name` is "night@acme" where a template was fanned out."""

    name: str
    instance: str
    client_id: str
    client_secret: tuple[SecretReference, ...]
    grant: Literal["client_credentials"] = "client_credentials"
    scope: tuple[str, ...] = ()
    auth_method: Literal["client_secret_post", "client_secret_basic"] = "client_secret_post"
    basic_encoding: Literal["rfc6749", "raw"] = "rfc6749"
    audience: str | None = None
    resource: tuple[str, ...] = ()
    extra: Mapping[str, str] = field(default_factory=dict)
