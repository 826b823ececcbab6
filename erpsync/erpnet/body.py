"""Reading an answer into memory, never more of it than fits."""

from collections.abc import AsyncIterator

import httpx2

LITTLE = 16 << 10
"""Bytes of an answer that are read before anybody asks for them: no refusal is longer, but for its stack trace."""


class TooLargeError(Exception):
    """The body is longer than the caller takes; the connection is closed."""


async def read_whole(response: httpx2.Response, most: int) -> httpx2.Response:
    """The answer with its body decoded and in memory, its connection free again.

    What counts is the decoded length: a megabyte of gzip may hold a gigabyte.

    Raises:
        TooLargeError: there are more than `most` bytes.
    """
    chunks: list[bytes] = []
    length = 0
    try:
        async for chunk in response.aiter_bytes():
            chunks.append(chunk)
            length += len(chunk)
            if length > most:
                raise TooLargeError(f"more than {most} bytes")
    finally:
        await response.aclose()
    about_transfer = ("content-encoding", "content-length", "transfer-encoding")
    headers = [(name, value) for name, value in response.headers.multi_items() if name not in about_transfer]
    return httpx2.Response(
        response.status_code, headers=headers, content=b"".join(chunks), extensions=response.extensions
    )


class ReadAhead(httpx2.AsyncByteStream):
    """The undecoded body of an answer whose first bytes have been read already; `all` of it, if it is that short."""

    def __init__(self, response: httpx2.Response) -> None:
        assert isinstance(response.stream, httpx2.AsyncByteStream)
        self._stream = response.stream
        self._rest = aiter(response.stream)
        self._first = b""
        self.all = b""

    @classmethod
    async def of(cls, response: httpx2.Response, most: int) -> "ReadAhead":
        """Reads until there are more than `most` bytes. Raises what reading raises, the connection closed."""
        made = cls(response)
        try:
            async for chunk in made._rest:
                made._first += chunk
                if len(made._first) > most:
                    return made
        except BaseException:
            await made.aclose()
            raise
        made.all = made._first
        return made

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """All bytes from the first."""
        yield self._first
        async for chunk in self._rest:
            yield chunk

    async def aclose(self) -> None:
        await self._stream.aclose()
