"""The client for `def` plugins: the same methods, each waiting for the asynchronous one in another thread's loop."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from typing import Literal, ParamSpec, TypeVar

from anyio.from_thread import BlockingPortal

from erpsync.erpnet.client import ErpClient, Page

P = ParamSpec("P")
T = TypeVar("T")


class BlockingErp:
    """Blocking twin of ErpClient: its methods, arguments and errors. For one thread at a time.

    `portal` leads to the loop that the HTTP client lives in. While the plugin works on a page the next one comes.
    """

    def __init__(self, client: ErpClient, portal: BlockingPortal) -> None:
        self._client = client
        self._portal = portal
        self.pages = self._iterating(client.pages)
        self.one_page = self._waiting(client.one_page)
        self.get = self._waiting(client.get)
        self.count = self._waiting(client.count)
        self.function = self._waiting(client.function)
        self.metadata = self._waiting(client.metadata)
        self.version = self._waiting(client.version)
        self.create = self._waiting(client.create)
        self.update = self._waiting(client.update)
        self.delete = self._waiting(client.delete)
        self.action = self._waiting(client.action)

    @contextmanager
    def transaction(
        self,
        *,
        model: Literal["common", "frontend"] = "common",
        expected: timedelta = timedelta(minutes=5),
    ) -> Iterator["BlockingErp"]:
        """See ErpClient.transaction."""
        begun = self._client.transaction(model=model, expected=expected)
        with self._portal.wrap_async_context_manager(begun) as inside:
            yield BlockingErp(inside, self._portal)

    def _waiting(self, method: Callable[P, Awaitable[T]]) -> Callable[P, T]:
        def call(*args: P.args, **kwargs: P.kwargs) -> T:
            return self._portal.call(partial(method, *args, **kwargs))

        return call

    def _iterating(self, method: Callable[P, AsyncGenerator[Page, None]]) -> Callable[P, Iterator[Page]]:
        def iterate(*args: P.args, **kwargs: P.kwargs) -> Iterator[Page]:
            pages = method(*args, **kwargs)

            async def following() -> Page | None:
                return await anext(pages, None)

            try:
                while (page := self._portal.call(following)) is not None:
                    yield page
            finally:
                self._portal.call(pages.aclose)

        return iterate
