"""What it means that a file of the state cannot be made or opened."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from erpsync.core.errors import StoreUnavailableError


@contextmanager
def place_faults(path: Path) -> Iterator[None]:
    """The operating system's errors about `path` as StoreUnavailableError with the place and the remedy."""
    try:
        yield
    except OSError as error:
        raise StoreUnavailableError(
            f"the state cannot be kept at {path}: {error.strerror}",
            hint=f"{path.parent} must be a folder that this user may write, and {path.name} a file in it",
        ) from error
