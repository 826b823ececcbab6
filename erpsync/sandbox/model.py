"""The entity sets of the sandbox with their attributes and capabilities, after the published ERP.net model.

A line of a set's text is `Name kind :filters flags`. Kinds: string(n), bool, int, decimal, date, datetime,
ml (text by language), amount, quantity, enum(A=0|B=1) and `->Set` for references. Filters: e `eq`, m `in`,
r `ge`/`le`, l `contains`/`startswith`/`endswith`, o orderable.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

VERSION: Final = "26.3.100.12"

RENAMED: Final[Mapping[str, tuple[str, str]]] = {
    "Crm_Customers": ("Crm_Sales_Customers", "25.1.2.28"),
    "General_MeasurementUnits": ("General_Products_MeasurementUnits", "24.1.5.35"),
    "General_DocumentTypes": ("Systems_Documents_DocumentTypes", "24.1.5.35"),
    "General_Currencies": ("General_Currencies_Currencies", "25.1.0.64"),
    "Crm_ProductPrices": ("Crm_Pricing_ProductPrices", "25.1.1.36"),
    "Crm_SalesPersons": ("Crm_SalesForce_SalesPersons", "25.1.1.36"),
}
"""Old set name -> (new name, version of the change): renames.md."""

STATES: Final = "enum(New=0|Adjustment=5|Planned=10|FirmPlanned=20|Released=30|Completed=40|Closed=50)"
RELEASED: Final = 30


@dataclass(frozen=True, slots=True)
class Attribute:
    """One attribute or reference. `max_length` is in characters, 0 where there is no limit."""

    name: str
    kind: str
    filters: str = ""
    flags: frozenset[str] = frozenset()
    max_length: int = 0
    target: str = ""
    values: Mapping[str, int] = field(default_factory=dict)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that hold it: a value and, for amounts and quantities, its currency or unit."""
        second = {"amount": (".Currency",), "quantity": (".Unit",)}.get(self.kind, ())
        return (self.name, *(self.name + suffix for suffix in second))


@dataclass(frozen=True, slots=True)
class EntitySet:
    """One entity set. `children` maps a collection's name to (set, its reference back to the owner)."""

    name: str
    type_name: str
    attributes: Mapping[str, Attribute]
    code: str
    """The attribute that is unique among the rows; "" where there is none."""
    label: str
    """The attribute shown as `DisplayText`; `Reference/Attribute` may be given."""
    children: Mapping[str, tuple[str, str]]
    owner: Attribute | None
    view: str = ""
    """SQL for sets without a table of their own; they cannot be written."""
    keyless: bool = False
    scope: str = "read"

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns of the table in order; `sort` is the key by which pages are read."""
        return ("sort", "id", *(column for item in self.stored for column in item.columns))

    @property
    def stored(self) -> tuple[Attribute, ...]:
        """The attributes that have columns."""
        return tuple(item for item in self.attributes.values() if item.kind not in ("id", "display"))

    @property
    def is_document(self) -> bool:
        """Whether it has the life cycle of a document: state, voiding, release."""
        return "State" in self.attributes

    @property
    def writable(self) -> bool:
        """Whether rows can be created, changed and deleted through the API."""
        return not self.view and not self.keyless


_CHILD = "Id id :em\nDisplayText display\nObjectVersion int calculated readonly"
_ROOT = f"""{_CHILD}
    ExternalId string(64) :el calculated
    ExternalSystem string(64) :el calculated
    AggregateLastUpdateTimeUtc datetime :r calculated readonly
    AdditionalDataJson string calculated"""
_DOCUMENT = f"""
    DocumentNo string(20) :elo
    DocumentDate date :ero
    State {STATES} :emro readonly
    Void bool :e readonly
    DocumentNotes string(254)
    ReferenceDocumentNo string(20) :el
    CreationTime datetime :r readonly
    ReleaseTime datetime :r readonly
    ReadOnly bool readonly
    EntityName string(64) :eo readonly
    DocumentType ->Systems_Documents_DocumentTypes :em required
    EnterpriseCompany ->General_EnterpriseCompanies :em required
    EnterpriseCompanyLocation ->General_Contacts_CompanyLocations :em
    DocumentCurrency ->General_Currencies_Currencies :em"""

_KIND = re.compile(r"(?P<kind>string|enum)\((?P<inside>[^)]*)\)")


def _attribute(line: str) -> Attribute:
    name, kind, *rest = line.split()
    filters = "".join(word[1:] for word in rest if word.startswith(":"))
    flags = frozenset(word for word in rest if not word.startswith(":"))
    if kind.startswith("->"):
        return Attribute(name, "ref", filters, flags, target=kind[2:])
    shape = _KIND.fullmatch(kind)
    if shape is None:
        return Attribute(name, kind, filters, flags)
    if shape["kind"] == "string":
        return Attribute(name, "string", filters, flags, max_length=int(shape["inside"]))
    pairs = (pair.split("=") for pair in shape["inside"].split("|"))
    return Attribute(name, "enum", filters, flags, values={word: int(number) for word, number in pairs})


def _set(
    name: str,
    type_name: str,
    text: str,
    *,
    code: str = "",
    label: str = "",
    children: Mapping[str, tuple[str, str]] | None = None,
    view: str = "",
    keyless: bool = False,
    scope: str = "read",
) -> EntitySet:
    own = [_attribute(line) for line in text.splitlines() if line.strip()]
    owner = next((item for item in own if "owner" in item.flags), None)
    base = "" if keyless else _CHILD if owner else _ROOT
    attributes = {item.name: item for item in [*map(_attribute, base.splitlines()), *own]}
    return EntitySet(
        name,
        type_name,
        attributes,
        code,
        label or code,
        children or {},
        owner,
        view,
        keyless=keyless,
        scope=scope,
    )


_SYSTEM = (
    "sort, id, ObjectVersion, ExternalId, ExternalSystem, AggregateLastUpdateTimeUtc, AdditionalDataJson"
)
_PARTIES = f"""
    SELECT {_SYSTEM}, id AS PartyId, PartyCode, Name AS PartyName, 0 AS PartyType, IsActive, GLN
    FROM General_Contacts_Companies
    UNION ALL
    SELECT {_SYSTEM}, id, PartyCode, LocationName, 1, IsActive, GLN FROM General_Contacts_CompanyLocations"""  # noqa: S608

SETS: Final[Mapping[str, EntitySet]] = {
    item.name: item
    for item in [
        _set(
            "General_Currencies_Currencies",
            "General_Currencies_Currency",
            """CurrencySign string(4) :elo required
            Name string(50) :l
            IsActive bool :e
            ShowOrder int""",
            code="CurrencySign",
        ),
        _set(
            "General_Products_MeasurementCategories",
            "General_Products_MeasurementCategory",
            "Name ml :l required\nIsDefault bool",
            label="Name",
            children={"Units": ("General_Products_MeasurementUnits", "MeasurementCategory")},
        ),
        _set(
            "General_Products_MeasurementUnits",
            "General_Products_MeasurementUnit",
            """Code string(16) :elo required
            Name ml :l
            Multiplier decimal
            Divisor decimal
            IsDefaultUnit bool :e
            MeasurementCategory ->General_Products_MeasurementCategories :em owner required""",
            code="Code",
        ),
        _set(
            "General_Contacts_Companies",
            "General_Contacts_Company",
            """PartyCode string(16) :emlo required
            Name ml :l required
            IsActive bool :e
            GLN string(13) :mo
            RegistrationNumber string(16) :elo
            RegistrationVATNumber string(20) :elo
            IsVATRegistered bool :e
            City ml :l""",
            code="PartyCode",
            label="Name",
        ),
        _set(
            "General_Contacts_CompanyLocations",
            "General_Contacts_CompanyLocation",
            """PartyCode string(16) :emlo required
            LocationName ml :l required
            IsActive bool :e
            GLN string(13) :mo
            Company ->General_Contacts_Companies :em path required""",
            code="PartyCode",
            label="LocationName",
        ),
        _set(
            "General_Contacts_Parties",
            "General_Contacts_Party",
            """PartyId guid :em calculated
            PartyCode string(16) :emlo readonly
            PartyName ml :l readonly
            PartyType enum(Company=0|CompanyLocation=1|Person=2|Store=3|CompanyDivision=4) :em
            IsActive bool :e
            GLN string(13) :mo""",
            code="PartyCode",
            label="PartyName",
            view=_PARTIES,
        ),
        _set(
            "General_EnterpriseCompanies",
            "General_EnterpriseCompany",
            """IsActive bool :em
            DefaultCostingMethod enum(EXP=0|FIFO=1|AVG=2)
            PrintImagesRetentionMonths int :mr
            EditPeriodStartDate date :r
            Company ->General_Contacts_Companies :em path required
            BaseCurrency ->General_Currencies_Currencies :em
            ReportingCurrency ->General_Currencies_Currencies""",
            label="Company/Name",
        ),
        _set(
            "Systems_Documents_DocumentTypes",
            "Systems_Documents_DocumentType",
            """Code string(32) :elo required
            TypeName ml :l
            EntityName string(64) :mo
            Description ml
            CreateManully bool :e
            Notes string(254)""",
            code="Code",
            label="TypeName",
        ),
        _set(
            "Crm_SalesForce_SalesPersons",
            "Crm_SalesForce_SalesPerson",
            "Code string(16) :elo required\nName ml :l\nIsActive bool :e",
            code="Code",
            label="Name",
        ),
        _set(
            "General_Products_ProductGroups",
            "General_Products_ProductGroup",
            """Code string(16) :elo required
            Name ml :l required
            Active bool :e
            FullPath string(254) :elo
            Notes string(254)
            ParentGroup ->General_Products_ProductGroups :em
            DefaultMeasurementUnit ->General_Products_MeasurementUnits
            EnterpriseCompany ->General_EnterpriseCompanies""",
            code="Code",
            label="Name",
        ),
        _set(
            "General_Products_Products",
            "General_Products_Product",
            """PartNumber string(32) :mlo required
            Name ml :l required
            ShortName ml
            Active bool :e
            ABCClass enum(A=0|B=1|C=2) :e
            StandardPricePerLot amount
            StandardCostPerLot amount
            StandardLotSizeBase quantity
            Description ml
            IsSerialized bool :e
            ShowInCatalog bool :m
            CreationTime datetime :r readonly
            UpdateTime datetime :r readonly
            ProductGroup ->General_Products_ProductGroups :em path required
            MeasurementUnit ->General_Products_MeasurementUnits :em required
            BaseMeasurementCategory ->General_Products_MeasurementCategories :em
            CostingCurrency ->General_Currencies_Currencies
            EnterpriseCompany ->General_EnterpriseCompanies""",
            code="PartNumber",
            label="Name",
            children={"Prices": ("Crm_Pricing_ProductPrices", "Product")},
        ),
        _set(
            "Crm_Sales_Customers",
            "Crm_Sales_Customer",
            """Number string(16) :elo required
            Active bool :e
            CreditLimit amount
            DefaultPaymentTermDays int
            DefaultDeliveryTermDays int
            GracePeriodDays int
            FromDate date :r
            ThruDate date :r
            CreationTime datetime :r readonly
            UpdateTime datetime :r readonly
            CreationUser string(64) :l readonly
            Party ->General_Contacts_Parties :em path required
            EnterpriseCompany ->General_EnterpriseCompanies :em
            DefaultCurrency ->General_Currencies_Currencies
            SalesPerson ->Crm_SalesForce_SalesPersons :em""",
            code="Number",
            label="Party/PartyName",
        ),
        _set(
            "Logistics_Inventory_Stores",
            "Logistics_Inventory_Store",
            """Code string(16) :elo required
            Name ml :l required
            IsActive bool :e
            CreationTime datetime :r readonly
            UpdateTime datetime :r readonly
            EnterpriseCompany ->General_EnterpriseCompanies :em
            Currency ->General_Currencies_Currencies""",
            code="Code",
            label="Name",
        ),
        _set(
            "Logistics_Inventory_CurrentBalances",
            "Logistics_Inventory_CurrentBalance",
            """QuantityBase quantity :er
            BaseCost amount :r
            Product ->General_Products_Products :em path
            Store ->Logistics_Inventory_Stores :em
            EnterpriseCompany ->General_EnterpriseCompanies :em""",
            keyless=True,
        ),
        _set(
            "Crm_Pricing_ProductPrices",
            "Crm_Pricing_ProductPrice",
            """Price amount :er required
            MinQuantity quantity :er
            MaxQuantity quantity :er
            Priority int :m
            FromDate date :er
            ThruDate date :er
            IsActive bool :e
            Notes string(254) :l
            Product ->General_Products_Products :em path required
            Currency ->General_Currencies_Currencies :em
            Customer ->Crm_Sales_Customers :em
            EnterpriseCompany ->General_EnterpriseCompanies :em""",
            label="Product/Name",
        ),
        _set(
            "Crm_Sales_SalesOrders",
            "Crm_Sales_SalesOrder",
            _DOCUMENT
            + """
            RequiredDeliveryDate date :r
            CustomerPurchaseOrderNo string(20) :elo
            PaymentDueDate date :r
            TotalLineAmount amount calculated readonly
            Customer ->Crm_Sales_Customers :em required
            ShipToCustomer ->Crm_Sales_Customers :em
            Store ->Logistics_Inventory_Stores :em
            SalesPerson ->Crm_SalesForce_SalesPersons :em""",
            code="DocumentNo",
            children={"Lines": ("Crm_Sales_SalesOrderLines", "SalesOrder")},
        ),
        _set(
            "Crm_Sales_SalesOrderLines",
            "Crm_Sales_SalesOrderLine",
            """LineNo int :eo
            Quantity quantity :r required
            UnitPrice amount
            LineAmount amount :r readonly
            LineCustomDiscountPercent decimal :r
            ProductDescription ml :l
            RequiredDeliveryDate date :r
            Notes string(254)
            SalesOrder ->Crm_Sales_SalesOrders :em owner path required
            Product ->General_Products_Products :em path required
            QuantityUnit ->General_Products_MeasurementUnits
            LineStore ->Logistics_Inventory_Stores""",
            label="ProductDescription",
        ),
        _set(
            "Crm_Invoicing_Invoices",
            "Crm_Invoicing_Invoice",
            _DOCUMENT
            + """
            ApplyDate date :r
            DeliveryDate date :r
            TotalLineAmount amount calculated readonly
            Customer ->Crm_Sales_Customers :em required""",
            code="DocumentNo",
            children={"Lines": ("Crm_Invoicing_InvoiceLines", "Invoice")},
        ),
        _set(
            "Crm_Invoicing_InvoiceLines",
            "Crm_Invoicing_InvoiceLine",
            """LineNo int :eo
            Quantity quantity :r required
            UnitPrice amount
            LineAmount amount :r readonly
            Invoice ->Crm_Invoicing_Invoices :em owner path required
            Product ->General_Products_Products :em path required""",
            label="Product/Name",
        ),
        _set(
            "Systems_Security_Users",
            "Systems_Security_User",
            """Login string(64) :emlo required
            Name ml :l
            Email string(254) :mlo
            Active bool :e
            UserType enum(InternalUser=0|ExternalCommunityUser=1|VirtualExternalUser=2) :em""",
            code="Login",
            label="Name",
            scope="sec",
        ),
    ]
}

TYPES: Final[Mapping[str, EntitySet]] = {f"Erp.{item.type_name}": item for item in SETS.values()}
"""Sets by the qualified name of their entity type, as in `@odata.type`."""
