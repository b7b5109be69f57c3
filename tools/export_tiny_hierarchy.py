"""Write the weights that the hierarchy in the page needs: book/_static/tiny-hierarchy-weights.js.

python tools/export_tiny_hierarchy.py

Reads book/results/tiny-hierarchy: the generative half of its model, with weight norm folded into
the weights, and the codes of a few test images. Also draws book/_static/tiny-hierarchy.png, which
readers without JavaScript see. The encoder stays here; a page needs none to play with codes.
"""

from __future__ import annotations

import argparse
import base64
import json
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.utils import parametrize

from rrvqlib import data
from rrvqlib.errors import UserError
from rrvqlib.latents.codebook import CodebookLatent
from rrvqlib.likelihoods import pixels_to_reals, reals_to_pixels
from rrvqlib.models import HierarchicalVAE, load_model
from rrvqlib.models.base import only
from rrvqlib.runs.folder import read_run_settings
from rrvqlib.settings import ModelSettings, flattened

BOOK = Path(__file__).resolve().parent.parent / "book"
RUN, STATIC = BOOK / "results" / "tiny-hierarchy", BOOK / "_static"
EXAMPLES = (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11)  # test images
PAGE_NAMES = {"top_vector": "top"}  # what the page calls otherwise than the library
# Viridis at five points; the page has the same.
COLOURS = [(68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37)]


def require_what_the_page_can_draw(settings: ModelSettings) -> None:
    """The page's decoder holds the parts that this run uses and no others.

    Raises:
        UserError: the model has other parts.
    """
    wanted = {
        "model": "hierarchy",
        "latent": "relaxed",
        "decoder_input": "concat",
        "blocks": 1,
        "ladder_blocks": 0,
        "covariance": "isotropic",
        "prior": "embedding",
        "top_prior": "learnt",
    }
    found = flattened(settings)
    for name, value in wanted.items():
        if found.get(name) != value:
            raise UserError(
                f"{RUN}: {name} is {found.get(name)!r}, the page can only run {value!r}; "
                "train the run again with that setting"
            )
    if settings.pyramid[0] * 2 != settings.image_size:
        raise UserError(f"{RUN}: the first layer's side must be half the image's; train it again")


def fold_weight_norm(model: nn.Module) -> None:
    """Replace each weight-normed layer's direction and gain by their product, in place."""
    for module in list(model.modules()):
        if parametrize.is_parametrized(module, "weight"):
            parametrize.remove_parametrizations(module, "weight")


def generative_tensors(model: HierarchicalVAE) -> dict[str, Tensor]:
    """Everything between the codes and the picture, float16; weight norm already folded."""
    return {
        name: tensor.half()
        for name, tensor in model.decoder.state_dict().items()
        if "qladder" not in name and "qstrap" not in name
    }


@torch.no_grad()
def most_probable_codes(model: HierarchicalVAE, images: Tensor) -> list[Tensor]:
    """uint8 images (B, 3, S, S) -> the posterior's most probable codes, each layer (B, H, W).

    They are chosen from the top down, each given those above it; l = 1 comes first.
    """
    features = model.encoder(pixels_to_reals(images))
    latents = only(CodebookLatent, model.latents)
    state, found = model.decoder.top(len(images)), []
    for layer, latent, feature in reversed(list(zip(model.layers, latents, features, strict=True))):
        codes = latent.log_posterior(layer.posterior(feature, state)).argmax(-1)  # (B, H, W, 1)
        state = layer.decode(state, latent.lookup(codes))
        found.append(codes.squeeze(-1))
    return found[::-1]


@torch.no_grad()
def decode(model: HierarchicalVAE, codes: list[Tensor]) -> Tensor:
    """Codes of each layer (B, H, W), l = 1 first -> means of the pixels (B, 3, S, S)."""
    latents = only(CodebookLatent, model.latents)
    vectors = [latent.lookup(z.unsqueeze(-1)) for latent, z in zip(latents, codes, strict=True)]
    return model.decode(vectors)


def example_codes(model: HierarchicalVAE) -> list[Tensor]:
    """Codes of the example images, each layer (B, H, W); encoded once, then kept with the run.

    The run's data set is wanted only the first time.
    """
    path = RUN / "examples.npz"
    if not path.exists():
        where = read_run_settings(RUN).data
        images = data.load(where.dataset, where.data_dir).test[list(EXAMPLES)]
        layers = [codes.numpy().astype(np.uint8) for codes in most_probable_codes(model, images)]
        np.savez_compressed(path, **{f"layer_{i}": codes for i, codes in enumerate(layers, 1)})
    with np.load(path, allow_pickle=False) as stored:
        return [
            torch.from_numpy(stored[f"layer_{i}"].astype(np.int64))
            for i in range(1, model.settings.layers + 1)
        ]


def colour_ranks(means: Tensor) -> list[int]:
    """Rank of each code along the codebook's principal axis: near codes get near colours."""
    centred = means.double() - means.double().mean(0)  # (K, D)
    axis = torch.linalg.svd(centred, full_matrices=False).Vh[0]
    axis = axis * axis[axis.abs().argmax()].sign()  # the sign that SVD leaves open
    return (centred @ axis).argsort().argsort().tolist()


def page_script(model: HierarchicalVAE, examples: list[Tensor]) -> str:
    """The script that hands weights and example codes to tiny-hierarchy.js."""
    tensors = generative_tensors(model)
    books = [latent.codebook.means for latent in only(CodebookLatent, model.latents)]
    packed = b"".join(t.numpy().astype("<f2").tobytes() for t in tensors.values())
    content = {
        "pyramid": model.settings.pyramid,
        "imageSize": model.settings.image_size,
        "shapes": {PAGE_NAMES.get(name, name): list(t.shape) for name, t in tensors.items()},
        "colourRanks": [colour_ranks(means) for means in books],
        "examples": [
            [codes[i].flatten().tolist() for codes in examples] for i in range(len(examples[0]))
        ],
        "float16": base64.b64encode(packed).decode(),
    }
    about = "/* Made by tools/export_tiny_hierarchy.py from book/results/tiny-hierarchy. */\n"
    return f"{about}globalThis.TINY_HIERARCHY = {json.dumps(content, separators=(',', ':'))};\n"


def still_picture(model: HierarchicalVAE, examples: list[Tensor], side: int = 160) -> Image.Image:
    """Three examples: their codes, from the top layer down, and their pictures."""
    shown = [codes[:3] for codes in examples]
    pictures = reals_to_pixels(decode(model, shown)).permute(0, 2, 3, 1).numpy()
    books = [latent.codebook.means for latent in only(CodebookLatent, model.latents)]
    gap, columns = 10, len(shown) + 1
    size = (columns * (side + gap) - gap, len(pictures) * (side + gap) - gap)
    sheet = Image.new("RGB", size, "white")
    for row, picture in enumerate(pictures):
        tiles = [picture]
        for codes, means in zip(shown, books, strict=True):
            ranks = np.array(colour_ranks(means))[codes[row].numpy()]
            place = ranks / (len(means) - 1) * (len(COLOURS) - 1)
            channels = [
                np.interp(place, range(len(COLOURS)), c) for c in zip(*COLOURS, strict=True)
            ]
            tiles.insert(1, np.stack(channels, -1).round().astype(np.uint8))
        for column, tile in enumerate([*tiles[1:], tiles[0]]):
            enlarged = Image.fromarray(tile).resize((side, side), Image.Resampling.NEAREST)
            sheet.paste(enlarged, (column * (side + gap), row * (side + gap)))
    return sheet


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()  # --help, and nothing else
    try:
        model = load_model(RUN)
        require_what_the_page_can_draw(model.settings)
        examples = example_codes(model)
    except UserError as error:
        sys.exit(f"error: {error}")
    fold_weight_norm(model)
    (STATIC / "tiny-hierarchy-weights.js").write_text(page_script(model, examples))
    still_picture(model, examples).save(STATIC / "tiny-hierarchy.png", optimize=True)


if __name__ == "__main__":
    main()
