"""An end to what a request may bring: no client can make the daemon read and keep without measure."""

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LARGEST_BODY = 1 << 20


class BodyLimit:
    """ASGI middleware: a body beyond `LARGEST_BODY` is answered 413 by the application's own handler."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        length = 0

        async def limited() -> Message:
            nonlocal length
            message = await receive()
            length += len(message.get("body", b""))
            if length > LARGEST_BODY:
                raise HTTPException(413, f"the request is larger than {LARGEST_BODY >> 20} MiB")
            return message

        await self._app(scope, limited, send)
