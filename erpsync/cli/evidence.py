"""What a demonstration left in ledger, tables and instance, each held against the others."""

import sqlite3
from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

from erpsync.core.run import Outcome, Run, State

CLIENT, SECRET = "erpsync.sandbox/service", "sandbox-secret"  # the sandbox's seeded application


class Evidence:
    """Looks at the folder and, once `url` is known, at the sandbox."""

    def __init__(self, folder: Path) -> None:
        self.url = ""
        self._data = folder / "data"

    def faults(self, mirrors: Mapping[str, str], every: Mapping[str, int]) -> list[str]:
        """What is not as promised: rows against the instance's, fire times against the clock, its own complaints."""
        faults = []
        for name, entity in mirrors.items():
            here, there = self.rows(name), self._count(entity)
            if here != there:
                faults.append(f"{name}: {here} rows here, {there} at the instance")
        runs = self.runs()
        for job, seconds in every.items():
            faults += _gaps(job, [run for run in runs if run.job == job], timedelta(seconds=seconds))
        faults += [
            f"run {run.id} of {run.job} {run.outcome}" for run in runs if run.outcome is Outcome.FAILED
        ]
        violations = self._stats()["violations"]
        return faults + ([f"the instance counted {violations} violations"] if violations else [])

    def runs(self) -> list[Run]:
        """The whole ledger, the newest run first."""
        from erpsync.store.history import RunFilter, list_runs
        from erpsync.store.state import Store

        store = Store.open(self._data / "erpsync.db", read_only=True)
        try:
            return store.read_now(list_runs, RunFilter(limit=100_000))
        finally:
            store.close()

    def finished(self, run_id: str) -> Run | None:
        """The run once it has ended."""
        return next((run for run in self.runs() if run.id == run_id and run.state is State.FINISHED), None)

    def succeeded(self, besides: Collection[str] = ()) -> set[str]:
        """The jobs that have a run that succeeded, `besides` these runs."""
        return {run.job for run in self.runs() if run.outcome is Outcome.SUCCEEDED and run.id not in besides}

    def rows(self, name: str) -> int:
        """How many rows a mirrored table has."""
        connection = sqlite3.connect(self._data / "demo.db")
        try:
            return int(connection.execute(f"SELECT count(*) FROM {name}").fetchone()[0])  # noqa: S608 - our own names
        finally:
            connection.close()

    def token_requests(self) -> int:
        """As the identity server counted them."""
        return sum(self._stats()["token_requests"].values())

    def _stats(self) -> dict[str, Any]:
        import httpx2

        stats: dict[str, Any] = httpx2.get(f"{self.url}/_sandbox/stats").json()
        return stats

    def _count(self, entity: str) -> int:
        """The instance's own count, asked without any of our client's code."""
        import httpx2

        form = {"grant_type": "client_credentials", "client_id": CLIENT, "client_secret": SECRET}
        answer = httpx2.post(f"{self.url}/id/connect/token", data=form).raise_for_status()
        headers = {"Authorization": f"Bearer {answer.json()['access_token']}"}
        url = f"{self.url}/api/domain/odata/{entity}/$count"
        answer = httpx2.get(url, headers=headers).raise_for_status()
        return int(answer.text.strip("\ufeff"))


def _gaps(job: str, runs: Sequence[Run], every: timedelta) -> list[str]:
    """Where the fire times of a job, ranges of misses included, do not follow each other exactly `every` apart."""
    spans = sorted(
        (run.fire_at, run.fire_until or run.fire_at, run.fire_count) for run in runs if run.fire_at
    )
    faults = [f"{job}: nothing ran"] if not spans else []
    for start, end, count in spans:
        if end - start != (count - 1) * every:
            faults.append(f"{job}: {count} fire times between {start} and {end}")
    for (_, before, _), (after, _, _) in pairwise(spans):
        if after - before != every:
            faults.append(f"{job}: from {before} to {after}")
    return faults
