"""Files of a run: written whole or not at all, read without unpickling anything."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from rrvqlib.configs import ModelConfig
from rrvqlib.errors import UserError
from rrvqlib.models import MODELS, VAE

CHECKPOINT = "checkpoint.safetensors"


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Call `write` with a temporary path beside `path`, then put the result in its place.

    A kill or a full disk leaves the old file, if there was one, untouched.
    """
    handle, temporary = tempfile.mkstemp(
        dir=path.parent, prefix="." + path.stem, suffix=path.suffix
    )
    os.close(handle)
    try:
        write(Path(temporary))
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON atomically; not-a-number is refused."""
    text = json.dumps(value, indent=2, allow_nan=False) + "\n"
    write_atomically(path, lambda temporary: temporary.write_text(text))


def read_json(path: Path) -> Any:
    """Read JSON; raise UserError where the file is missing or damaged."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(f"{path} is missing; is {path.parent} the folder of a run?") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is damaged ({error}); train again or copy it anew") from None


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


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write nested dicts of tensors and plain values as one safetensors file with JSON inside."""
    tensors: dict[str, Tensor] = {}
    tree = json.dumps(flatten(state, "", tensors))
    # Through bytes, so that a full disk is an OSError that names the file.
    write_atomically(path, lambda temporary: temporary.write_bytes(save(tensors, {"tree": tree})))


def load_state(path: Path) -> dict[str, Any]:
    """Read what `save_state` wrote.

    Raises:
        UserError: the file is missing, truncated or not such a file.
    """
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            tree = json.loads(file.metadata()["tree"])
        return unflatten(tree, tensors)
    except FileNotFoundError:
        raise UserError(
            f"{path} is missing: there is nothing to resume; train without --resume"
        ) from None
    except (SafetensorError, KeyError, TypeError, ValueError, OSError) as error:
        raise UserError(
            f"{path} is damaged ({error}); delete it and train anew, or copy it again"
        ) from None


def save_model(model: VAE, directory: Path) -> None:
    """Write config.json and model.safetensors as `save_pretrained` does, but each atomically."""
    with tempfile.TemporaryDirectory(dir=directory, prefix=".model") as temporary:
        try:
            model.save_pretrained(temporary)
        except SafetensorError as error:  # hides the operating system's own error
            raise UserError(
                f"cannot write the weights to {directory} ({error}); free some disk space"
            ) from None
        for file in sorted(
            Path(temporary).glob("[!R]*")
        ):  # no README.md: a run is not a model card
            os.chmod(file, 0o644)
            os.replace(file, directory / file.name)


def load_model(directory: str | Path) -> VAE:
    """The model of a run folder, ready to evaluate.

    Raises:
        UserError: a file is missing, damaged, or does not fit the other.
    """
    directory = Path(directory)
    values = read_json(directory / "config.json")
    try:
        config = ModelConfig(**values)
    except TypeError as error:
        raise UserError(f"{directory / 'config.json'} does not describe a model: {error}") from None
    weights = directory / "model.safetensors"
    if not weights.exists():
        raise UserError(f"{weights} is missing; train the run again, or copy the file beside it")
    try:
        return MODELS[config.model].from_pretrained(str(directory)).eval()
    except (SafetensorError, RuntimeError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{weights} is damaged or not of this model ({reason})") from None


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
