"""The token source for Client Credentials (RFC 6749 section 4.4)."""

from erpsync.identity.client import TokenClient
from erpsync.identity.source import Fetched, SourceFacts


class ClientCredentialsSource:
    """Fetches one token at a time for one identity; keeps no token. A `TokenSource`."""

    def __init__(self, client: TokenClient) -> None:
        self._client = client

    async def fetch(self, *, anew: bool = False) -> Fetched:
        """A token from the server.

        Raises:
            DiscoveryError, TokenEndpointError, SecretUnavailableError: as `TokenClient.request`.
        """
        scope = " ".join(self._client.identity.scope)
        return await self._client.request("client_credentials", **({"scope": scope} if scope else {}))

    async def changed(self) -> bool:
        """Whether the secrets read now differ from those read last."""
        return await self._client.changed()

    def withdrawn(self) -> bool:
        """Only the API can take a service's token back."""
        return False

    def facts(self) -> SourceFacts:
        """What it has seen."""
        return self._client.facts()
