"""The resumable state of a run in one file, without pickle: safetensors, and JSON inside."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from rrvqlib.errors import UserError
from rrvqlib.files import write_atomically

CHECKPOINT = "checkpoint.safetensors"


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
        total = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data, total)
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
