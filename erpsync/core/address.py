"""What a foreign address says, whatever it looks like."""

from urllib.parse import urlsplit


def host_of(url: str) -> str:
    """The host of a URL; empty where there is none, or where it is no URL."""
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""
