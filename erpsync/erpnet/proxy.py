"""Connections by way of a proxy: what goes wrong there is said of the proxy, by its address without credentials."""

import ssl

import httpx2


def direct_or_proxied(
    proxy: str | None, trust: ssl.SSLContext, limits: httpx2.Limits
) -> httpx2.AsyncHTTPTransport:
    """Connections to anywhere, through `proxy` where there is one; the environment has no say."""
    if proxy is None:
        return httpx2.AsyncHTTPTransport(verify=trust, trust_env=False, limits=limits)
    return _ProxiedTransport(proxy, trust, limits)


class _ProxiedTransport(httpx2.AsyncHTTPTransport):
    def __init__(self, proxy: str, trust: ssl.SSLContext, limits: httpx2.Limits) -> None:
        super().__init__(verify=trust, trust_env=False, proxy=proxy, limits=limits)
        url = httpx2.URL(proxy)
        self._shown = f"{url.scheme}://{url.netloc.decode('ascii', 'replace').rpartition('@')[2]}"

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        try:
            return await super().handle_async_request(request)
        except httpx2.ProxyError as error:  # its words begin with the proxy's status
            raise httpx2.ProxyError(f"{error} (proxy {self._shown})", request=request) from error
        except httpx2.ConnectError as error:
            if _is_tls(error):
                raise  # as far as the server itself
            raise httpx2.ConnectError(f"{error} (proxy {self._shown})", request=request) from error
        except httpx2.ConnectTimeout as error:
            words = f"{error} (proxy {self._shown})".strip()
            raise httpx2.ConnectTimeout(words, request=request) from error


def _is_tls(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, ssl.SSLError):
            return True
        error = error.__cause__ or error.__context__
    return False
