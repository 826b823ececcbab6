"""The data with which a sandbox starts, with Cyrillic and Latin names; always the same for as many products."""

import random
import re
from collections.abc import Iterable, Iterator
from datetime import date, timedelta
from functools import lru_cache
from typing import Any, Final

from erpsync.sandbox.data import Database, Row
from erpsync.sandbox.guid import from_sort_key
from erpsync.sandbox.model import RELEASED, SETS, Attribute

_DAYS: Final = tuple((date(2025, 1, 1) + timedelta(days=day)).isoformat() for day in range(365))
"""Every row was last changed on one of these days: long before any test begins."""
_ORDERS: Final = 240
_COPIED: Final = 5000

_ADJECTIVES: Final = (
    ("Steel", "Стоманен"), ("Brass", "Месингов"), ("Black", "Черен"), ("Long", "Дълъг"), ("Short", "Къс"),
    ("Sealed", "Уплътнен"), ("Light", "Лек"), ("Heavy", "Тежък"), ("Round", "Кръгъл"),
)  # fmt: skip
_NOUNS: Final = (
    ("bolt", "болт"), ("nail", "пирон"), ("clamp", "захват"), ("handle", "държач"), ("switch", "ключ"),
    ("cable", "кабел"), ("hammer", "чук"), ("valve", "вентил"), ("bucket", "съд"),
    ("profile", "профил"), ("filter", "филтър"),
)  # fmt: skip
_TOWNS: Final = (
    ("Sofia", "София"),
    ("Plovdiv", "Пловдив"),
    ("Varna", "Варна"),
    ("Ruse", "Русе"),
    ("Vidin", "Видин"),
)
_TRADES: Final = (
    ("Foods", "Храни"),
    ("Build", "Строй"),
    ("Textile", "Текстил"),
    ("Pharm", "Фарма"),
    ("Auto", "Ауто"),
)


_MASTERS: Final = """
General_Currencies_Currencies CurrencySign Name IsActive ShowOrder
    BGN | Български лев | 1 | 1
    EUR | Euro | 1 | 2
    GBP | Pound sterling | 1 | 3
    USD | US dollar | 1 | 4
General_Products_MeasurementCategories Name IsDefault
    Pieces = Бройки | 1
General_Products_MeasurementUnits Code Name Multiplier Divisor IsDefaultUnit MeasurementCategory
    pcs | Piece = Брой | 1 | 1 | 1 | 0
    box | Box = Кутия | 1 | 1 | 0 | 0
    kg | Kilogram = Килограм | 1 | 1 | 0 | 0
General_Products_ProductGroups Code Name Active FullPath
    FAST | Fasteners = Крепежни елементи | 1 | /FAST/
    TOOL | Tools = Инструменти | 1 | /TOOL/
    PAINT | Paints = Бои | 1 | /PAINT/
    ELEC | Electrical = Електро | 1 | /ELEC/
    PLUMB | Plumbing = ВиК | 1 | /PLUMB/
    GARD | Garden = Градина | 1 | /GARD/
Systems_Documents_DocumentTypes Code TypeName EntityName CreateManully
    CRM_SALES_ORDER | Sales order = Поръчка | Crm_Sales_Orders | 1
    CRM_INVOICE | Invoice = Фактура | Crm_Invoicing_Invoices | 1
General_Contacts_CompanyLocations PartyCode LocationName IsActive Company
    L00001 | Sofia = София | 1 | 0
    L00002 | Plovdiv = Пловдив | 1 | 0
    L00003 | Varna = Варна | 1 | 0
General_EnterpriseCompanies IsActive DefaultCostingMethod Company BaseCurrency
    1 | 2 | 0 | 1
Logistics_Inventory_Stores Code Name IsActive EnterpriseCompany Currency
    ST1 | Store Sofia = Склад София | 1 | 0 | 1
    ST2 | Store Plovdiv = Склад Пловдив | 1 | 0 | 1
    ST3 | Store Varna = Склад Варна | 1 | 0 | 1
    ST4 | Store Ruse = Склад Русе | 1 | 0 | 1
Crm_SalesForce_SalesPersons Code Name IsActive
    SP1 | Desk 1 = Гише 1 | 1
    SP2 | Desk 2 = Гише 2 | 1
Systems_Security_Users Login Name Email Active UserType
    admin | Administrator = Администратор | admin@sandbox.example | 1 | 0
    clerk | Clerk = Служител | clerk@sandbox.example | 1 | 0
    SYSTEM_APPLICATION_USER | System = Система | system@sandbox.example | 1 | 0
"""
"""Sets with their columns, and below each its rows; a reference is the number of a row, from 0."""


def seed(database: Database, products: int) -> None:
    """Fills an empty database with `products` products and a few thousand rows around them."""
    if products <= _COPIED:
        _template(products).copy_to(database)
    else:
        _fill(database, products)


@lru_cache(maxsize=4)
def _template(products: int) -> Database:
    """A small database is made once in a process and copied from then on: tests start many sandboxes."""
    database = Database()
    _fill(database, products)
    return database


def _fill(database: Database, products: int) -> None:
    with database.unit():
        _Seeder(database).run(products)


def _ml(english: str, bulgarian: str) -> str:
    return f'{{"EN":"{english}","BG":"{bulgarian}"}}'


def _moment(seconds: int) -> str:
    day, rest = divmod(seconds, 86_400)
    return f"{_DAYS[day % len(_DAYS)]}T{rest // 3600:02d}:{rest // 60 % 60:02d}:{rest % 60:02d}.000Z"


def _sort_keys(name: str, count: int) -> list[str]:
    """Sorted, so that the tables are filled at their end; the same in every sandbox."""
    numbers = random.Random(name)  # noqa: S311 - reproducible ids, no secrets
    return sorted(f"{numbers.getrandbits(128):032x}" for _ in range(count))


def _scattered(count: int) -> Iterator[int]:
    """0 … count-1, each once, in an order that has nothing to do with the ids."""
    step = next(prime for prime in (611_953, 7_919, 31) if count % prime)
    return ((number * step) % count for number in range(count))


class _Seeder:
    """Writes set after set; the ids of what was written are the references of what follows."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._ids: dict[str, list[str]] = {}

    def run(self, products: int) -> None:
        self._companies()
        self._masters()
        self._customers()
        self._rows("General_Products_Products", products, self._products(products))
        self._stock()
        self._orders()
        self._invoices()

    def _rows(self, name: str, count: int, rows: Iterable[Row]) -> None:
        """Writes `count` rows; ids and the version are added here."""
        columns = SETS[name].columns
        keys = _sort_keys(name, count)
        ids = self._ids[name] = [from_sort_key(key) for key in keys]

        def tuples() -> Iterator[tuple[Any, ...]]:
            for key, row_id, row in zip(keys, ids, rows, strict=True):
                row.update(sort=key, id=row_id, ObjectVersion=1)
                yield tuple(map(row.get, columns))

        self._database.insert_all(name, tuples())

    def _pick(self, set_name: str, number: int) -> str:
        ids = self._ids[set_name]
        return ids[number % len(ids)]

    def _masters(self) -> None:
        for block in re.split(r"\n(?=\w)", _MASTERS.strip()):
            head, *lines = block.splitlines()
            name, *columns = head.split()
            attributes = [SETS[name].attributes[column] for column in columns]
            rows = [self._master(attributes, line.split("|")) for line in lines]
            self._rows(name, len(rows), rows)

    def _master(self, attributes: list[Attribute], cells: list[str]) -> Row:
        row: Row = {"AggregateLastUpdateTimeUtc": _moment(0)}
        for attribute, cell in zip(attributes, map(str.strip, cells), strict=True):
            match attribute.kind:
                case "ml":
                    row[attribute.name] = _ml(*cell.split(" = "))
                case "ref":
                    row[attribute.name] = self._pick(attribute.target, int(cell))
                case "bool" | "int" | "enum":
                    row[attribute.name] = int(cell)
                case _:
                    row[attribute.name] = cell
        return row

    def _companies(self) -> None:
        self._rows(
            "General_Contacts_Companies",
            120,
            (
                {
                    "PartyCode": f"P{number:05d}",
                    "Name": _ml(f"{town[0]} {trade[0]} {number} Ltd", f"{town[1]} {trade[1]} {number} ООД"),
                    "IsActive": 1,
                    "RegistrationNumber": f"{200_000_000 + number}",
                    "RegistrationVATNumber": f"BG{200_000_000 + number}",
                    "IsVATRegistered": 1,
                    "City": _ml(*town),
                    "AggregateLastUpdateTimeUtc": _moment(number * 3600),
                }
                for number in range(120)
                for town, trade in [(_TOWNS[number % 5], _TRADES[number // 5 % 5])]
            ),
        )

    def _customers(self) -> None:
        company = self._pick("General_EnterpriseCompanies", 0)
        euro = self._pick("General_Currencies_Currencies", 1)
        self._rows(
            "Crm_Sales_Customers",
            120,
            (
                {
                    "Number": f"CST{number:04d}",
                    "Active": int(number % 10 != 0),
                    "CreditLimit": f"{1000 + number * 25}.00",
                    "CreditLimit.Currency": "EUR",
                    "DefaultPaymentTermDays": (7, 14, 30)[number % 3],
                    "FromDate": _DAYS[number],
                    "CreationTime": _moment(number * 600),
                    "UpdateTime": _moment(number * 7200),
                    "CreationUser": "admin",
                    "Party": self._pick("General_Contacts_Companies", number),
                    "EnterpriseCompany": company,
                    "DefaultCurrency": euro,
                    "SalesPerson": self._pick("Crm_SalesForce_SalesPersons", number),
                    "AggregateLastUpdateTimeUtc": _moment(number * 7200),
                }
                for number in range(120)
            ),
        )

    def _products(self, count: int) -> Iterator[Row]:
        """Four at a time share their last update; one in seven has no price."""
        groups, units = (
            self._ids[name]
            for name in ("General_Products_ProductGroups", "General_Products_MeasurementUnits")
        )
        category = self._pick("General_Products_MeasurementCategories", 0)
        euro, company = (
            self._ids["General_Currencies_Currencies"][1],
            self._pick("General_EnterpriseCompanies", 0),
        )
        for number in _scattered(count):
            first, second = _ADJECTIVES[number % 9], _NOUNS[number // 9 % 11]
            updated = _moment(number // 4 * 100_003 % 31_536_000)
            row: Row = {
                "PartNumber": f"PRD-{number + 1:06d}",
                "Name": f'{{"EN":"{first[0]} {second[0]} {number + 1}","BG":"{first[1]} {second[1]} {number + 1}"}}',
                "Active": int(number % 20 != 0),
                "ABCClass": number % 3,
                "StandardLotSizeBase": "1",
                "StandardLotSizeBase.Unit": "pcs",
                "IsSerialized": 0,
                "ShowInCatalog": number % 2,
                "CreationTime": _moment(number % 86_400),
                "UpdateTime": updated,
                "ProductGroup": groups[number % len(groups)],
                "MeasurementUnit": units[number % len(units)],
                "BaseMeasurementCategory": category,
                "CostingCurrency": euro,
                "EnterpriseCompany": company,
                "AggregateLastUpdateTimeUtc": updated,
            }
            if number % 7:
                row["StandardPricePerLot"] = f"{number % 900 + 1}.{number % 100:02d}"
                row["StandardPricePerLot.Currency"] = "EUR"
            yield row

    def _stock(self) -> None:
        company = self._pick("General_EnterpriseCompanies", 0)
        count = min(500, len(self._ids["General_Products_Products"]))
        self._rows(
            "Crm_Pricing_ProductPrices",
            count,
            (
                {
                    "Price": f"{number % 300 + 2}.{number % 10}0",
                    "Price.Currency": "EUR",
                    "Priority": 1,
                    "IsActive": 1,
                    "Product": self._pick("General_Products_Products", number),
                    "Currency": self._pick("General_Currencies_Currencies", 1),
                    "EnterpriseCompany": company,
                    "AggregateLastUpdateTimeUtc": _moment(number * 61),
                }
                for number in range(count)
            ),
        )
        self._rows(
            "Logistics_Inventory_CurrentBalances",
            count,
            (
                {
                    "QuantityBase": f"{number * 3 % 70}.000",
                    "QuantityBase.Unit": "pcs",
                    "BaseCost": f"{number * 11 % 5000}.00",
                    "BaseCost.Currency": "EUR",
                    "Product": self._pick("General_Products_Products", number),
                    "Store": self._pick("Logistics_Inventory_Stores", number),
                    "EnterpriseCompany": company,
                }
                for number in range(count)
            ),
        )

    def _document(self, number: int, prefix: str, document_type: int, entity: str) -> Row:
        moment = _moment(number * 86_400 // 2)
        state = (0, 10, 30, 30, 40, 50)[number % 6]
        return {
            "DocumentNo": f"{prefix}{number + 1:08d}",
            "DocumentDate": _DAYS[number % 300],
            "State": state,
            "Void": int(number % 40 == 39),
            "CreationTime": moment,
            "ReleaseTime": moment if state >= RELEASED else None,
            "ReadOnly": int(state >= RELEASED),
            "EntityName": entity,
            "DocumentType": self._pick("Systems_Documents_DocumentTypes", document_type),
            "EnterpriseCompany": self._pick("General_EnterpriseCompanies", 0),
            "EnterpriseCompanyLocation": self._pick("General_Contacts_CompanyLocations", number),
            "DocumentCurrency": self._pick("General_Currencies_Currencies", 1),
            "Customer": self._pick("Crm_Sales_Customers", number),
            "AggregateLastUpdateTimeUtc": moment,
        }

    def _line(self, document: int, number: int) -> Row:
        quantity, price = document % 9 + number, document * 13 % 400 + number
        return {
            "LineNo": number * 10,
            "Quantity": f"{quantity}.000",
            "Quantity.Unit": "pcs",
            "UnitPrice": f"{price}.50",
            "UnitPrice.Currency": "EUR",
            "LineAmount": f"{quantity * (price * 100 + 50) / 100:.2f}",
            "LineAmount.Currency": "EUR",
            "Product": self._pick("General_Products_Products", document * 3 + number),
        }

    def _orders(self) -> None:
        """Three lines an order; the first order has no store of its own while its lines come from different ones."""
        counts = range(_ORDERS)
        stores = "Logistics_Inventory_Stores"
        lines = [[self._line(number, place) for place in (1, 2, 3)] for number in counts]
        self._rows(
            "Crm_Sales_SalesOrders",
            _ORDERS,
            (
                self._document(number, "SO", 0, "Crm_Sales_Orders")
                | {
                    "CustomerPurchaseOrderNo": f"PO-{number}",
                    "Store": self._pick(stores, number) if number else None,
                    "TotalLineAmount": f"{sum(float(line['LineAmount']) for line in lines[number]):.2f}",
                    "TotalLineAmount.Currency": "EUR",
                }
                for number in counts
            ),
        )
        self._rows(
            "Crm_Sales_SalesOrderLines",
            _ORDERS * 3,
            (
                line
                | {
                    "SalesOrder": self._pick("Crm_Sales_SalesOrders", number),
                    "ProductDescription": _ml("Line", "Ред"),
                    "QuantityUnit": self._pick("General_Products_MeasurementUnits", 0),
                    "LineStore": self._pick(stores, place if number == 0 else number),
                }
                for number in counts
                for place, line in enumerate(lines[number])
            ),
        )

    def _invoices(self) -> None:
        counts = range(_ORDERS // 4)
        self._rows(
            "Crm_Invoicing_Invoices",
            len(counts),
            (
                self._document(number, "IN", 1, "Crm_Invoicing_Invoices")
                | {"TotalLineAmount": self._line(number, 1)["LineAmount"], "TotalLineAmount.Currency": "EUR"}
                for number in counts
            ),
        )
        self._rows(
            "Crm_Invoicing_InvoiceLines",
            len(counts),
            (
                self._line(number, 1) | {"Invoice": self._pick("Crm_Invoicing_Invoices", number)}
                for number in counts
            ),
        )
