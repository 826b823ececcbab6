"""Row ids and the order in which SQL Server, and so ERP.net, sorts them: by their last six bytes first.

A sort key is 32 hexadecimal digits whose text order is that of `uniqueidentifier` (System.Data.SqlTypes.SqlGuid).
"""

import uuid


def sort_key(guid: str) -> str:
    """The sort key of a GUID. Raises ValueError for a text that is none."""
    raw = uuid.UUID(guid).bytes_le
    return (raw[10:16] + raw[8:10] + raw[6:8] + raw[4:6] + raw[0:4]).hex()


def from_sort_key(key: str) -> str:
    """The GUID, in lower case, to which a sort key belongs."""
    third, second = key[18:20] + key[16:18], key[22:24] + key[20:22]
    first = key[30:32] + key[28:30] + key[26:28] + key[24:26]
    return f"{first}-{second}-{third}-{key[12:16]}-{key[0:12]}"
