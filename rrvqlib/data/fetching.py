"""What goes wrong while a data set is fetched, in words."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rrvqlib.errors import UserError


@contextmanager
def fetching(name: str, data_dir: Path, files: str) -> Iterator[None]:
    """Turn whatever goes wrong while torchvision fetches and reads a data set into a UserError."""
    try:
        yield
    except ImportError as error:
        module = error.name or "torchvision"
        raise UserError(f"{name} needs {module}; run: pip install {module}") from error
    # No network, no such host, a broken archive, no room, no right to write, a page in place of
    # a file: there are too many kinds to list, and the remedy is the same.
    except Exception as error:
        raise UserError(
            f"{name} is not complete in {data_dir} and could not be downloaded ({error}); "
            f"put {files} there, or use photos, which needs no download, or npz:PATH"
        ) from error
