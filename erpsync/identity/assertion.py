"""Client authentication by a signed assertion (RFC 7523 section 2.2, `private_key_jwt`), signed by joserfc.

Authlib's own signer repeats the `jti`, so that a server which remembers it refuses the second request.
"""

import secrets
import warnings
from collections.abc import Collection
from datetime import datetime, timedelta

from joserfc import jwt
from joserfc.errors import JoseError, SecurityWarning
from joserfc.jwk import ECKey, OKPKey, RSAKey

from erpsync.core.errors import SecretUnavailableError

_LIFE = timedelta(seconds=60)
_EARLIER = timedelta(seconds=5)  # a server whose clock is a little behind must not see the future
_CURVES = {"P-256": "ES256", "P-384": "ES384", "P-521": "ES512", "secp256k1": "ES256K"}
_RSA = ("RS256", "PS256", "RS512", "PS512", "RS384", "PS384")


def client_assertion(
    client_id: str, pem: str, audience: str, now: datetime, *, key_id: str | None, offered: Collection[str]
) -> str:
    """A JWT by which the holder of the key `pem` says who it is to `audience`; each is used once.

    `now` is the server's time as far as it is known (aware UTC), `offered` the algorithms it lists, if any: they
    only choose between those that the key can do.

    Raises:
        SecretUnavailableError: `pem` is no private key.
    """
    begins = now - _EARLIER
    claims = {
        "iss": client_id,
        "sub": client_id,
        "aud": audience,
        "jti": secrets.token_urlsafe(24),
        "iat": int(begins.timestamp()),
        "exp": int((begins + _LIFE).timestamp()),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SecurityWarning)  # EdDSA has a new name that few servers know
        key = _key(pem)
        algorithm = _algorithm(key, offered)
        header = {"alg": algorithm} | ({"kid": key_id} if key_id else {})
        try:
            return jwt.encode(header, claims, key, algorithms=[algorithm])
        except (JoseError, ValueError) as error:
            raise _unusable() from error


def _key(pem: str) -> RSAKey | ECKey | OKPKey:
    for kind in (RSAKey, ECKey, OKPKey):
        try:
            key = kind.import_key(pem)
        except (JoseError, ValueError, TypeError):
            continue
        if key.is_private:
            return key
    raise _unusable()


def _unusable() -> SecretUnavailableError:
    return SecretUnavailableError(
        "the private key is none that can sign: it must be a PEM file without a passphrase",
        hint="openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:3072 -out night.pem",
    )


def _algorithm(key: RSAKey | ECKey | OKPKey, offered: Collection[str]) -> str:
    if isinstance(key, RSAKey):
        return next((name for name in _RSA if name in offered), "RS256")
    if isinstance(key, ECKey):
        return _CURVES[key.curve_name]
    return "Ed25519" if "Ed25519" in offered else "EdDSA"
