"""Starting, stopping, and the side door for what runs in another process."""

import signal
import subprocess
import sys

import httpx2
import pytest

from erpsync.sandbox.server import Sandbox

PRODUCTS = "General_Products_Products"
FOREGROUND = """
from erpsync.sandbox.server import Sandbox
raise SystemExit(Sandbox(rows=3).serve_forever(lambda url: print(url, flush=True)))
"""


def test_start_returns_when_it_accepts_and_stop_when_it_has_stopped():
    """A stopped sandbox refuses connections, stopping twice is fine, and it starts again where it was."""
    sandbox = Sandbox(rows=3)
    sandbox.start()
    url = sandbox.url
    assert httpx2.get(f"{url}/tools/ver", trust_env=False).status_code == 200
    sandbox.stop()
    sandbox.stop()
    with pytest.raises(httpx2.ConnectError):
        httpx2.get(url, trust_env=False)
    with sandbox:
        assert sandbox.url == url
        assert httpx2.get(f"{url}/tools/ver", trust_env=False).status_code == 200


def test_a_taken_port_is_an_os_error(sandbox):
    """A second sandbox on one port does not start."""
    with pytest.raises(OSError, match="in use"):
        Sandbox(port=int(sandbox.url.rpartition(":")[2]), rows=1).start()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_in_the_foreground_it_serves_until_a_signal(number):
    """serve_forever tells its URL, serves, and returns the number of the signal that ended it."""
    with subprocess.Popen([sys.executable, "-c", FOREGROUND], stdout=subprocess.PIPE, text=True) as process:
        url = process.stdout.readline().strip()
        assert httpx2.get(f"{url}/tools/ver", trust_env=False).status_code == 200
        process.send_signal(number)
        assert process.wait(10) == number


def test_a_database_file_is_kept(tmp_path):
    """With a file the rows of an earlier sandbox are served again, whatever `rows` says."""
    path = str(tmp_path / "sandbox.db")
    with Sandbox(rows=5, database=path) as first:
        first.touch(PRODUCTS, 1)
    with Sandbox(rows=1000, database=path) as second:
        assert second.rows(PRODUCTS) == 5
        assert second.read(PRODUCTS, "ObjectVersion")[0]["ObjectVersion"] == 2


def test_two_sandboxes_have_the_same_rows():
    """Ids and values are the same in every sandbox of one size."""
    assert Sandbox(rows=50).read(PRODUCTS, "Id", "Name") == Sandbox(rows=50).read(PRODUCTS, "Id", "Name")


def test_the_side_door_changes_the_instance(caller):
    """Applications, rows, tokens, clock, sessions and switches are within reach over HTTP."""

    def post(action: str, **body: object) -> httpx2.Response:
        return caller.http.post(f"/_sandbox/{action}", json=body)

    made = post("apps", client_id="a/b", secret="s", scope="read", reference_token=True).json()
    headers = {"X-Api-Key": made["reference_token"]}
    assert caller.http.get("/api/domain/odata/GetVersion", headers=headers).status_code == 200
    assert len(post("touch", set=PRODUCTS, count=4).json()) == 4
    assert post("clock", advance=1300).json()["elapsed"] > 1300
    assert caller.http.get("/_sandbox/sessions").json() == []
    assert post("occupy", slots=5).status_code == post("restart").status_code == 200
    assert caller.error("GetVersion")[0] == 500
    assert post("behaviour", license_status=403).json()["license_status"] == 403
    assert caller.error("GetVersion")[0] == 403
    assert post("secret", client_id="a/b", secret="t").status_code == post("revoke").status_code == 200
    assert caller.get("GetVersion").status_code == 401


@pytest.mark.parametrize(
    ("action", "body"),
    [
        ("behaviour", {"licence_slots": 3}),
        ("behaviour", {"token_ttl": "long"}),
        ("apps", {"client_id": "x"}),
        ("touch", {"set": "Nothing"}),
        ("apps", {"client_id": "x", "public_key": "no PEM"}),
        ("password", {"login": "nobody", "password": "x"}),
    ],
)
def test_the_side_door_refuses_what_it_cannot_use(caller, action, body):
    """A mistake at the side door is answered 400 with what is wrong."""
    response = caller.http.post(f"/_sandbox/{action}", json=body)
    assert response.status_code == 400
    assert response.json()["error"]
