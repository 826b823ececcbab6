"""Plugins that talk to the instance."""

import hashlib
import re

from erpsync import JobContext, JobResult, Settings, job


class Entity(Settings):
    """What to read."""

    entity: str = "General_Products_Products"
    page_size: int = 100


@job("read-rows")
def read_rows(ctx: JobContext[Entity]) -> JobResult:
    """Blocking."""
    for page in ctx.erp.pages(ctx.settings.entity, select=["Id"], page_size=ctx.settings.page_size):
        ctx.count(read=len(page))
    return ctx.result()


@job("read-rows-async")
async def read_rows_async(ctx: JobContext[Entity]) -> JobResult:
    """Asynchronous, for either isolation."""
    async for page in ctx.erp.pages(ctx.settings.entity, select=["Id"], page_size=ctx.settings.page_size):
        ctx.count(read=len(page))
    return ctx.result()


class Call(Settings):
    """A request."""

    url: str
    method: str = "GET"
    size: int = 0


@job("call")
def call(ctx: JobContext[Call]) -> JobResult:
    """Make it, and tell status and body."""
    content = b"x" * ctx.settings.size if ctx.settings.size else None
    response = ctx.http.request(ctx.settings.method, ctx.settings.url, content=content)
    assert "authorization" not in response.request.headers
    digest = hashlib.sha256(response.content).hexdigest()[:8]
    return ctx.result(f"{response.status_code} {len(response.content)} {digest} {response.text[:60]}")


@job("call-async")
async def call_async(ctx: JobContext[Call]) -> JobResult:
    """The same, asynchronous."""
    content = b"x" * ctx.settings.size if ctx.settings.size else None
    url = await ctx.absolute(ctx.settings.url)
    response = await ctx.http.request(ctx.settings.method, url, content=content)
    digest = hashlib.sha256(response.content).hexdigest()[:8]
    return ctx.result(f"{response.status_code} {len(response.content)} {digest} {response.text[:60]}")


class Search(Settings):
    """What to look for, split so that the pattern does not find itself."""

    head: str
    tail: str


@job("search-memory")
def search_memory(ctx: JobContext[Search]) -> JobResult:
    """Call the API, then look for a pattern in the whole memory of this process."""
    ctx.count(read=ctx.erp.count("General_Products_Products"))
    pattern = re.compile(ctx.settings.head.encode() + ctx.settings.tail.encode())
    found = 0
    with open("/proc/self/maps") as maps, open("/proc/self/mem", "rb", 0) as memory:
        for line in maps:
            span, rights = line.split()[:2]
            if not rights.startswith("rw") or "[v" in line:
                continue
            start, end = (int(part, 16) for part in span.split("-"))
            memory.seek(start)
            try:
                found += len(pattern.findall(memory.read(end - start)))
            except OSError:
                continue
    return ctx.result(f"found {found}")
