"""Files of a run: written whole or not at all, read without unpickling anything."""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from rrvqlib.configs import ModelConfig, show_setting
from rrvqlib.errors import UserError
from rrvqlib.models import VAE, build
from rrvqlib.weights import (
    UNFINISHED,
    BadWeights,
    check_weights,
    read_weights,
    weight_files,
    write_weights,
)

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

CHECKPOINT = "checkpoint.safetensors"
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn the operating system's errors into one that names `path` and the remedy."""
    try:
        yield
    except OSError as error:
        remedy = "choose another path"
        if error.errno in DISK_FULL:
            remedy = "free some disk space and try again"
        reason = error.strerror or error
        raise UserError(f"cannot write {path} ({reason}); {remedy}") from None


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


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
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


def read_settings(kind: type, values: Any, path: Path) -> Any:
    """A dataclass of settings from the JSON of a run folder.

    Args:
        kind: ModelConfig or RunConfig.
        values: what the file holds.
        path: of the file, for the message.

    Raises:
        UserError: a setting is unknown, of the wrong type or out of range.
    """
    checks = {
        "int": lambda value: type(value) is int,
        "float": lambda value: type(value) in (int, float),
        "bool": lambda value: type(value) is bool,
        "str": lambda value: type(value) is str,
        "Sides": lambda value: type(value) is list and all(type(v) is int for v in value),
    }
    try:
        for f in fields(kind):
            if f.name in values and not checks[f.type](values[f.name]):
                raise TypeError(f"{f.name} is {values[f.name]!r}")
        return kind(**values)
    except (TypeError, UserError) as error:
        raise UserError(
            f"{path} does not describe a {'model' if kind is ModelConfig else 'run'} ({error});"
            " copy it anew, or train again"
        ) from None


def flatten(tree: Any, prefix: str, tensors: dict[str, Tensor]) -> Any:
    """Split nested dicts and lists into JSON and named tensors; `unflatten` undoes it."""
    if isinstance(tree, Tensor):
        name = f"{prefix}#{len(tensors)}"
        tensors[name] = tree.detach().to("cpu", copy=True).contiguous()
        return {"tensor": name}
    if isinstance(tree, dict):  # keys may be whole numbers, as in an optimiser's state
        pairs = [[key, flatten(value, f"{prefix}.{key}", tensors)] for key, value in tree.items()]
        return {"dict": pairs}
    if isinstance(tree, list | tuple):
        return {"list": [flatten(value, prefix, tensors) for value in tree]}
    return {"value": tree}


def unflatten(tree: Any, tensors: dict[str, Tensor]) -> Any:
    """The inverse of `flatten` (tuples come back as lists)."""
    ((kind, content),) = tree.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {key: unflatten(value, tensors) for key, value in content}
    if kind == "list":
        return [unflatten(value, tensors) for value in content]
    return content


def checksum(tree: str, tensors: dict[str, Tensor]) -> str:
    """CRC-32 of everything in a checkpoint; safetensors has none, and a disk may flip bits."""
    total = zlib.crc32(tree.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        total = zlib.crc32(f"{name}{tensor.dtype}{list(tensor.shape)}".encode(), total)
        total = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy(), total)
    return f"{total:08x}"


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write nested dicts of tensors and plain values as one safetensors file with JSON inside."""
    tensors: dict[str, Tensor] = {}
    tree = json.dumps(flatten(state, "", tensors))
    metadata = {"tree": tree, "crc32": checksum(tree, tensors)}
    # Through bytes: safetensors' own writer hides the operating system's error.
    write_atomically(path, lambda temporary: temporary.write_bytes(save(tensors, metadata)))


def load_state(path: Path) -> dict[str, Any]:
    """Read what `save_state` wrote.

    Raises:
        UserError: the file is missing, truncated or not such a file.
    """
    try:
        with safe_open(path, "pt") as file:
            mapped = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata = file.metadata()
            tree = metadata["tree"]
            # Of the file's own bytes. Checkpoints of earlier versions have no checksum.
            if metadata.get("crc32", checksum(tree, mapped)) != checksum(tree, mapped):
                raise ValueError("its checksum is wrong")
            # Copies: a file that is still mapped cannot be replaced on Windows.
            tensors = {name: tensor.clone() for name, tensor in mapped.items()}
        return unflatten(json.loads(tree), tensors)
    except FileNotFoundError:
        raise UserError(
            f"{path} is missing: there is nothing to resume; train without --resume"
        ) from None
    except (
        SafetensorError,
        LookupError,
        TypeError,
        ValueError,
        AttributeError,
        OSError,
        RecursionError,
    ) as error:
        raise UserError(
            f"{path} is damaged or no checkpoint ({error}); delete it and train anew, or copy it"
            " again"
        ) from None


def save_model(model: VAE, directory: Path, dtype: str = "float32", shard_mb: float = 5000) -> None:
    """Write config.json and the weights, each file whole or not at all.

    Args:
        model: on any device.
        directory: exists.
        dtype: of the weights in the files, float32 or float16.
        shard_mb: megabytes that a file of weights may hold; larger models become shards.

    Raises:
        UserError: the files cannot be written, or float16 cannot hold a weight.
    """
    with writing(directory):
        try:
            write_weights(model.state_dict(), directory, getattr(torch, dtype), shard_mb)
        except SafetensorError as error:  # hides the operating system's own error
            raise UserError(
                f"cannot write the weights to {directory} ({error}); free some disk space and try"
                " again (a training goes on with --resume)"
            ) from None
        except BadWeights as error:
            raise UserError(f"{error}; train anew in another --out, with a lower --lr") from None
    write_json(directory / "config.json", asdict(model.config))


def load_model(directory: str | Path) -> VAE:
    """The model of a run folder, in float32, ready to evaluate.

    Raises:
        UserError: a file is missing, damaged, or does not fit the other.
    """
    directory = Path(directory)
    path = directory / "config.json"
    config = read_settings(ModelConfig, read_json(path), path)
    try:
        weights = read_weights(directory)
    except BadWeights as error:
        raise UserError(f"{error}; train the run again, or copy the files anew") from None
    try:
        check_weights(weights, lambda: build(config))
    except BadWeights as error:
        raise UserError(
            f"{weight_files(directory)[0]} is not of this model ({error}); copy it anew, or train"
            " again"
        ) from None
    model = build(config)
    model.load_state_dict(weights, strict=True)
    return model.eval()


def load_weights(model: VAE, directory: str | Path) -> None:
    """Put the weights of a finished run into a model, or into the first of its two stages.

    Raises:
        UserError: the run is missing or damaged, or its model is another; the message names the
            settings that differ.
    """
    source = load_model(directory)
    target = model
    if source.config != model.config and model.config.second_stage != "none":
        target = model.first
    differing = [
        f.name
        for f in fields(ModelConfig)
        if getattr(source.config, f.name) != getattr(target.config, f.name)
    ]
    if differing:
        flags = ", ".join(
            f"--{name} {show_setting(getattr(source.config, name))}" for name in differing
        )
        raise UserError(
            f"--start_from {directory}: its model has other settings; give {flags}, or another run"
        )
    target.load_state_dict(source.state_dict())


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
        raise UserError(
            f"cannot write to {directory} ({error.strerror}); choose another --out"
        ) from None


@contextmanager
def only_writer(directory: Path) -> Iterator[None]:
    """Keep other trainings out of the folder; clear what one that was killed left half-written.

    The lock is the folder's own and leaves no file; the system lifts it after a kill, too. Some
    network disks know no such lock, and Windows has none: there nothing is checked.

    Raises:
        UserError: another training is writing there.
    """
    handle = None
    if fcntl is not None:
        handle = os.open(directory, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            raise UserError(
                f"another training is writing to {directory}; choose another --out"
            ) from None
        except OSError:
            pass
    try:
        for path in directory.glob(UNFINISHED + "*"):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        yield
    finally:
        if handle is not None:
            os.close(handle)
