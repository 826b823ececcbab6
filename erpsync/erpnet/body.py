"""Reading an answer into memory, never more of it than fits."""

import httpx2


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
