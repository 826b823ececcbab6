"""Identities out of their tables, and which keys belong to which grant."""

from collections.abc import Mapping

from erpsync.config.document import Document
from erpsync.config.instance import instance_variables
from erpsync.config.reading import Where, beneath, expanded, read_section
from erpsync.config.section import IdentitySection
from erpsync.core.instance import AuthMethod, GrantKind, Identity, Instance

_OF_REFERENCE_TOKEN = ("token", "token_header", "token_expires")
_OF_PERSON = ("redirect_uri",)
_OF_ANY_GRANT = ("grant", "instance", "largest_token")
_METHODS: Mapping[str, tuple[AuthMethod, ...]] = {
    "client_secret": ("client_secret_post", "client_secret_basic"),
    "basic_encoding": ("client_secret_basic",),
    "private_key": ("private_key_jwt",),
    "key_id": ("private_key_jwt",),
}
"""Keys that go with some ways of client authentication only."""

_OF_PEOPLE = ("openid", "profile", "offline_access")
_SIGN_IN_SCOPE = ("openid", "offline_access")  # who it is, and a refresh token to stay signed in


def read_identity(document: Document, name: str, instance: Instance) -> Identity | None:
    """The identity `name` at an instance, "night@acme" where it is a template; None after its problems were kept."""
    table, where = document.named("identities")[name], beneath("identities", name)
    table = expanded(document, table, instance_variables(instance) | {"identity": name}, where)
    section = read_section(document, IdentitySection, table, where)
    if section is None:
        return None
    _check_keys(document, section, table, where)
    _check_scope(document, section, instance.kind, where)
    scope = section.scope
    if section.grant == "authorization_code":
        scope = (*scope, *(word for word in _SIGN_IN_SCOPE if word not in scope))
    renamed = {"instance", "client_id", "scope", "auth_method", "token_header"}
    return Identity(
        name=name if section.instance else f"{name}@{instance.name}",
        instance=instance.name,
        client_id=section.client_id or "",
        scope=scope,
        auth_method=_auth_method(section),
        token_scheme=section.token_header,
        **{key: getattr(section, key) for key in section.model_fields_set - renamed},
    )


def judge_unused(document: Document, name: str, instances: Mapping[str, Instance]) -> None:
    """Tell what is wrong with an identity that no job uses."""
    table, where = document.named("identities")[name], beneath("identities", name)
    known = {key: value for key, value in table.items() if "${" not in repr(value)}
    section = read_section(document, IdentitySection, known, where)
    if section is not None:
        _check_keys(document, section, table, where)
        if any(instance.kind == "erpnet" for instance in instances.values()):
            _check_scope(document, section, "erpnet", where)


def _auth_method(section: IdentitySection) -> AuthMethod:
    """The one given; a person's client without a secret is a public one."""
    public = section.grant == "authorization_code" and not section.client_secret
    return section.auth_method or ("none" if public else "client_secret_post")


def _check_keys(
    document: Document, section: IdentitySection, table: Mapping[str, object], where: Where
) -> None:
    """Tell of keys that do not belong to the grant or to the client authentication, and of those that lack."""
    if table.get("grant", section.grant) != section.grant:
        return  # it is wrong, which is told already
    for key in table:
        if key in IdentitySection.model_fields and not _belongs(key, section.grant):
            message = f'{key} has no meaning for the grant "{section.grant}"'
            document.add("E105", message, where((key,)), hint=_hint(key, section.grant))
    needed = "token" if section.grant == "reference_token" else "client_id"
    if needed not in table:
        hint = {"token": 'like token = { secret = "sat" }', "client_id": "that of the Trusted Application"}[
            needed
        ]
        document.add("E106", f"{needed} is missing", where((needed,)), hint=hint)
    if section.grant != "reference_token" and table.get("auth_method") == section.auth_method:
        _check_method(document, _auth_method(section), table, where)


def _check_method(document: Document, method: AuthMethod, table: Mapping[str, object], where: Where) -> None:
    for key, methods in _METHODS.items():
        if key in table and method not in methods:
            message = f'{key} has no meaning for auth_method = "{method}"'
            choices = " or ".join(f'"{one}"' for one in methods)
            document.add("E105", message, where((key,)), hint=f"it goes with auth_method = {choices}")
    for key in ("client_secret", "private_key"):
        if method in _METHODS[key] and key not in table:
            document.add(
                "E106", f"{key} is missing", where((key,)), hint=f'like {key} = {{ secret = "name" }}'
            )


def _belongs(key: str, grant: GrantKind) -> bool:
    if key in _OF_PERSON:
        return grant == "authorization_code"
    return key in _OF_ANY_GRANT or (key in _OF_REFERENCE_TOKEN) == (grant == "reference_token")


def _hint(key: str, grant: GrantKind) -> str:
    if key in _OF_PERSON:
        return 'it goes with grant = "authorization_code"'
    if grant == "reference_token":
        return 'a reference token is sent as it is: token = { secret = "name" } says all'
    return 'it goes with grant = "reference_token"'


def _check_scope(document: Document, section: IdentitySection, kind: str, where: Where) -> None:
    """Tell of scopes that a service cannot have at ERP.net, and of the obsolete one."""
    for index, word in enumerate(section.scope if kind == "erpnet" else ()):
        keys = document.existing(where(("scope", index)))
        if word == "DomainApi":
            document.add("W103", 'the scope "DomainApi" is obsolete', keys, hint='use "read" and "update"')
        elif word in _OF_PEOPLE and section.grant == "client_credentials":
            message = f'the scope "{word}" is for people who sign in; client_credentials has nobody'
            document.add("E120", message, keys, hint="leave it out")
