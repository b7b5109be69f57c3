"""Files that are written whole or not at all, and folders with one writer."""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from rrvqlib.errors import UserError

UNFINISHED = ".unfinished-"  # begins the names of files that are being written
LOCK = ".lock"
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn the operating system's errors into one that names `path` and the remedy."""
    try:
        yield
    except OSError as error:
        reason, remedy = error.strerror or error, way_out(error, "choose another path")
        raise UserError(f"cannot write {path} ({reason}); {remedy}") from None


def way_out(error: OSError, otherwise: str) -> str:
    """What helps where something cannot be written; `otherwise` unless the disk is full."""
    return "free some disk space and try again" if error.errno in DISK_FULL else otherwise


def real_file(path: Path) -> Path:
    """Where a file of this name is written: where a link leads to, so that the link stays.

    Raises:
        UserError: there is a folder or a device, which must not be replaced by a file.
    """
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file():
        raise UserError(f"cannot write {path} (it is a folder or a device); choose another path")
    return target


def check_writable(path: Path) -> None:
    """Before long work, make sure that its result can be written.

    Raises:
        UserError: it cannot; the message names the file.
    """
    with writing(path), tempfile.TemporaryFile(dir=real_file(path).parent):
        pass


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Call `write` with a temporary path beside `path`, then put the result in its place.

    A kill or a full disk leaves the old file, if there was one, untouched.

    Raises:
        UserError: the file cannot be written; the message names it.
    """
    with writing(path):
        target = real_file(path)
        handle, temporary = tempfile.mkstemp(
            dir=target.parent, prefix=UNFINISHED, suffix=target.suffix
        )
        os.close(handle)
        try:
            write(Path(temporary))
            with open(temporary, "r+b") as written:
                os.fsync(written.fileno())
            os.chmod(temporary, 0o644)
            os.replace(temporary, target)
        finally:
            Path(temporary).unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON atomically; not-a-number is refused."""
    text = json.dumps(value, indent=2, allow_nan=False) + "\n"
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def cannot_read(path: Path, error: OSError) -> UserError:
    """The error for a file of a run folder that is there, but not to be read."""
    return UserError(f"{path} cannot be read ({error.strerror}); name the folder of a run")


def read_json(path: Path) -> Any:
    """Read JSON; raise UserError where the file is missing, damaged or out of reach."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} is missing; is {path.parent} the folder of a run?") from None
    except OSError as error:
        raise cannot_read(path, error) from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({error}); train again or copy it anew") from None


def read_table(path: Path) -> dict[str, Any]:
    """Read JSON that names its values; raise UserError as `read_json`, or where it is no such."""
    table = read_json(path)
    if not isinstance(table, dict):
        raise UserError(f"{path} is damaged (no names and values); train again or copy it anew")
    return table


def prepare_directory(directory: Path) -> None:
    """Make the folder and check that files can be written there.

    Raises:
        UserError: they cannot.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as error:
        is_other = os.path.lexists(directory) and not directory.is_dir()
        reason = "it is no folder" if is_other else error.strerror
        remedy = way_out(error, "choose another --out")
        raise UserError(f"cannot write to {directory} ({reason}); {remedy}") from None


@contextmanager
def only_writer(directory: Path) -> Iterator[None]:
    """Keep other trainings out of the folder; clear what one that was killed left half-written.

    The system lifts the lock after a kill, too. Some network disks know no locks: there nothing is
    checked.

    Raises:
        UserError: another training is writing there.
    """
    lock = FileLock(directory / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise UserError(
            f"another training is writing to {directory}; choose another --out"
        ) from None
    except NotImplementedError:
        pass
    try:
        for path in directory.glob(UNFINISHED + "*"):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        yield
    finally:
        lock.release()
