"""Models that come with the library, each by its name: a folder of `rrvqlib/weights`.

Every folder holds what `save_pretrained` writes, and a README.md that says what the model is.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rrvqlib.errors import UserError

if TYPE_CHECKING:
    from rrvqlib.models.base import VAE

WEIGHTS = Path(__file__).resolve().parent.parent / "weights"
HUB = "hub:"  # of a repository on the Hugging Face Hub
LICENCE = "MIT"  # of all weights below; the images are not part of them


@dataclass(frozen=True)
class ReadyModel:
    """What `rrvq models` says of a model beside its size.

    Attributes:
        dataset: that it was trained on, a key of `rrvqlib.data.DATASETS`.
        bits_per_dim: of the test images, the one-sample ELBO; as in its run's results.json.
        about: how it was trained, in a few words.
    """

    dataset: str
    bits_per_dim: float
    about: str


READY = {
    "photos": ReadyModel("photos", 6.001, "seven minutes of a busy CPU"),
    "photos64-l5-cpu": ReadyModel("photos", 5.928, "codes of 2,275 bits, 13 minutes of a CPU"),
    "cifar10-cpu": ReadyModel("cifar10", 4.851, "85 minutes of a CPU"),
    "cifar10-cpu-mixture": ReadyModel("cifar10", 4.276, "mixture likelihood, 90 minutes of a CPU"),
    "cifar10-l32-c64": ReadyModel("cifar10", 4.427, "seven minutes of a GPU, half of the images"),
}


def find_model(name: str | Path) -> Path:
    """The folder of a model.

    Args:
        name: of a ready model, the path of a run's folder, or `hub:OWNER/NAME`, whose files are
            fetched once and kept. A run's folder goes before a ready model.

    Raises:
        UserError: there is no such model, or the Hub cannot be reached.
    """
    if not isinstance(name, (str, os.PathLike)) or not os.fspath(name):
        raise UserError(f"{name!r} is no model; give a run's folder, or one of {', '.join(READY)}")
    text = os.fspath(name)
    if text.startswith(HUB):
        return fetched(text.removeprefix(HUB))
    files = "config.json", "run.json"  # of a run that is not yet finished, the second alone
    if text in READY and not any((Path(text) / file).exists() for file in files):
        return WEIGHTS / text
    if not os.path.lexists(text) and os.path.basename(text) == text:
        raise UserError(
            f"there is no folder {text}, and no ready model of this name; ready are"
            f" {', '.join(READY)}"
        )
    return Path(text)


def fetched(repository: str, **options: Any) -> Path:
    """Where the files of a repository on the Hub are, once they are fetched; no pickle among them.

    Args:
        repository: OWNER/NAME.
        options: of huggingface_hub's `snapshot_download`.

    Raises:
        UserError: it cannot be reached, or there is none of this name.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    from rrvqlib.models.saved import FILES

    try:
        return Path(snapshot_download(repository, allow_patterns=FILES, **options))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise UserError(
            f"{HUB}{repository} cannot be fetched ({error}); check its name (OWNER/NAME) and the"
            " network, or give the path of a folder"
        ) from None


def folder_or_repository(
    name: str | Path,
    *,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    force_download: bool = False,
    local_files_only: bool = False,
    token: str | bool | None = None,
) -> Path:
    """The folder of that name, or the files of the repository OWNER/NAME.

    Args:
        name: of one of them.
        revision, cache_dir, force_download, local_files_only, token: of a repository, see
            huggingface_hub's `snapshot_download`.

    Raises:
        UserError: there is no such folder, and no such repository.
    """
    from rrvqlib.models.saved import as_folder

    directory = as_folder(name)
    if os.path.lexists(directory):
        return directory
    text = os.fspath(name).removeprefix(HUB)
    if text.count("/") != 1 or text.startswith(("/", ".")):
        raise UserError(f"there is no folder {text}, and it is not the OWNER/NAME of a repository")
    return fetched(
        text,
        revision=revision,
        cache_dir=cache_dir,
        force_download=force_download,
        local_files_only=local_files_only,
        token=token,
    )


def load(name: str | Path) -> VAE:
    """A trained model, in float32 on the CPU, ready to sample from, to score and to code with.

    Args:
        name: see `find_model`.

    Raises:
        UserError: there is no such model, or its files are damaged.
    """
    from rrvqlib.models.saved import load_model

    return load_model(find_model(name))


def dataset_of(folder: Path) -> str | None:
    """What a ready model was trained on; None where a folder is no ready model's."""
    return READY[folder.name].dataset if folder.parent == WEIGHTS else None


def describe(name: str) -> dict[str, Any]:
    """Of a ready model its name, data, size, score and history: a row of `rrvq models`."""
    folder, ready = WEIGHTS / name, READY[name]
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    files = sorted(folder.glob("model*.safetensors"))
    return {
        "name": name,
        "data": ready.dataset,
        "image_size": config["image_size"],
        "layers": len(config["pyramid"]),
        "megabytes": sum(file.stat().st_size for file in files) / 1e6,
        "bits_per_dim": ready.bits_per_dim,
        "licence": LICENCE,
        "about": ready.about,
    }
