"""`demo`: the product at work in a temporary folder, with an expired token and a kill -9, and what came of it."""

import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from erpsync.cli.evidence import CLIENT, SECRET, Evidence
from erpsync.cli.output import LiveLine, note, print_runs, say
from erpsync.core.errors import DemoFailedError
from erpsync.core.run import Run, State

T = TypeVar("T")

_PATIENCE = 60.0  # seconds for a step that must come true
_PROGRAM = (sys.executable, "-m", "erpsync.cli.main")
MIRRORS = {"products": "General_Products_Products", "customers": "Crm_Sales_Customers"}
EVERY = {"products": 3, "customers": 4, "ping": 2, "stock-take": 4}

_CONFIGURATION = """\
[daemon]
data = "data"
plugins = ["plugins"]
drain = "10s"
log = {{ format = "json" }}

[metrics]
listen = false

[secrets]
from = ["secrets"]

[instances.box]
url = "{url}"
license_slots = 4                               # a refused token and a kill -9 leave sessions behind

[identities.night]
instance = "box"
client_id = "{client}"
client_secret = {{ secret = "box.night" }}      # the file secrets/box.night
scope = ["read"]

[defaults]
identity = "night"

[jobs.products]
plugin = "mirror"
schedule = {{ every = "{every[products]}s" }}
with = {{ entity = "{sets[products]}", target = {{ url = "sqlite:///demo.db", table = "products" }} }}

[jobs.customers]
plugin = "mirror"
schedule = {{ every = "{every[customers]}s" }}
with = {{ entity = "{sets[customers]}", target = {{ url = "sqlite:///demo.db", table = "customers" }} }}

[jobs.ping]
plugin = "http_call"
schedule = {{ every = "{every[ping]}s" }}
with = {{ url = "{url}/api/domain/odata/General_Currencies_Currencies?$top=1" }}

[jobs.stock-take]
plugin = "stock-take"                           # plugins/stock_take.py
schedule = {{ every = "{every[stock-take]}s" }}
with = {{ entity = "{sets[products]}" }}
"""

_PLUGIN = '''\
import time

from erpsync import BlockingContext, JobResult, Settings, job

class Options(Settings):
    entity: str

@job("stock-take", repeatable=True)
def stock_take(ctx: BlockingContext[Options]) -> JobResult:
    """Counts the rows of an entity set, page by page, without haste."""
    for page in ctx.erp.pages(ctx.settings.entity, select=["Id"], page_size=100):
        ctx.count(read=len(page))
        time.sleep(0.1)
    return ctx.result()
'''


def demo() -> int:
    """A sandbox, a daemon and four jobs on the real clock: an expired token, a kill -9, the recovery."""
    signal.signal(signal.SIGTERM, _interrupt)
    site = DemoSite(_new_folder())
    with site.sandbox() as url:
        site.write(url)
        with site.daemon() as daemon:
            site.first_runs()
            site.expired_token()
            killed = site.kill_in_a_run(daemon)
        with site.daemon() as daemon:
            site.recovery(killed)
            site.stay()
            site.drain(daemon)
        faults = site.evidence.faults(MIRRORS, EVERY)
    site.conclude(faults)
    return 1 if faults else 0


class DemoSite:
    """The folder of one demonstration and what happens in it, told line by line."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._since = time.monotonic()
        self.evidence = Evidence(folder)

    # -- what is set up ------------------------------------------------------------------------------

    @contextmanager
    def sandbox(self) -> Iterator[str]:
        """An ERP.net-like instance in a process of its own; yields its address."""
        arguments = [*_PROGRAM, "sandbox", "--port", "0"]
        process = subprocess.Popen(  # noqa: S603 - our own program
            arguments, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True
        )
        with _ended(process):
            assert process.stdout is not None
            self.evidence.url = process.stdout.readline().removeprefix("ready ").strip()
            if not self.evidence.url:
                raise DemoFailedError("the sandbox did not start", hint="erpsync sandbox")
            self._tell(f"an ERP.net-like instance with 1250 products answers at {self.evidence.url}")
            yield self.evidence.url

    def write(self, url: str) -> None:
        """A configuration, a secret, and a plugin of one's own."""
        text = _CONFIGURATION.format(url=url, client=CLIENT, every=EVERY, sets=MIRRORS)
        for name, content in (
            ("erpsync.toml", text),
            ("plugins/stock_take.py", _PLUGIN),
            ("secrets/box.night", SECRET),
        ):
            path = self._folder / name
            path.parent.mkdir(mode=0o700, exist_ok=True)
            path.touch(mode=0o600)
            path.write_text(content)
        self._tell(f"four jobs are configured in {self._folder / 'erpsync.toml'}")

    @contextmanager
    def daemon(self) -> "Iterator[subprocess.Popen[bytes]]":
        """The daemon in a process of its own, ready; ended at the latest with the block."""
        arguments = [*_PROGRAM, "--config", str(self._folder / "erpsync.toml"), "daemon"]
        with (self._folder / "daemon.log").open("ab") as log:
            process = subprocess.Popen(arguments, stdout=log, stderr=log, start_new_session=True)  # noqa: S603
        with _ended(process):
            self._until(lambda: self._is_ready(process), "the daemon is ready")
            self._tell(f"the daemon runs, pid {process.pid}; its log is {self._folder / 'daemon.log'}")
            yield process

    # -- what happens --------------------------------------------------------------------------------

    def first_runs(self) -> None:
        """Every job succeeds once, with one token among them."""
        self._until(lambda: set(EVERY) <= self.evidence.succeeded(), "every job has succeeded")
        rows = {name: self.evidence.rows(name) for name in MIRRORS}
        self._tell(
            f"every job has run: {rows['products']} products and {rows['customers']} customers are mirrored"
        )
        self._tell(f"all with {self.evidence.token_requests()} token request")

    def expired_token(self) -> None:
        """The server forgets the token; one renewal mends it."""
        import httpx2

        before = self.evidence.token_requests()
        seen = {run.id for run in self.evidence.runs()}
        httpx2.post(f"{self.evidence.url}/_sandbox/revoke").raise_for_status()
        self._tell("the server lets the token expire: from now on it answers 401")
        self._until(lambda: self.evidence.token_requests() > before, "a new token is fetched")
        self._until(
            lambda: "products" in self.evidence.succeeded(besides=seen), "a run succeeds with the new token"
        )
        self._tell(f"{self.evidence.token_requests() - before} renewal later the jobs run on, no run failed")

    def kill_in_a_run(self, daemon: "subprocess.Popen[bytes]") -> Run:
        """kill -9 while a run is running; the run."""
        run = self._until(
            lambda: next(
                (
                    run
                    for run in self.evidence.runs()
                    if run.state is State.RUNNING and run.job == "stock-take"
                ),
                None,
            ),
            "stock-take is running",
        )
        daemon.kill()
        daemon.wait()
        self._tell(f"kill -9 {daemon.pid}, in the middle of run {run.id} of {run.job}")
        return run

    def recovery(self, killed: Run) -> None:
        """The run that was cut off ends well, and every job runs on."""
        seen = {run.id for run in self.evidence.runs()}
        ended = self._until(lambda: self.evidence.finished(killed.id), "the run that was cut off has ended")
        self._tell(
            f"a new daemon found it, closed attempt 1 as lost; attempt {ended.attempts} {ended.outcome}"
        )
        self._until(
            lambda: set(EVERY) <= self.evidence.succeeded(besides=seen), "every job has succeeded again"
        )
        self._tell("every job runs again")

    def stay(self) -> None:
        """On a terminal: until Ctrl-C."""
        if not (sys.stdin.isatty() and sys.stdout.isatty()):
            return
        self._tell(f"in another terminal: {self._command('status')}")
        live = LiveLine()
        try:
            while True:
                counts = Counter(str(run.outcome or run.state) for run in self.evidence.runs())
                shown = ", ".join(f"{count} {outcome}" for outcome, count in counts.most_common())
                live.show(f"  {shown}; Ctrl-C ends it")
                time.sleep(0.5)
        except KeyboardInterrupt:
            live.clear()

    def drain(self, daemon: "subprocess.Popen[bytes]") -> None:
        """SIGTERM: what runs ends first."""
        daemon.terminate()
        code = daemon.wait(_PATIENCE)
        if code != 0:
            raise DemoFailedError(f"the daemon ended with {code}", hint=f"see {self._folder / 'daemon.log'}")
        self._tell("SIGTERM: the daemon let its runs end, then stopped with exit code 0")

    # -- what came of it -----------------------------------------------------------------------------

    def conclude(self, faults: Sequence[str]) -> None:
        """The table of runs, the verdict, and where to look."""
        say("\nthe ledger")
        print_runs(self.evidence.runs()[::-1], "UTC")
        say()
        for fault in faults:
            note(f"NOT AS PROMISED  {fault}")
        if not faults:
            say(
                "every fire time is in the ledger exactly once; the tables have exactly as many rows as the instance"
            )
        database = self._folder / "data" / "demo.db"
        say(f"\n  sqlite3 {database} 'SELECT count(*) FROM products'")  # noqa: S608 - to be typed
        say(f"  {self._command('runs')}")
        say(f"  rm -r {self._folder}")

    def _command(self, name: str) -> str:
        return f"{program_text()} --config {self._folder / 'erpsync.toml'} {name}"

    def _tell(self, text: str) -> None:
        say(f"{time.monotonic() - self._since:5.1f} s  {text}")
        sys.stdout.flush()

    def _until(self, condition: Callable[[], T | None], what: str) -> T:
        """The first truthy answer; DemoFailedError after a minute of others."""
        end = time.monotonic() + _PATIENCE
        while not (answer := condition()):
            if time.monotonic() > end:
                raise DemoFailedError(
                    f"it did not happen that {what}", hint=f"see {self._folder / 'daemon.log'}"
                )
            time.sleep(0.1)
        return answer

    def _is_ready(self, process: "subprocess.Popen[bytes]") -> bool:
        from erpsync.control.client import ControlClient
        from erpsync.core.errors import NoDaemonError

        if process.poll() is not None:
            raise DemoFailedError("the daemon did not start", hint=f"see {self._folder / 'daemon.log'}")
        try:
            with ControlClient(self._folder / "data" / "control.sock") as client:
                return bool(client.status()["ready"])
        except NoDaemonError:
            return False


def program_text() -> str:
    """How this program can be called from the current folder."""
    if shutil.which("erpsync"):
        return "erpsync"
    path, here = Path(sys.argv[0]).absolute(), Path.cwd()
    if not os.access(path, os.X_OK):
        return shlex.join(_PROGRAM)
    return shlex.quote(f"./{path.relative_to(here)}" if path.is_relative_to(here) else str(path))


def _new_folder() -> Path:
    """A folder for this demonstration alone; in /tmp where the usual place leaves no room for a socket's path."""
    deep = len(tempfile.gettempdir()) > 60
    return Path(tempfile.mkdtemp(prefix="erpsync-demo-", dir="/tmp" if deep else None))  # noqa: S108 - made anew, 0700


@contextmanager
def _ended(process: "subprocess.Popen[Any]") -> Iterator[None]:
    """However the block ends, the process ends with it."""
    try:
        yield
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if process.stdout is not None:
            process.stdout.close()


def _interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt
