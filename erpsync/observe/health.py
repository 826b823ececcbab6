"""What may be asked over the network: /metrics, /healthz, /readyz and nothing else."""

import asyncio
from collections.abc import Callable, Sequence

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from erpsync.observe.metrics import Metrics

_PROMETHEUS_TEXT = "text/plain; version=0.0.4; charset=utf-8"


def health_application(metrics: Metrics, unready: Callable[[], Sequence[str]]) -> Starlette:
    """An ASGI application; `unready` says why work cannot be done now, empty when it can.

    /healthz answers 200 while the event loop turns; /readyz 200, or 503 with the reasons.
    """

    async def healthz(_request: Request) -> Response:
        return JSONResponse({"status": "alive"})

    async def readyz(_request: Request) -> Response:
        reasons = list(unready())
        document = {"status": "unready" if reasons else "ready", "reasons": reasons}
        return JSONResponse(document, 503 if reasons else 200)

    async def page(_request: Request) -> Response:
        metrics.look()
        return Response(await asyncio.to_thread(metrics.page), media_type=_PROMETHEUS_TEXT)

    return Starlette(routes=[Route("/metrics", page), Route("/healthz", healthz), Route("/readyz", readyz)])
