"""A folder of hostile plugins beside a good job in one daemon: each run ends and says what it was; the good job
misses no second."""

import itertools
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import pytest

from erpsync.sandbox.server import Sandbox
from tests.acceptance.site import BASE, Site, eventually

pytestmark = pytest.mark.slow
Night = dict[str, list[dict[str, Any]]]
"""By job its runs, or the problems that park it."""

PLUGINS = '''
"""Every behaviour by its name, as an `async def` and as a `def` plugin."""

import asyncio
import ctypes
import os
import sys
import time

from erpsync import JobContext, JobResult, Settings, job


class Behaviour(Settings):
    how: str


class LeavesAsText(Exception):
    def __str__(self) -> str:
        sys.exit(5)


class InterruptsAsText(Exception):
    def __str__(self) -> str:
        raise KeyboardInterrupt


async def soon(error: BaseException) -> None:
    await asyncio.sleep(0.01)
    raise error


async def stays() -> None:
    while True:
        await asyncio.sleep(0.1)


async def in_group(error: BaseException) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(soon(error))


def answer(ctx: JobContext[Behaviour]) -> JobResult:
    match ctx.settings.how:
        case "nothing":
            return None
        case "nonsense":
            return "done"
    ctx.count(written=1)
    return ctx.result()


def behave(ctx: JobContext[Behaviour]) -> None:
    match ctx.settings.how:
        case "exit":
            sys.exit(4)
        case "interrupt":
            raise KeyboardInterrupt
        case "exit-as-text":
            raise LeavesAsText
        case "interrupt-as-text":
            raise InterruptsAsText
        case "os-exit":
            os._exit(3)
        case "segfault":
            ctypes.string_at(0)
        case "floods":
            while True:
                print("x" * 1000)
        case "floods-short":
            while True:
                print("x")
        case "floods-logs":
            while True:
                ctx.log.info("x")
        case "forks":
            os.fork()
        case "leaks":
            held = []
            while True:
                held.append(bytearray(2**20))
        case "blocks":
            time.sleep(3600)


@job("hostile-async")
async def hostile_async(ctx: JobContext[Behaviour]) -> JobResult:
    match ctx.settings.how:
        case "exit-in-child-task":
            await in_group(SystemExit(7))
        case "interrupt-in-child-task":
            await in_group(KeyboardInterrupt())
        case "exit-in-callback":
            asyncio.get_running_loop().call_later(0.01, sys.exit, 9)
            await asyncio.sleep(0.1)
        case "stops-loop":
            asyncio.get_running_loop().stop()
            await asyncio.sleep(0)
        case "shuts-executor":
            await asyncio.get_running_loop().shutdown_default_executor()
        case "cancels-all":
            for task in asyncio.all_tasks():
                task.cancel()
            await asyncio.sleep(0)
        case "leaves-tasks":
            for _ in range(3):
                asyncio.create_task(stays())
        case "deaf":
            while True:
                try:
                    await asyncio.sleep(3600)
                except asyncio.CancelledError:
                    pass
        case _:
            behave(ctx)
    return answer(ctx)


@job("hostile")
def hostile(ctx: JobContext[Behaviour]) -> JobResult:
    behave(ctx)
    return answer(ctx)
'''
GOOD = """
from erpsync import JobContext, JobResult, Settings, job

@job("tick", repeatable=True)
async def tick(ctx: JobContext[Settings]) -> JobResult:
    return ctx.result()
"""
ROOMY = BASE.replace('data = "data"', 'data = "data"\nmax_runs = 100').replace(
    'drain = "10s"', 'drain = "1s"'
)
TICK = """
[jobs.tick]
plugin = "tick"
schedule = { every = "1s" }
overlap = "allow"
catch_up = "all"
catch_up_limit = 100
"""


IMPORTS = {
    "import-exits": ("import os; os._exit(3)", "ends the whole process, with status 3"),
    "import-crashes": ("import ctypes; ctypes.string_at(0)", "SIGSEGV"),
    "import-interrupts": ("raise KeyboardInterrupt", "KeyboardInterrupt"),
}
"""By plugin: what its file does besides, and what is said of it."""
BLOCKER = "blocks-task"
"""It stops the daemon for ten seconds, in which time-outs of the others would pass before they are entered."""
BRIEF = 'timeout = "3s"'
LATEST = timedelta(seconds=2)
"""After its fire time a run of the good job has started by then, forty processes beside it or not."""
UNENDED = "SELECT job FROM run WHERE job <> 'tick' AND state <> 'finished'"


@dataclass(frozen=True)
class Case:
    """A behaviour, where it is shown, and what its run's error says."""

    how: str
    says: str
    where: str  # "task", "process" (an `async def` plugin in a child), "def"
    keys: str = ""

    @property
    def job(self) -> str:
        return f"{self.how}-{self.where}"

    def table(self) -> str:
        plugin = "hostile" if self.where == "def" else "hostile-async"
        isolation = 'isolation = "process"\n' if self.where == "process" else ""
        return (
            f'[jobs.{self.job}]\nplugin = "{plugin}"\nschedule = "manual"\nwith = {{ how = "{self.how}" }}\n'
            f"retry = {{ attempts = 1 }}\n{isolation}{self.keys}\n"
        )


def everywhere(how: str, says: str, keys: str = "") -> list[Case]:
    return [Case(how, says, where, keys) for where in ("task", "process", "def")]


def in_children(how: str, says: str, keys: str = "") -> list[Case]:
    return [Case(how, says, where, keys) for where in ("process", "def")]


def as_async(how: str, says: str, keys: str = "") -> list[Case]:
    return [Case(how, says, where, keys) for where in ("task", "process")]


CASES = [
    *everywhere("exit", "the plugin raised SystemExit(4)"),
    *everywhere("interrupt", "the plugin raised KeyboardInterrupt"),
    *everywhere("exit-as-text", "the plugin raised LeavesAsText without a message"),
    *everywhere("interrupt-as-text", "the plugin raised InterruptsAsText without a message"),
    *as_async("exit-in-child-task", "the plugin raised SystemExit(7)"),
    *as_async("interrupt-in-child-task", "the plugin raised KeyboardInterrupt"),
    *as_async("exit-in-callback", "the plugin raised SystemExit(9)"),
    *as_async("stops-loop", "the plugin called stop() of the event loop, which is not its own"),
    *as_async("shuts-executor", "the plugin called shutdown_default_executor() of the event loop"),
    Case("cancels-all", "the plugin cancelled a task that is not its own", "task"),
    Case("cancels-all", "the plugin raised CancelledError, and nobody had cancelled it", "process"),
    *as_async("leaves-tasks", "the plugin left 3 tasks behind, cancelled: stays"),
    *everywhere("nothing", "the plugin returned nothing, not a JobResult"),
    *everywhere("nonsense", "the plugin returned a value of type str, not a JobResult"),
    *in_children("os-exit", "the child process exited with status 3 and without a result"),
    *in_children("segfault", "the child process was killed by SIGSEGV"),
    *in_children("leaks", "the plugin reached the job's memory limit of 32 MiB", 'memory = "32MiB"'),
    *[
        case
        for how in ("floods", "floods-short", "floods-logs")
        for case in in_children(how, "time-out of 3s; the plugin ignored its cancellation", BRIEF)
    ],
    Case("blocks", "the plugin blocked the daemon's event loop for", "task"),
    *in_children("blocks", "time-out of 3s; the plugin ignored its cancellation", BRIEF),
    Case("deaf", "the plugin ignored its cancellation and goes on unseen in the daemon", "task", BRIEF),
    Case("deaf", "the plugin ignored its cancellation and SIGTERM", "process", BRIEF),
]
FORKS = everywhere("forks", "")


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Night:
    """All behaviours in one daemon; the runs of each job once everything has ended."""
    with Sandbox(port=0) as sandbox:
        site = Site(tmp_path_factory.mktemp("hostile"), sandbox)
        site.write(PLUGINS, "plugins/hostile.py")
        site.write(GOOD, "plugins/good.py")
        site.write(ROOMY + TICK + "".join(case.table() for case in [*CASES, *FORKS]))
        _write_imports(site, "early")
        with site.daemon() as daemon:
            _write_imports(site, "late")
            assert site.erpsync("reload").returncode == 0
            status = site.json("status")["daemon"]
            parked = {each["job"]: each["problems"][0] for each in status["parked"]}
            names = [case.job for case in [*CASES, *FORKS]]
            for together in ([name for name in names if name != BLOCKER], [BLOCKER]):
                assert site.erpsync("trigger", *together, "--yes").returncode == 0
                eventually(lambda: not site.rows("erpsync.db", UNENDED), "every hostile run ends")
            before = len(site.runs("tick"))
            eventually(lambda: len(site.runs("tick")) > before, "the good job goes on")
            assert daemon.poll() is None
            assert site.stop(daemon) == 0
        runs: Night = {name: [] for name in ["tick", *names]}
        runs |= {job: [problem] for job, problem in parked.items()}
        for run in site.json("runs", "--limit", "5000"):
            runs[run["job"]].append(run)
        return runs


def _write_imports(site: Site, when: str) -> None:
    """Plugins whose import is hostile, and a job of each."""
    for name, (line, _) in IMPORTS.items():
        plugin = f"{when}-{name}"
        site.write(
            f"{line}\n{GOOD}".replace('"tick"', f'"{plugin}"'), f"plugins/{plugin.replace('-', '_')}.py"
        )
        table = f'[jobs.{plugin}]\nplugin = "{plugin}"\nschedule = "manual"\n'
        site.write((site.folder / "erpsync.toml").read_text() + table)


def _instant(text: str) -> datetime:
    return datetime.fromisoformat(text)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.job)
def test_each_says_what_it_was(night: Night, case: Case) -> None:
    """The run has failed, and its message names the behaviour."""
    (run,) = night[case.job]
    assert run["outcome"] == ("timed_out" if case.keys == BRIEF else "failed")
    assert case.says in run["error"]["message"]


@pytest.mark.parametrize("case", FORKS, ids=lambda case: case.job)
def test_who_forks_returns_once(night: Night, case: Case) -> None:
    """The other half is nobody: one result, of one run."""
    (run,) = night[case.job]
    assert (run["outcome"], run["counts"]["written"]) == ("succeeded", 1)


@pytest.mark.parametrize("when", ["early", "late"])
@pytest.mark.parametrize("name", IMPORTS)
def test_a_hostile_import_parks_its_job(night: Night, when: str, name: str) -> None:
    """At the start and at a reload, with what it did."""
    (problem,) = night[f"{when}-{name}"]
    assert IMPORTS[name][1] in problem["message"]


def test_the_good_job_misses_no_second(night: Night) -> None:
    """Every second of the good job has its run, which succeeded."""
    ticks = night["tick"]
    assert {each["outcome"] for each in ticks} == {"succeeded"}
    fires = sorted(_instant(each["fire_at"]) for each in ticks)
    assert all(b - a == timedelta(seconds=1) for a, b in itertools.pairwise(fires))


def test_the_good_job_starts_in_time(night: Night) -> None:
    """Only a plugin that blocks the loop makes the good job late, and nothing else that is done beside it."""
    (blocker,) = night[BLOCKER]
    begin, end = (_instant(blocker[name]) for name in ("started_at", "finished_at"))
    late = {
        each["fire_at"]: each["started_at"]
        for each in night["tick"]
        if _instant(each["started_at"]) - _instant(each["fire_at"]) > LATEST
        and not (begin <= _instant(each["fire_at"]) <= end)
    }
    assert not late
