"""What mirror.py compares with: pages by httpx2, the standard library's json, SQLAlchemy's executemany upsert.

Usage: bare_mirror.py INSTANCE_URL DATABASE SELECT; prints the rows and the seconds.
"""

import json
import sys
import time

import httpx2
from sqlalchemy import Boolean, Column, MetaData, Table, Text, create_engine
from sqlalchemy.dialects.sqlite import insert

instance, database, select = sys.argv[1:]
begin = time.perf_counter()
engine = create_engine(f"sqlite:///{database}")
table = Table(
    "products",
    MetaData(),
    Column("Id", Text, primary_key=True),
    Column("PartNumber", Text),
    Column("Name", Text),
    Column("Active", Boolean),
    Column("Price", Text),
    Column("PriceCurrency", Text),
    Column("AggregateLastUpdateTimeUtc", Text),
)
table.create(engine)
statement = insert(table)
upsert = statement.on_conflict_do_update(
    index_elements=["Id"],
    set_={column.name: statement.excluded[column.name] for column in table.c if column.name != "Id"},
)
rows = 0
with httpx2.Client(timeout=30) as client:
    form = {
        "grant_type": "client_credentials",
        "client_id": "erpsync.sandbox/service",
        "client_secret": "sandbox-secret",
    }
    token = client.post(f"{instance}/id/connect/token", data=form).raise_for_status().json()["access_token"]
    client.headers["Authorization"] = f"Bearer {token}"
    link: str | None = f"{instance}/api/domain/odata/General_Products_Products?$top=1000&$select={select}"
    while link:
        page = json.loads(client.get(link).raise_for_status().content)
        values = [
            {
                "Id": row["Id"],
                "PartNumber": row["PartNumber"],
                "Name": json.dumps(row["Name"]),
                "Active": row["Active"],
                "Price": price and str(price["Value"]),
                "PriceCurrency": price and price["Currency"],
                "AggregateLastUpdateTimeUtc": row["AggregateLastUpdateTimeUtc"],
            }
            for row in page["value"]
            for price in [row["StandardPricePerLot"]]
        ]
        with engine.begin() as connection:
            connection.execute(upsert, values)
        rows += len(values)
        link = page.get("@odata.nextLink")
print(rows, time.perf_counter() - begin)
