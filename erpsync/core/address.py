"""What a foreign address says, whatever it looks like."""

from ipaddress import ip_address
from urllib.parse import urlsplit


def host_of(url: str) -> str:
    """The host of a URL; empty where there is none, or where it is no URL."""
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def is_loopback(host: str) -> bool:
    """Whether it is this machine, whoever resolves it: names like "x.localhost" may lead to another one."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False
