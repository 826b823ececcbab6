"""The SQL sink over real SQLite files."""

import asyncio
import os
import sqlite3
import stat
import threading
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from erpsync import Column, Target
from erpsync.core.clock import ManualClock
from erpsync.core.errors import LostLeaseError, TargetError
from erpsync.plugins.sink import SinkOpening, SqlSink, Written, target_engine
from erpsync.plugins.table import _CONVERT

COLUMNS = (Column("Id", "guid"), Column("Name"), Column("Price", "decimal", ("Price", "Value")))
Make = Callable[..., SqlSink]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def build(table: str = "products", columns: tuple[Column, ...] = COLUMNS, **changes: Any) -> SqlSink:
        arguments: dict[str, Any] = {
            "key": ("Id",),
            "scope": "q1",
            "job": "products",
            "run_id": "r1",
            "data": tmp_path,
            "clock": ManualClock(),
        }
        target = Target(url=changes.pop("url", "sqlite:///acme.db"), table=table)
        return SqlSink(target, columns, **(arguments | changes))

    return build


def rows_of(folder: Path, sql: str = "SELECT * FROM products ORDER BY 1") -> list[tuple[Any, ...]]:
    connection = sqlite3.connect(folder / "acme.db")
    try:
        return connection.execute(sql).fetchall()
    finally:
        connection.close()


def row(number: int, name: str = "x", price: object = None) -> dict[str, object]:
    return {"Id": f"id-{number}", "Name": name, "Price": {"Value": price}}


def test_rows_and_position_are_committed_together(make: Make, tmp_path: Path) -> None:
    """A unit leaves its rows and its position, the end leaves the watermark and no position."""
    with SinkOpening(make()) as sink:
        assert sink.upsert([row(1), row(2)], position={"next": "page2"}) == Written(2, 0)
    with SinkOpening(make()) as sink:
        assert (sink.position, sink.watermark) == ({"next": "page2"}, None)
        sink.upsert([row(3)], position=None)
        sink.finish("2026-01-01T00:00:00Z")
    with SinkOpening(make()) as sink:
        assert (sink.position, sink.watermark) == (None, "2026-01-01T00:00:00Z")
    assert [found[0] for found in rows_of(tmp_path)] == ["id-1", "id-2", "id-3"]


def test_rows_are_written_by_key_and_only_where_they_differ(make: Make, tmp_path: Path) -> None:
    """The same row again is unchanged, a different one replaces the old; null and values are told apart."""
    with SinkOpening(make()) as sink:
        sink.upsert([row(1), row(2, "b", 5), row(3, "c")])
        again = sink.upsert([row(1), row(2, "b", 5), row(3, "changed"), row(4), row(4)])
        assert again == Written(2, 3)
        assert sink.upsert([{"Id": "id-2", "Name": None, "Price": None}]) == Written(1, 0)
        assert sink.upsert([]) == Written(0, 0)
    assert rows_of(tmp_path)[1:3] == [("id-2", None, None), ("id-3", "changed", None)]


def test_values_stay_exact(make: Make, tmp_path: Path) -> None:
    """Decimals keep every digit, instants become UTC, references their guid, nested values JSON."""
    columns = (
        Column("Id", "guid"),
        Column("Price", "decimal", ("Price", "Value")),
        Column("PriceCurrency", "text", ("Price", "Currency")),
        Column("At", "datetime"),
        Column("Group", "reference", ("Group", "@odata.id")),
        Column("Names", "json"),
        Column("Active", "boolean"),
        Column("Count", "integer"),
    )
    with SinkOpening(make(columns=columns)) as sink:
        sink.upsert(
            [
                {
                    "Id": "1",
                    "Price": {"Value": Decimal("12345678901234567.10"), "Currency": "EUR"},
                    "At": "2026-03-29T03:30:00+03:00",
                    "Group": {"@odata.id": "General_Products_ProductGroups(0a-1b)"},
                    "Names": {"EN": "Bolt", "BG": "Болт"},
                    "Active": True,
                    "Count": 9007199254740993,
                },
                {
                    "Id": "2",
                    "Price": {"Value": Decimal("1E+3"), "Currency": "BGN"},
                    "At": "2026-01-01T00:00:00Z",
                },
                {"Id": "3", "Price": {"Value": "0.10"}},
            ]
        )
    first, second, third = rows_of(tmp_path)
    assert first == (
        "1", "12345678901234567.10", "EUR", "2026-03-29T00:30:00Z", "0a-1b", '{"EN":"Bolt","BG":"Болт"}', 1,
        9007199254740993,
    )  # fmt: skip
    assert second[:4] == ("2", "1000", "BGN", "2026-01-01T00:00:00Z")
    assert third[:3] == ("3", "0.10", None)


def test_a_value_that_does_not_fit_is_an_error_without_the_value(make: Make) -> None:
    """Text where a number belongs stops the unit and names the column only."""
    with (
        SinkOpening(make()) as sink,
        pytest.raises(TargetError, match='column "Price" got a value that is no decimal'),
    ):
        sink.upsert([row(1, price="twelve")])


@pytest.mark.parametrize("price", ["1e1000000", "-1e999999999", "1e-1000000"])
def test_a_number_of_a_million_digits_is_refused_at_once(make: Make, price: str) -> None:
    """Writing its digits down would take the whole process minutes: it must not even begin."""
    with (
        SinkOpening(make()) as sink,
        pytest.raises(TargetError, match='"Price" got a value that is no decimal'),
    ):
        sink.upsert([row(1, price=Decimal(price))])
    assert [_CONVERT["integer"](value) for value in (Decimal("1e3"), 7)] == [1000, 7]
    with pytest.raises(ValueError, match="digits"):
        _CONVERT["integer"](Decimal(price))


def test_a_younger_attempt_takes_the_table(make: Make, tmp_path: Path) -> None:
    """Once the table was opened again, the older sink writes neither rows nor position nor watermark."""
    with SinkOpening(make()) as old:
        old.upsert([row(1)], position={"page": 1})
        with SinkOpening(make()) as young:
            assert young.position == {"page": 1}
            with pytest.raises(LostLeaseError, match="younger attempt"):
                old.upsert([row(2)], position={"page": 2})
            with pytest.raises(LostLeaseError):
                old.finish("2026")
            young.upsert([row(3)], position={"page": 3})
    assert [found[0] for found in rows_of(tmp_path)] == ["id-1", "id-3"]


def test_a_unit_that_fails_leaves_nothing(make: Make, tmp_path: Path) -> None:
    """A row without its key breaks the unit: no row of it stays, the position neither."""
    with SinkOpening(make()) as sink:
        sink.upsert([row(1)], position={"page": 1})
        with pytest.raises(TargetError) as caught:
            sink.upsert([row(2), {"Name": "no key"}], position={"page": 2})
        assert not caught.value.retryable
    with SinkOpening(make()) as sink:
        assert sink.position == {"page": 1}
    assert len(rows_of(tmp_path)) == 1


def test_another_jobs_table_is_refused(make: Make) -> None:
    """A table belongs to the job that made it; its own tables beside it do not matter."""
    with SinkOpening(make()):
        pass
    with pytest.raises(TargetError, match='table "products" belongs to job "products"') as caught:
        SinkOpening(make(job="customers")).__enter__()
    assert "table of its own" in caught.value.hint
    with SinkOpening(make(job="customers", table="customers")):
        pass


def test_renamed_job_takes_its_table_over(make: Make, tmp_path: Path) -> None:
    """A table of one of the job's former names is its own, with watermark; who still has the old name has lost it."""
    with SinkOpening(make()) as old, SinkOpening(make(job="goods", formerly=("wares", "products"))) as sink:
        sink.upsert([row(1)])
        sink.finish("2026-01-01T00:00:00Z")
        with pytest.raises(LostLeaseError):
            old.upsert([row(2)])
    with SinkOpening(make(job="goods")) as sink:
        assert sink.watermark == "2026-01-01T00:00:00Z"
    with pytest.raises(TargetError, match='belongs to job "goods"'):
        SinkOpening(make()).__enter__()
    assert len(rows_of(tmp_path)) == 1


def test_new_columns_are_added_and_everything_is_read_again(make: Make, tmp_path: Path) -> None:
    """A grown selection adds columns, forgets the watermark, and keeps what other columns hold."""
    with SinkOpening(make()) as sink:
        sink.upsert([row(1, "a")])
        sink.finish("2026")
    with SinkOpening(make(columns=(*COLUMNS, Column("Extra Name", "integer")))) as sink:
        assert sink.watermark is None
        sink.upsert([{**row(1, "a"), "Extra Name": 5}])
    assert rows_of(tmp_path) == [("id-1", "a", None, 5)]


def test_a_changed_type_or_key_is_an_error_with_the_remedy(make: Make) -> None:
    """Nothing is guessed where an existing column is of another type."""
    with SinkOpening(make()):
        pass
    with pytest.raises(
        TargetError, match='column "Name" of table "products" is TEXT, the rows need BIGINT'
    ) as caught:
        SinkOpening(make(columns=(COLUMNS[0], Column("Name", "integer")))).__enter__()
    assert "drop this one" in caught.value.hint
    with pytest.raises(TargetError, match=r'table "products" has the key \(id\)'):
        SinkOpening(make(key=("Name",))).__enter__()


def test_a_dropped_table_is_filled_from_the_beginning(make: Make, tmp_path: Path) -> None:
    """Where the table was dropped by hand, the watermark counts for nothing."""
    with SinkOpening(make()) as sink:
        sink.finish("2026")
    connection = sqlite3.connect(tmp_path / "acme.db")
    connection.execute("DROP TABLE products")
    connection.close()
    with SinkOpening(make()) as sink:
        assert sink.watermark is None


def test_a_changed_scope_begins_anew(make: Make) -> None:
    """Watermark and position hold for the query they were made with."""
    with SinkOpening(make()) as sink:
        sink.finish("2026")
        sink.upsert([row(1)], position={"page": 1})
    with SinkOpening(make(scope="q2")) as sink:
        assert (sink.watermark, sink.position) == (None, None)
    with SinkOpening(make(scope="q1")) as sink:
        assert (sink.watermark, sink.position) == (None, None)


def test_runs_that_move_nothing_write_rows_only(make: Make, tmp_path: Path) -> None:
    """A run with parameters writes rows, and leaves watermark, position and scope for the next ordinary run."""
    with SinkOpening(make()) as sink:
        sink.finish("2026")
        sink.upsert([row(1)], position={"page": 1})
    with SinkOpening(make(moves=False, scope="other")) as sink:
        sink.upsert([row(2)], position={"page": 9})
        sink.finish("2027")
    with SinkOpening(make()) as sink:
        assert (sink.watermark, sink.position) == ("2026", {"page": 1})
    assert len(rows_of(tmp_path)) == 2


def test_a_dry_run_creates_nothing(make: Make, tmp_path: Path) -> None:
    """Without a database a dry run counts what it would write and leaves no file behind."""
    with SinkOpening(make(dry_run=True, moves=False)) as sink:
        assert sink.upsert([row(1), row(2)], position={"page": 1}) == Written(2, 0)
        sink.finish("2026")
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_rolls_back(make: Make, tmp_path: Path) -> None:
    """With a database a dry run tells written from unchanged, changes nothing, and takes no fence."""
    with SinkOpening(make()) as real:
        real.upsert([row(1)], position={"page": 1})
        with SinkOpening(make(dry_run=True, moves=False, columns=(*COLUMNS, Column("Extra")))) as sink:
            assert sink.upsert([row(1), row(2)]) == Written(1, 1)
            sink.finish("2026")
        real.upsert([row(3)], position={"page": 2})
    assert [found[0] for found in rows_of(tmp_path)] == ["id-1", "id-3"]
    assert len(rows_of(tmp_path)[0]) == 3


def test_a_locked_database_is_retryable(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While somebody else holds the write lock the unit fails with a retryable error, and works afterwards."""
    monkeypatch.setattr("erpsync.plugins.sink.BUSY_SECONDS", 0.05)
    with SinkOpening(make()) as sink:
        other = sqlite3.connect(tmp_path / "acme.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(TargetError, match="database is locked") as caught:
            sink.upsert([row(1)])
        assert (caught.value.retryable, caught.value.hint) == (True, "does another program write to it?")
        other.execute("ROLLBACK")
        other.close()
        assert sink.upsert([row(1)]) == Written(1, 0)


def test_the_target_file_is_private_and_in_the_data_folder(make: Make, tmp_path: Path) -> None:
    """Relative files lie in the data folder, folders are made, nobody else can read them."""
    with SinkOpening(make(url="sqlite:///deep/er.db")):
        pass
    file = tmp_path / "deep" / "er.db"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700


@pytest.mark.parametrize(("url", "message"), [
    ("sqlite://", "names no file"),
    ("sqlite:///erpsync.db", "state database of erpsync itself"),
])  # fmt: skip
def test_unusable_targets_are_refused(make: Make, url: str, message: str) -> None:
    """A target that cannot work says why, before anything is written."""
    with pytest.raises(TargetError, match=message):
        SinkOpening(make(url=url)).__enter__()


def test_a_file_that_is_no_database_is_not_retryable(make: Make, tmp_path: Path) -> None:
    """A foreign file is reported with its name and left as it is."""
    (tmp_path / "acme.db").write_text("not a database, and long enough to be sure of it" * 20)
    with pytest.raises(TargetError, match=r"acme\.db: file is not a database") as caught:
        SinkOpening(make()).__enter__()
    assert not caught.value.retryable


@pytest.mark.parametrize("make_it", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to("/dev/null")])
def test_what_is_no_regular_file_is_refused(
    make: Make, tmp_path: Path, make_it: Callable[[Path], None]
) -> None:
    """A folder, a pipe, a device: told with the place and the remedy, and not tried again."""
    make_it(tmp_path / "acme.db")
    with pytest.raises(TargetError, match=f"{tmp_path}/acme.db is no regular file") as caught:
        SinkOpening(make()).__enter__()
    assert (caught.value.retryable, "another file" in caught.value.hint) == (False, True)


@pytest.mark.parametrize("without", [{"Id": None, "Name": "x"}, {"Name": "x"}])
def test_a_row_without_its_key_is_named(make: Make, tmp_path: Path, without: dict[str, object]) -> None:
    """Before the database meets it, and nothing of its unit is written."""
    with SinkOpening(make()) as sink, pytest.raises(TargetError, match='has no "Id"') as caught:
        sink.upsert([row(1), without])
    assert caught.value.hint
    assert rows_of(tmp_path) == []


def test_columns_must_be_distinct_and_hold_the_key(make: Make) -> None:
    """Column names that differ in case only, and keys that are no column, are refused."""
    with pytest.raises(TargetError, match='two attributes give the column "name"'):
        make(columns=(*COLUMNS, Column("NAME")))
    with pytest.raises(TargetError, match='key "Code" is not among the columns'):
        make(key=("Code",))


async def test_the_async_sink_works_in_its_own_thread(make: Make, tmp_path: Path) -> None:
    """An async plugin's sink does the same work while the loop goes on, and ends its thread."""
    before = set(threading.enumerate())
    async with SinkOpening(make()) as sink:
        written, _ = await asyncio.gather(sink.upsert([row(1)], position={"page": 1}), asyncio.sleep(0))
        assert written == Written(1, 0)
        await sink.finish("2026")
    async with SinkOpening(make()) as sink:
        assert (sink.watermark, sink.position) == ("2026", None)
    assert set(threading.enumerate()) <= before
    assert len(rows_of(tmp_path)) == 1


async def test_a_cancelled_unit_is_whole(make: Make, tmp_path: Path) -> None:
    """Cancelling the caller of a unit under way leaves all of it or nothing, and the connection is closed."""

    async def work() -> None:
        async with SinkOpening(make()) as sink:
            started.set()
            await sink.upsert([row(number) for number in range(5000)], position={"page": 1})

    started = asyncio.Event()
    task = asyncio.create_task(work())
    await started.wait()
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(rows_of(tmp_path)) in (0, 5000)
    assert not (tmp_path / "acme.db-wal").exists()


def test_an_integer_beyond_64_bits_is_named(make: Make, tmp_path: Path) -> None:
    """An integer that the database cannot hold is an error with table and column; nothing was written."""
    columns = (Column("Id", "guid"), Column("Size", "integer"))
    with SinkOpening(make(columns=columns)) as sink:
        with pytest.raises(TargetError, match='"Size" of table "products"') as caught:
            sink.upsert([{"Id": "a", "Size": 1}, {"Id": "b", "Size": 10**40}])
        assert (caught.value.retryable, bool(caught.value.hint)) == (False, True)
    assert rows_of(tmp_path) == []


@pytest.mark.parametrize("kept", ["{bad", "[1,2]"])
def test_a_position_that_cannot_be_read_is_none(make: Make, tmp_path: Path, kept: str) -> None:
    """A position that a hand has spoiled is none; the sink says that it was there."""
    with SinkOpening(make()) as sink:
        sink.upsert([], position={"next": "page2"})
    with sqlite3.connect(tmp_path / "acme.db") as connection:
        connection.execute("UPDATE _erpsync_cursor SET position = ?", [kept])
    connection.close()
    with SinkOpening(make()) as sink:
        assert (sink.position, sink.position_lost) == (None, True)


def test_a_target_below_a_file_is_refused(make: Make, tmp_path: Path) -> None:
    """Where the folder of the target is a file, the error names the target and the remedy."""
    (tmp_path / "sub").write_text("a file")
    with pytest.raises(TargetError, match="no file can be made there") as caught:
        make(url="sqlite:///sub/acme.db").open()
    assert caught.value.hint


def test_a_unit_is_durable_when_it_is_written(tmp_path: Path) -> None:
    """What a staged cursor has behind it must survive a power cut, as the cursor itself does."""
    engine = target_engine(Target(url="sqlite:///t.db", table="rows"), tmp_path, dry_run=False)
    with engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2  # FULL, sqlite.org/pragma.html
    engine.dispose()
