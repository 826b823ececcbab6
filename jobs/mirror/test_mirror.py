"""Mirroring from a sandbox into SQLite."""

import json
import signal
import sqlite3
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from erpsync import RejectedError
from erpsync.jobs.mirror.model import read_model
from erpsync.jobs.mirror.plugin import mirror
from erpsync.plugins.settings import validate_settings
from erpsync.sandbox.server import Sandbox
from erpsync.testing.run import RunOutcome

PRODUCTS = "General_Products_Products"
PATH = f"/api/domain/odata/{PRODUCTS}"
SELECT = (
    "Id",
    "PartNumber",
    "Name",
    "Active",
    "StandardPricePerLot",
    "ProductGroup",
    "AggregateLastUpdateTimeUtc",
)
SETTINGS = {
    "entity": PRODUCTS,
    "target": {"url": "sqlite:///m.db", "table": "products"},
    "select": SELECT,
    "page_size": 100,
}
RunJob = Callable[..., RunOutcome]


def expected(sandbox: Sandbox) -> dict[str, tuple[Any, ...]]:
    """The products as the sandbox holds them, in the form of the table."""
    found = {}
    for row in sandbox.read(PRODUCTS, *SELECT):
        price = row["StandardPricePerLot"] or {"Value": None, "Currency": None}
        found[row["Id"]] = (
            row["PartNumber"],
            row["Name"],
            row["Active"],
            None if price["Value"] is None else Decimal(str(price["Value"])),
            price["Currency"],
            row["ProductGroup"]["@odata.id"],
            row["AggregateLastUpdateTimeUtc"],
        )
    return found


def mirrored(outcome: RunOutcome) -> dict[str, tuple[Any, ...]]:
    """The table, read back; fails where an id is there twice."""
    sql = (
        "SELECT Id, PartNumber, Name, Active, StandardPricePerLot, StandardPricePerLot_Currency, ProductGroup,"
        " AggregateLastUpdateTimeUtc FROM products"
    )
    rows = outcome.rows("m.db", sql)
    found = {
        key: (
            number,
            json.loads(name),
            bool(active),
            price and Decimal(price),
            currency,
            f"General_Products_ProductGroups({group})",
            changed,
        )
        for key, number, name, active, price, currency, group, changed in rows
    }
    assert len(found) == len(rows)
    return found


def requests_for_pages(sandbox: Sandbox, work: Callable[[], object]) -> int:
    before = sandbox.stats()["api_requests"]
    work()
    return int(sandbox.stats()["api_requests"] - before)


def test_every_row_arrives_exactly_once(run_job: RunJob, sandbox: Sandbox) -> None:
    """The first run brings all rows with their values, and the watermark is the youngest change seen."""
    outcome = run_job(mirror, SETTINGS)
    assert outcome.outcome == "succeeded", outcome.error
    assert mirrored(outcome) == expected(sandbox)
    assert (outcome.counts.read, outcome.counts.written) == (1250, 1250)
    youngest = max(row[-1] for row in expected(sandbox).values())
    assert outcome.cursor == youngest.replace(".000Z", "Z")


def test_the_next_run_reads_what_changed(run_job: RunJob, sandbox: Sandbox) -> None:
    """Only rows changed since the watermark, less the overlap, are read; those already there are unchanged."""
    run_job(mirror, SETTINGS)
    again = run_job(mirror, SETTINGS)
    assert again.counts.read == again.counts.unchanged < 100
    sandbox.touch(PRODUCTS, count=3)
    third = run_job(mirror, SETTINGS)
    assert (third.counts.written, third.counts.read) == (3, again.counts.read + 3)
    assert mirrored(third) == expected(sandbox)


def test_a_window_reads_what_changed_in_it(run_job: RunJob, sandbox: Sandbox) -> None:
    """With a window the rows that changed in it are read, its end too; watermark and cursor stay."""
    first = run_job(mirror, SETTINGS)
    changes = sorted(datetime.fromisoformat(row[-1]) for row in expected(sandbox).values())
    window = (changes[10], changes[40])
    again = run_job(mirror, SETTINGS, window=window)
    assert again.error is None, again.error
    assert again.counts.read == sum(window[0] <= change <= window[1] for change in changes)
    assert again.cursor is None
    marks = "SELECT watermark, position FROM _erpsync_cursor"
    assert again.rows("m.db", marks) == [(first.cursor, None)]


def test_a_set_without_change_times_has_no_windows(run_job: RunJob) -> None:
    """Where rows do not tell when they changed, a window is refused rather than ignored."""
    settings = {**SETTINGS, "incremental": False}
    outcome = run_job(
        mirror, settings, window=(datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 2, 1, tzinfo=UTC))
    )
    assert outcome.error is not None
    assert "no windows" in outcome.error.message


def test_a_server_that_truncates_instants_costs_rows_read_not_rows_lost(
    run_job: RunJob, sandbox: Sandbox
) -> None:
    """Where the filter looks at dates only, more rows are read again, and the copy is as exact."""
    sandbox.behave(date_time_filter="truncate")
    run_job(mirror, SETTINGS)
    sandbox.touch(PRODUCTS, count=2)
    outcome = run_job(mirror, SETTINGS)
    assert outcome.counts.written == 2
    assert mirrored(outcome) == expected(sandbox)


def test_without_a_selection_the_default_attributes_come(run_job: RunJob, sandbox: Sandbox) -> None:
    """The table has what the server gives by default, amounts and quantities as two columns."""
    settings = {"entity": PRODUCTS, "target": SETTINGS["target"]}
    outcome = run_job(mirror, settings)
    names = [column[1] for column in outcome.rows("m.db", "PRAGMA table_info(products)")]
    assert {"Id", "StandardLotSizeBase", "StandardLotSizeBase_Unit", "ProductGroup", "Name"} <= set(names)
    assert "ExternalId" not in names
    assert len(outcome.rows("m.db", "SELECT Id FROM products")) == sandbox.rows(PRODUCTS)


def test_a_set_that_does_not_tell_its_changes_is_read_in_full(run_job: RunJob, sandbox: Sandbox) -> None:
    """Child rows have no update time: each run reads all of them, and says why."""
    settings = {
        "entity": "Crm_Sales_SalesOrderLines",
        "target": {"url": "sqlite:///m.db", "table": "lines"},
    }
    for _ in range(2):
        outcome = run_job(mirror, settings)
        assert outcome.counts.read == sandbox.rows("Crm_Sales_SalesOrderLines") > 0
        assert "mirror.not_incremental" in [line.event for line in outcome.logs]
        assert outcome.cursor is None
    assert outcome.counts.unchanged == outcome.counts.read


def test_an_empty_result_is_fine(run_job: RunJob) -> None:
    """Where no row meets the condition, the table is there and empty, and no watermark is known."""
    outcome = run_job(mirror, {**SETTINGS, "filter": "PartNumber in ('no such number')"})
    assert (outcome.outcome, outcome.counts.read, outcome.cursor) == ("succeeded", 0, None)
    assert outcome.rows("m.db", "SELECT count(*) FROM products") == [(0,)]


def test_a_failed_run_is_resumed_at_its_page(run_job: RunJob, sandbox: Sandbox) -> None:
    """After a refusal in the middle the watermark stays; the next run goes on where it stopped and ends exactly."""
    sandbox.fail(
        path=PATH, method="GET", after=7, times=1, status=500, error={"message": "R12345 no", "code": 2029}
    )
    failed = run_job(mirror, SETTINGS)
    assert (failed.outcome, failed.cursor) == ("failed", None)
    ((watermark, position),) = failed.rows("m.db", "SELECT watermark, position FROM _erpsync_cursor")
    assert watermark is None
    assert json.loads(position)["next"].startswith(sandbox.url)
    sandbox.clear_faults()
    resumed = run_job(mirror, SETTINGS)
    assert resumed.outcome == "succeeded"
    assert resumed.counts.read == 1250 - failed.counts.read
    assert mirrored(resumed) == expected(sandbox)
    assert resumed.rows("m.db", "SELECT position FROM _erpsync_cursor") == [(None,)]


@pytest.mark.parametrize(
    ("times", "answer"),
    [
        (1, {"status": 400, "error": {"message": "no such token", "code": 0}}),
        (4, {"status": 500, "raw": "oops", "headers": {"retry-after": "0"}}),
    ],
)
def test_a_link_that_is_refused_means_from_the_beginning(
    run_job: RunJob, sandbox: Sandbox, times: int, answer: dict[str, Any]
) -> None:
    """Where the saved link is refused, in words or by a bare fault, the pull begins again and ends exactly."""
    sandbox.fail(
        path=PATH, method="GET", after=7, times=1, status=500, error={"message": "R12345 no", "code": 2029}
    )
    run_job(mirror, SETTINGS)
    sandbox.clear_faults()
    sandbox.fail(
        path=f"{PATH}*skiptoken*", times=1, status=400, error={"message": "no such token", "code": 0}
    )
    outcome = run_job(mirror, SETTINGS)
    assert (outcome.outcome, outcome.counts.read) == ("succeeded", 1250)
    assert "mirror.restarted" in [line.event for line in outcome.logs]
    assert mirrored(outcome) == expected(sandbox)


def test_a_changed_query_is_not_resumed(run_job: RunJob, sandbox: Sandbox) -> None:
    """A position belongs to the query it was made with; another selection reads everything."""
    run_job(mirror, SETTINGS)
    grown = {**SETTINGS, "select": (*SELECT, "ABCClass")}
    outcome = run_job(mirror, grown)
    assert outcome.counts.read == 1250
    assert outcome.rows("m.db", "SELECT count(*) FROM products WHERE ABCClass IS NOT NULL")[0][0] > 1000


def test_a_stop_at_a_checkpoint_keeps_the_position(run_job: RunJob, sandbox: Sandbox) -> None:
    """Asked to stop, the run ends after a whole page, and the next one goes on."""
    asked = iter([False, False, True, True, True])
    stopped = run_job(mirror, SETTINGS, stop=lambda: next(asked, True))
    assert stopped.outcome is None
    assert stopped.counts.read == 300
    assert run_job(mirror, SETTINGS).counts.read == 950


def test_blips_are_survived(run_job: RunJob, sandbox: Sandbox) -> None:
    """A refused token, a broken connection and a page cut short cost requests, not rows."""
    sandbox.fail(where="api", path=PATH, after=2, times=1, status=401)
    sandbox.fail(where="api", path=PATH, after=4, times=1, pass_=True, truncate=2000)
    sandbox.fail(where="api", path=PATH, after=6, times=1, reset=True)
    outcome = run_job(mirror, SETTINGS)
    assert outcome.outcome == "succeeded", outcome.error
    assert mirrored(outcome) == expected(sandbox)


def test_the_watermark_is_never_younger_than_the_first_request(run_job: RunJob, sandbox: Sandbox) -> None:
    """Rows changed while later pages are read would be lost if their times moved the watermark."""
    sandbox.skew(7200)
    sandbox.touch(PRODUCTS, count=2)
    before = datetime.now(UTC)
    outcome = run_job(mirror, SETTINGS)
    assert outcome.cursor is not None
    watermark = datetime.fromisoformat(outcome.cursor)
    assert before <= watermark <= datetime.now(UTC)
    assert max(datetime.fromisoformat(row[-1]) for row in mirrored(outcome).values()) > watermark + timedelta(
        hours=1
    )


@pytest.mark.parametrize(
    ("column", "found", "event"),
    [
        ("position", "{bad", "mirror.position_lost"),
        ("position", "[1,2]", "mirror.position_lost"),
        ("position", '{"next": 1}', "mirror.position_lost"),
        ("watermark", "x", "mirror.watermark_lost"),
        ("watermark", "2026-01-01", "mirror.watermark_lost"),
    ],
)
def test_a_state_that_a_hand_has_spoiled_is_none(
    run_job: RunJob, sandbox: Sandbox, tmp_path: Path, column: str, found: str, event: str
) -> None:
    """A position or watermark that cannot be read counts for nothing: the run says so and ends exactly."""
    run_job(mirror, SETTINGS)
    with sqlite3.connect(tmp_path / "data" / "m.db") as connection:
        connection.execute(f"UPDATE _erpsync_cursor SET {column} = ?", [found])
    connection.close()
    outcome = run_job(mirror, SETTINGS)
    assert outcome.outcome == "succeeded", outcome.error
    assert [line.event for line in outcome.logs if line.level == "warning"] == [event]
    assert (outcome.counts.read == 1250) is (column == "watermark")
    assert mirrored(outcome) == expected(sandbox)
    assert outcome.rows("m.db", "SELECT position FROM _erpsync_cursor") == [(None,)]


@pytest.mark.parametrize("instant", ["yesterday", "2026-01-01T00:00:00", 5])
def test_a_time_of_change_that_is_none_is_named(run_job: RunJob, sandbox: Sandbox, instant: object) -> None:
    """A row whose time of change cannot be read ends the run with entity, attribute and row."""
    page = json.dumps({"value": [{"Id": "row-1", "AggregateLastUpdateTimeUtc": instant}]})
    sandbox.fail(path=PATH, times=-1, status=200, raw=page, headers={"content-type": "application/json"})
    error = run_job(mirror, SETTINGS).error
    assert error is not None
    assert (error.type, error.retryable, bool(error.hint)) == ("JobFailedError", False, True)
    assert error.message == f"{PRODUCTS}: AggregateLastUpdateTimeUtc of the row row-1 is no instant"


@pytest.mark.parametrize("row", [{"Id": None}, {}])
def test_a_row_without_its_key_is_named(run_job: RunJob, sandbox: Sandbox, row: dict[str, object]) -> None:
    """With entity and attribute, before the database meets it."""
    page = json.dumps({"value": [row | {"AggregateLastUpdateTimeUtc": "2026-01-01T00:00:00Z"}]})
    sandbox.fail(path=PATH, times=-1, status=200, raw=page, headers={"content-type": "application/json"})
    error = run_job(mirror, SETTINGS).error
    assert error is not None
    assert (error.type, error.retryable, bool(error.hint)) == ("JobFailedError", False, True)
    assert error.message == f"{PRODUCTS}: a row has no Id, by which rows are told apart"


def test_a_model_that_is_none_is_named(run_job: RunJob, sandbox: Sandbox) -> None:
    """$metadata that is broken ends the run with an error that names it and has a hint."""
    xml = {"content-type": "application/xml"}
    sandbox.fail(path="*$metadata", times=-1, status=200, raw="<edmx:Edmx", headers=xml)
    error = run_job(mirror, SETTINGS).error
    assert error is not None
    assert (error.type, bool(error.hint)) == ("RejectedError", True)
    assert "$metadata of the instance is no well-formed XML" in error.message


def test_types_that_are_missing_or_inherit_from_themselves_are_named() -> None:
    """A model that leads nowhere or in circles is an error, not a search without end."""
    schema = """<Schema Namespace="E" xmlns="http://docs.oasis-open.org/odata/ns/edm">
      <EntityType Name="A" BaseType="E.B"/><EntityType Name="B" BaseType="E.A"/>
      <EntityContainer Name="C"><EntitySet Name="As" EntityType="E.A"/><EntitySet Name="Zs" EntityType="E.Z"/>
      </EntityContainer></Schema>"""
    model = read_model(schema.encode())
    with pytest.raises(RejectedError, match="inherits from itself"):
        model.entity("As")
    with pytest.raises(RejectedError, match=r'Zs needs the type "E\.Z"'):
        model.entity("Zs")


def test_a_dry_run_writes_nothing(run_job: RunJob, tmp_path: Path) -> None:
    """A dry run reads and counts; there is no file afterwards, and no cursor."""
    outcome = run_job(mirror, SETTINGS, dry_run=True)
    assert (outcome.counts.read, outcome.counts.written, outcome.cursor) == (1250, 1250, None)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(("changes", "message"), [
    ({"entity": PRODUCTS[:-1]}, f'"entity" names an unknown entity set, {PRODUCTS[:-1]}; did you mean {PRODUCTS}?'),
    ({"select": ("Id", "PartNumbr")}, '"select" names an unknown attribute, PartNumbr; did you mean PartNumber?'),
    ({"key": "PartyId"}, '"key" names no attribute of General_Products_Products; its own key is Id'),
])  # fmt: skip
def test_names_that_do_not_exist_are_told_before_anything_is_made(
    run_job: RunJob, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    """A wrong name ends the run with the setting, the name and the nearest right one."""
    outcome = run_job(mirror, {**SETTINGS, **changes})
    assert (outcome.outcome, outcome.error and outcome.error.type) == ("failed", "ConfigProblem")
    assert outcome.error is not None
    assert outcome.error.message == message
    assert not (tmp_path / "data").exists()


_CHILD = """
import json, sys
from pathlib import Path
from erpsync.jobs.mirror.plugin import mirror
from erpsync.testing.run import run_job
url, data, settings = sys.argv[1:]
run_job(mirror, json.loads(settings), sandbox=url, data=Path(data))
"""


def test_kill_9_in_the_middle_costs_and_doubles_nothing(
    run_job: RunJob, sandbox: Sandbox, tmp_path: Path
) -> None:
    """A process killed between pages leaves whole pages; the next run ends with exactly the rows of the API."""
    data = tmp_path / "data"
    sandbox.fail(path=PATH, times=-1, pass_=True, delay_ms=20)
    child = subprocess.Popen([sys.executable, "-c", _CHILD, sandbox.url, str(data), json.dumps(SETTINGS)])
    try:
        _wait_for_position(data / "m.db", child)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    sandbox.clear_faults()
    sandbox.touch(PRODUCTS, count=5)
    outcome = run_job(mirror, SETTINGS)
    assert 0 < outcome.counts.read < 1250
    final = run_job(mirror, SETTINGS)
    assert mirrored(final) == expected(sandbox)


def _wait_for_position(database: Path, child: "subprocess.Popen[bytes]") -> None:
    """Until the child has written a page and is not done; a deadline of 20 s."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        assert child.poll() is None, "the mirror ended before it could be killed"
        try:
            connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True)
            found = connection.execute(
                "SELECT position FROM _erpsync_cursor WHERE position NOT NULL"
            ).fetchall()
            connection.close()
        except sqlite3.OperationalError:
            found = []
        if found:
            return
        time.sleep(0.005)
    raise AssertionError("no page was written in time")


def test_the_model_is_read_with_what_types_inherit() -> None:
    """Derived types have the attributes, references and key of their bases; enumerations are text."""
    document = b"""<edmx:Edmx xmlns:edmx="http://docs.oasis-open.org/odata/ns/edmx" Version="4.0"><edmx:DataServices>
    <Schema Namespace="Erp" xmlns="http://docs.oasis-open.org/odata/ns/edm">
      <EnumType Name="State"><Member Name="New" Value="0"/></EnumType>
      <EntityType Name="Base"><Key><PropertyRef Name="Id"/></Key><Property Name="Id" Type="Edm.Guid"/>
        <NavigationProperty Name="Owner" Type="Erp.Base"/>
        <NavigationProperty Name="Lines" Type="Collection(Erp.Base)"/>
      </EntityType>
      <EntityType Name="Order" BaseType="Erp.Base"><Property Name="State" Type="Erp.State"/>
        <Property Name="Size" Type="Erp.Quantity"/><Property Name="Tags" Type="Collection(Edm.String)"/>
        <Property Name="Count" Type="Edm.Int64"/></EntityType>
      <EntityContainer Name="C"><EntitySet Name="Orders" EntityType="Erp.Order"/></EntityContainer>
    </Schema></edmx:DataServices></edmx:Edmx>"""
    model = read_model(document)
    entity = model.entity("Orders")
    assert (entity.key, entity.references) == (("Id",), ("Owner",))
    columns = [
        column
        for name in ("Id", "Owner", "State", "Size", "Tags", "Count")
        for column in model.columns(entity, name)
    ]
    assert [(column.name, column.kind) for column in columns] == [
        ("Id", "guid"),
        ("Owner", "reference"),
        ("State", "text"),
        ("Size", "decimal"),
        ("Size_Unit", "text"),
        ("Tags", "json"),
        ("Count", "integer"),
    ]


def test_the_example_is_valid() -> None:
    """Every job of example.toml has settings that the plugin takes."""
    document = tomllib.loads((Path(__file__).parent / "example.toml").read_text())
    jobs = [job for job in document["jobs"].values() if job["plugin"] == "mirror"]
    assert jobs
    for job in jobs:
        validate_settings(mirror, job["with"], None)
