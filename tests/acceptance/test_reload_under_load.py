"""A hundred reloads of a thousand jobs while runs are going: valid changes are taken, broken ones refused.

RELOADS=… makes more; SEED=… repeats the changes.
"""

import itertools
import os
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import pytest

from erpsync.control.client import ControlClient
from erpsync.core.errors import ConfigError
from tests.acceptance.site import BASE, Site, eventually

RELOADS = int(os.environ.get("RELOADS", "100"))
SEED = int(os.environ.get("SEED", "0")) or random.SystemRandom().randrange(1, 10**9)
JOBS, STEADY, MOVING = 1000, 40, 8

PLUGIN = '''
from erpsync import JobContext, JobResult, Settings, job

class Options(Settings):
    word: str = ""

@job("tick", repeatable=True)
async def tick(ctx: JobContext[Options]) -> JobResult:
    """Does nothing, well."""
    return ctx.result()

@job("tock", repeatable=True)
async def tock(ctx: JobContext[Options]) -> JobResult:
    """The same."""
    return ctx.result()
'''
BROKEN = [
    "[jobs.broken",
    '[jobs.x]\nplugin = "tick"\nshedule = "@daily"',
    '[jobs.x]\nplugin = "tick"\nschedule = "61 * * * *"',
]
_EACH_SECOND = 'plugin = "tick"\nschedule = { every = "1s" }\ncatch_up = "all"\ncatch_up_limit = 1000\n'


@dataclass(frozen=True)
class _Moving:
    """A job of every second, whatever else becomes of it."""

    name: str
    former: str = ""
    plugin: str = "tick"
    identity: str = ""

    def changed(self, chance: random.Random) -> "_Moving":
        match chance.choice(["name", "plugin", "identity"]):
            case "name":
                number, _, generation = self.name.partition("-")
                return replace(self, name=f"{number}-{int(generation) + 1}", former=self.name)
            case "plugin":
                return replace(self, former="", plugin=chance.choice(["tick", "tock", "nowhere"]))
            case _:
                return replace(self, former="", identity="" if self.identity else 'identity = "service"\n')

    def text(self) -> str:
        former = f'formerly = ["{self.former}"]\n' if self.former else ""
        return _EACH_SECOND.replace('"tick"', f'"{self.plugin}"') + former + self.identity


class Files:
    """A thousand jobs: some that never change and fire each second, and others that come, go and change."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._changing = {f"c{number:03}": self._job() for number in range(JOBS - STEADY - MOVING)}
        self._moving = [_Moving(f"m{number}-0") for number in range(MOVING)]

    def change(self) -> None:
        """A few jobs are removed, come back, or get another schedule, other settings; one that fires each second gets
        another name, plugin (which may not be there: then it is parked) or identity."""
        number = self._chance.randrange(MOVING)
        self._moving[number] = self._moving[number].changed(self._chance)
        for name in self._chance.sample(sorted(self._changing), 5):
            self._changing[name] = "" if self._changing[name] and self._chance.random() < 0.3 else self._job()

    def text(self) -> str:
        steady = (f"[jobs.s{number:03}]\n{_EACH_SECOND}" for number in range(STEADY))
        others = (f"[jobs.{name}]\n{body}" for name, body in self._changing.items() if body)
        moving = (f"[jobs.{job.name}]\n{job.text()}" for job in self._moving)
        return BASE + "\n" + "".join((*steady, *others, *moving))

    @property
    def each_second(self) -> list[str]:
        """The jobs that fire each second by now."""
        return [*(f"s{number:03}" for number in range(STEADY)), *(job.name for job in self._moving)]

    def _job(self) -> str:
        every, word = self._chance.choice(["7s", "20s", "60s", "10m"]), self._chance.choice("abc")
        return (
            f'plugin = "tick"\nschedule = {{ every = "{every}" }}\ncatch_up = "all"\nwith.word = "{word}"\n'
        )


@pytest.mark.slow
def test_no_fire_time_is_lost_or_doubled_by_reloads(
    site: Site, record_property: Callable[[str, object], None]
) -> None:
    """Of the jobs of every second each second has its run, whatever changes about them; of no job a fire time has
    two."""
    record_property("reloads", f"{RELOADS}, SEED={SEED}")
    chance = random.Random(SEED)
    files = Files(chance)
    site.write(PLUGIN, "plugins/tick.py")
    site.write(files.text())
    with site.daemon() as daemon, ControlClient(site.folder / "data" / "control.sock") as client:
        eventually(lambda: site.runs("s000", outcome="succeeded"), "runs are going")
        for number in range(RELOADS):
            if chance.random() < 0.2:
                site.write(files.text() + chance.choice(BROKEN))
                with pytest.raises(ConfigError):
                    client.reload()
            else:
                files.change()
                site.write(files.text())
                plan = client.reload()
                assert len(plan["jobs"]) <= 6, (SEED, number)
        end = datetime.now(UTC)
        eventually(lambda: _until(site) > end, "everything up to the last reload is claimed")
        assert site.stop(daemon) == 0
    fires = _fires(site)
    doubled = [key for key, count in Counter(fires).items() if count > 1]
    assert not doubled, (SEED, doubled[:5])
    for job in files.each_second:
        mine = sorted(at for name, at in fires if name == job)
        gaps = [(a, b) for a, b in itertools.pairwise(mine) if b - a != timedelta(seconds=1)]
        assert not gaps, (SEED, job, gaps[:3])


def _until(site: Site) -> datetime:
    """Up to where the fire times of the steady jobs are in the ledger."""
    microseconds = site.rows("erpsync.db", "SELECT min(until) FROM mark WHERE job LIKE 's%'")[0][0]
    return datetime.fromtimestamp(microseconds / 1e6, UTC)


def _fires(site: Site) -> list[tuple[str, datetime]]:
    """Each fire time that the ledger has, those within ranges of every second too."""
    rows = site.rows(
        "erpsync.db", "SELECT job, fire_at, fire_until, fire_count FROM run WHERE fire_at IS NOT NULL"
    )
    found = []
    for job, first, _last, count in rows:
        start = datetime.fromtimestamp(first / 1e6, UTC)
        steps = count if job.startswith(("s", "m")) else 1
        found += [(job, start + timedelta(seconds=step)) for step in range(steps)]
    return found
