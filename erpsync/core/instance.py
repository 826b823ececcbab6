"""Instances and identities as values."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
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


GrantKind = Literal["client_credentials", "reference_token", "authorization_code"]
AuthMethod = Literal["client_secret_post", "client_secret_basic", "private_key_jwt", "none"]
TokenScheme = Literal["bearer", "x-api-key"]


@dataclass(frozen=True, slots=True)
class Identity:
    """A named way of being someone at an instance; `name` is "night@acme" where a template was fanned out.

    A service asks for tokens by "client_credentials", a person signs in once ("authorization_code"), a
    "reference_token" (ERP.net's PAT and SAT) was made by hand and is sent as it is: then `token` says where it is,
    `token_scheme` how it is sent and `token_expires` (aware UTC) until when it was issued. No token of more than
    `largest_token` characters is taken: servers refuse such headers. `private_key` (PEM) and `key_id` belong to
    "private_key_jwt"; `redirect_uri` is where a person's browser comes back to on this machine, if
    the server wants one exact address.
    """

    name: str
    instance: str
    client_id: str = ""
    client_secret: tuple[SecretReference, ...] = ()
    grant: GrantKind = "client_credentials"
    scope: tuple[str, ...] = ()
    auth_method: AuthMethod = "client_secret_post"
    basic_encoding: Literal["rfc6749", "raw"] = "rfc6749"
    private_key: SecretReference | None = None
    key_id: str | None = None
    audience: str | None = None
    resource: tuple[str, ...] = ()
    extra: Mapping[str, str] = field(default_factory=dict)
    token: SecretReference | None = None
    token_scheme: TokenScheme = "bearer"  # noqa: S105 - no password
    token_expires: datetime | None = None
    largest_token: int = 16 * 1024
    redirect_uri: str | None = None

    @property
    def secrets(self) -> tuple[SecretReference, ...]:
        """Where the secrets are with which it shows who it is; of several one is enough."""
        single = self.token if self.grant == "reference_token" else self.private_key
        return self.client_secret or ((single,) if single else ())
