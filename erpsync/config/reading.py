"""Turning one table of the document into its section; what is wrong becomes problems with places."""

import re
from collections.abc import Callable, Mapping
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from erpsync.config.document import Document, did_you_mean
from erpsync.config.placeholder import expand
from erpsync.config.source import Keys
from erpsync.config.words import Complaint, complaints

S = TypeVar("S", bound=BaseModel)
Where = Callable[[Keys], Keys]
"""From keys inside a section to keys of the document."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_LONGEST_NAME = 80


def read_section(document: Document, model: type[S], table: Mapping[str, object], where: Where) -> S | None:
    """The section; with problems, which are kept, what is left of it without them; None where that is nothing."""
    try:
        return model.model_validate(table)
    except ValidationError as error:
        found = list(complaints(error, model))
    for complaint in found:
        complain(document, complaint, where)
    wrong = {complaint.keys[0] for complaint in found if complaint.keys}
    try:
        return model.model_validate({key: value for key, value in table.items() if key not in wrong})
    except ValidationError:
        return None


def judge_template(
    document: Document, model: type[BaseModel], table: Mapping[str, object], where: Where
) -> None:
    """Tell what is wrong with a table that is used nowhere; values with placeholders are not known yet."""
    obligatory = {name for name, field in model.model_fields.items() if field.is_required()}
    known = {key: value for key, value in table.items() if key in obligatory or "${" not in repr(value)}
    read_section(document, model, known, where)


def complain(document: Document, complaint: Complaint, where: Where) -> None:
    """Keep a complaint about a section as a problem of the document."""
    document.add(
        complaint.code,
        complaint.message,
        document.existing(where(complaint.keys)) if complaint.code != "E106" else where(complaint.keys),
        hint=complaint.hint,
        hide=complaint.hide,
    )


def beneath(*prefix: str | int) -> Where:
    """Keys inside the table at `prefix`."""
    return lambda keys: (*prefix, *keys)


def expanded(
    document: Document, table: Mapping[str, object], variables: Mapping[str, str], where: Where
) -> dict[str, object]:
    """The table with placeholders replaced; unknown ones are problems."""

    def unknown(keys: Keys, name: str) -> None:
        known = ", ".join(f"${{{variable}}}" for variable in variables)
        near = did_you_mean(f"${{{name}}}", [f"${{{variable}}}" for variable in variables])
        hint = near or (f"known here: {known}" if known else "none is known here")
        document.add("E109", f'unknown placeholder "${{{name}}}"', where(keys), hint=hint)

    return {key: expand(value, variables, unknown, (key,)) for key, value in table.items()}


def check_name(document: Document, keys: Keys) -> None:
    """Names travel into other names, metrics and files, so they are plain."""
    name = str(keys[-1])
    if not _NAME.fullmatch(name) or len(name) > _LONGEST_NAME:
        hint = f"letters, digits, dot, hyphen and underscore; at most {_LONGEST_NAME}"
        document.add("E118", f'"{name}" cannot be a name', keys, hint=hint)
