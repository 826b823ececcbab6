"""Token sources: discovery, Client Credentials, one token manager an identity."""
