"""Ten thousand identities with their tokens: what they add to the memory of one process, and how soon all are ready.

The child process makes the daemon's own connections over a configuration and has every identity prepared.
"""

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from measure import Figure

IDENTITIES = 10_000
_CLAIMS = "eyJhbGciOiJSUzI1NiIsInR5cCI6ImF0K2p3dCJ9." + "eyJpc3MiOiJiZW5jaCJ9" * 20 + ".{number:0342}"


class _IdentityServer(BaseHTTPRequestHandler):
    """Gives tokens as long as those of ERP.net; no test of a server."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one piece
    given = 0

    def do_GET(self) -> None:
        url = f"http://127.0.0.1:{self.server.server_address[1]}/id"
        self._answer({"issuer": url, "token_endpoint": f"{url}/token"})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        _IdentityServer.given += 1
        token = _CLAIMS.format(number=_IdentityServer.given)
        self._answer(
            {"access_token": token, "expires_in": 3600, "token_type": "Bearer", "scope": "read update"}
        )

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self, document: dict[str, object]) -> None:
        body = json.dumps(document).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def write_configuration(folder: Path, port: int) -> None:
    """One server, so many identities, each with a secret of its own."""
    lines = [
        '[daemon]\ndata = "data"\n[secrets]\nfrom = ["secrets"]',
        f'[instances.one]\nkind = "oidc"\nissuer = "http://127.0.0.1:{port}/id"\napi = ["http://127.0.0.1:9/"]',
    ]
    (folder / "secrets").mkdir()
    for number in range(IDENTITIES):
        name = f"service-{number:05}"
        (folder / "secrets" / name).write_text(f"secret-of-{number:05}-{number * 7919:08}")
        lines.append(
            f'[identities.{name}]\ninstance = "one"\nclient_id = "my.app/{number}"\n'
            f'client_secret = {{ secret = "{name}" }}\nscope = ["read", "update"]'
        )
    (folder / "erpsync.toml").write_text("\n".join(lines))


def figures() -> list[Figure]:
    """Memory of managers, tokens, secrets and all; seconds until each identity has its token."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _IdentityServer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        write_configuration(Path(name), server.server_address[1])
        command = [sys.executable, __file__, str(Path(name) / "erpsync.toml")]
        found = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    server.shutdown()
    return [
        Figure("10 000 identities with a token each: memory", found["mib"], "MiB", goal="≤ 60 MB"),
        Figure("10 000 identities: all tokens fetched, two requests at a time", found["seconds"], "s"),
        Figure("10 000 identities: how all of them stand", found["status_ms"], "ms"),
    ]


def _resident_mib() -> float:
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


async def _measure(file: Path) -> dict[str, float]:
    import gc
    import time

    from erpsync.config.load import load_configuration
    from erpsync.core.clock import SystemClock
    from erpsync.core.event import silent
    from erpsync.core.redaction import Redactor
    from erpsync.daemon.connections import Connections
    from erpsync.daemon.place import resolver_of

    configuration, redactor = load_configuration(file, os.environ), Redactor()
    resolver = resolver_of(configuration, redactor)
    connections = Connections(configuration, resolver, SystemClock(), silent, redactor)
    names = list(configuration.identities)
    await connections.prepare(names[0])  # what the first one costs is the room's, not an identity's
    gc.collect()
    before, began = _resident_mib(), time.perf_counter()
    for first in range(0, len(names), 50):
        await asyncio.gather(*(connections.prepare(name) for name in names[first : first + 50]))
    seconds = time.perf_counter() - began
    gc.collect()
    mib, began = _resident_mib() - before, time.perf_counter()
    states = {status.state.value for status in connections.identities()}
    assert states == {"fresh"}, states
    status_ms = (time.perf_counter() - began) * 1000
    await connections.close()
    return {"mib": mib, "seconds": seconds, "status_ms": status_ms}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(_measure(Path(sys.argv[1])))))
