"""A model's weights in a folder: one safetensors file or shards of it, whole or refused."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch
from huggingface_hub import save_torch_state_dict
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.overrides import TorchFunctionMode

from rrvqlib.files import UNFINISHED

ONE_FILE = "model.safetensors"
OURS = (ONE_FILE, "model-?????-of-?????.safetensors")  # the whole, or its shards
INDEX = "model.safetensors.index.json"  # of shards: which file holds which tensor


class BadWeights(Exception):
    """What is wrong with the weights of a folder."""


def digest(state: dict[str, Tensor]) -> str:
    """SHA-256 of names, types, shapes and bytes."""
    total = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].contiguous()
        total.update(f"{name}{tensor.dtype}{list(tensor.shape)}".encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def write_weights(
    state: dict[str, Tensor],
    directory: str | Path,
    dtype: torch.dtype | None = None,
    shard_mb: float = 5000,
) -> None:
    """Write `model.safetensors`, or shards and their index, each file whole or not at all.

    Files of an earlier call are replaced, also where there are fewer shards now.

    Args:
        state: names and tensors, on any device.
        directory: exists.
        dtype: of the floating-point numbers in the files; None as they are.
        shard_mb: megabytes (10^6 bytes) that a file may hold at most.

    Raises:
        BadWeights: numbers are not finite, in `dtype` at least.
        OSError: the files cannot be written; or safetensors raises an error of its own.
    """
    copies = {}
    for name, tensor in state.items():
        kind = dtype if dtype and tensor.is_floating_point() else tensor.dtype
        copies[name] = tensor.detach().to("cpu", kind, copy=True).contiguous()
        if not copies[name].isfinite().all():
            raise BadWeights(f"{name} has numbers that are not finite in {kind}")
    directory = Path(directory)
    with tempfile.TemporaryDirectory(dir=directory, prefix=UNFINISHED) as temporary:
        save_torch_state_dict(
            copies,
            temporary,
            max_shard_size=int(shard_mb * 1e6),
            metadata={"format": "pt", "sha256": digest(copies)},
        )
        written = sorted(path.name for path in Path(temporary).iterdir())
        if INDEX not in written:  # first, or shards of an earlier call would be read
            (directory / INDEX).unlink(missing_ok=True)
        for name in sorted(written, key=lambda name: name == INDEX):  # the index last
            file = Path(temporary) / name
            os.chmod(file, 0o644)
            os.replace(file, directory / name)
    for path in (path for pattern in OURS for path in directory.glob(pattern)):
        if path.name not in written:
            path.unlink()


def weight_files(directory: str | Path) -> list[Path]:
    """The files that hold a folder's weights.

    Raises:
        BadWeights: there are none, or the index of the shards is no such thing.
    """
    return located(Path(directory))[0]


def located(directory: Path) -> tuple[list[Path], str | None]:
    """The files that hold a folder's weights, and the digest that an index gives for all of them.

    Raises:
        BadWeights: as `weight_files`.
    """
    index = directory / INDEX
    if not index.exists():
        if not (directory / ONE_FILE).exists():
            raise BadWeights(f"{directory / ONE_FILE} is missing")
        return [directory / ONE_FILE], None
    try:
        content = json.loads(index.read_text(encoding="utf-8"))
        names = sorted(set(content["weight_map"].values()))
        if not names:
            raise ValueError("it names no shards")
        if not all(name == Path(name).name for name in names):
            raise ValueError("a shard lies elsewhere")
        expected = content.get("metadata", {}).get("sha256")
        lost = [directory / name for name in names if not (directory / name).exists()]
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise BadWeights(f"{index} is damaged ({error})") from None
    if lost:
        raise BadWeights(f"{lost[0]} is missing")
    return [directory / name for name in names], expected


def read_weights(directory: str | Path) -> dict[str, Tensor]:
    """All weights of a folder, on the CPU, in the files' type.

    Raises:
        BadWeights: files are missing, damaged, or of two different models.
    """
    state: dict[str, Tensor] = {}
    files, expected = located(Path(directory))
    for path in files:
        try:
            with safe_open(path, "pt") as file:
                # Copies: a file that is still mapped cannot be replaced on Windows.
                state |= {n: file.get_tensor(n).clone() for n in file.keys()}  # noqa: SIM118
                expected = expected or (file.metadata() or {}).get("sha256")
        except (SafetensorError, OSError) as error:
            if not os.access(path, os.R_OK):  # of which safetensors says that there is no file
                raise BadWeights(f"{path} cannot be read, there is no permission") from None
            raise BadWeights(f"{path} is damaged ({error})") from None
        except ValueError as error:  # torch's, in whose C code a KeyboardInterrupt gets lost
            if "shape of object type 'torch.storage.UntypedStorage'" in str(error):
                raise KeyboardInterrupt from None
            raise
    if expected and expected != digest(state):  # files of earlier versions have none
        raise BadWeights(f"the weights in {directory} are damaged, or shards of different runs")
    return state


class WithoutNumbers(TorchFunctionMode):
    """Inside, fresh weights are not drawn: on the device `meta` they would be nothing, slowly."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in (Tensor.normal_, Tensor.uniform_):
            return args[0]
        return func(*args, **(kwargs or {}))


@contextmanager
def at_most(count: int) -> Iterator[None]:
    """Inside, no modules are made with more parameters: settings may ask for hours of them.

    Raises:
        BadWeights: there are more.
    """
    made = 0

    def note(_module: nn.Module, _name: str, _parameter: nn.Parameter) -> None:
        nonlocal made
        made += 1
        if made > count:
            raise BadWeights("the settings ask for a larger model")

    hook = register_module_parameter_registration_hook(note)
    try:
        yield
    finally:
        hook.remove()


def check_weights(
    weights: dict[str, Tensor], make: Callable[[], nn.Module], *, strict: bool = True
) -> None:
    """Make sure that weights are a model's, and numbers, before it is given any memory.

    Args:
        weights: names and tensors.
        make: builds the model; it is called where tensors have shapes alone.
        strict: whether missing and further names are refused, too.

    Raises:
        BadWeights: they are not; it names the first few that do not fit.
    """
    # A normed weight is registered twice; what little is missing is named below.
    limit = at_most(3 * len(weights) + 100) if strict else nullcontext()
    with torch.device("meta"), WithoutNumbers(), limit:
        expected = make().state_dict()
    wrong = [f"{n} is missing" for n in expected if n not in weights] if strict else []
    wrong += [f"{n} is not of this model" for n in weights if n not in expected] if strict else []
    for name, tensor in weights.items():
        if name in expected and tensor.shape != expected[name].shape:
            shapes = f"{tuple(tensor.shape)}, not {tuple(expected[name].shape)}"
            wrong.append(f"{name} has shape {shapes}")
        elif not tensor.isfinite().all():
            wrong.append(f"{name} holds numbers that are not finite")
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise BadWeights("; ".join(wrong[:3]) + more)
