"""Pictures: where images land in a grid, what is in a file, seeds."""

import numpy as np
import pytest
import torch
from helpers import TINY
from PIL import Image

from rrvqlib.errors import UserError
from rrvqlib.models import build
from rrvqlib.runs.pictures import (
    grid,
    reconstruction_pairs,
    sample_images,
    write_png,
    write_run_pictures,
)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return build(TINY.model).eval()


def images(n, side=8):
    return torch.randint(0, 256, (n, 3, side, side), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("n", "columns"), [(1, 1), (5, 3), (6, 3), (2, 8)])
def test_a_grid_equals_a_loop_over_pixels(n, columns):
    pictures = images(n, side=3).byte()
    rows = -(-n // columns)
    expected = np.full((3, 5 * rows - 2, 5 * columns - 2), 255, dtype=np.uint8)
    for k in range(n):
        for y in range(3):
            for x in range(3):
                expected[:, 5 * (k // columns) + y, 5 * (k % columns) + x] = pictures[k, :, y, x]
    np.testing.assert_array_equal(grid(pictures, columns).numpy(), expected)


def test_a_png_holds_the_picture(tmp_path):
    picture = images(1)[0].byte()
    write_png(tmp_path / "a.png", picture)
    with Image.open(tmp_path / "a.png") as file:
        assert (file.format, file.mode, file.size) == ("PNG", "RGB", (8, 8))
        np.testing.assert_array_equal(np.asarray(file), picture.permute(1, 2, 0).numpy())
    assert (tmp_path / "a.png").stat().st_mode & 0o777 == 0o644
    with pytest.raises(UserError, match=r"no/a\.png"):
        write_png(tmp_path / "no" / "a.png", picture)
    (tmp_path / "model.safetensors").write_text("precious")
    for name in ("model.safetensors", "a.jpg", "a"):
        with pytest.raises(UserError, match=r"ends in \.png"):
            write_png(tmp_path / name, picture)
    assert (tmp_path / "model.safetensors").read_text() == "precious"


def test_samples_depend_on_the_seed_alone(model):
    one = sample_images(model, 70, seed=3)  # more than one batch of 64
    torch.rand(5)
    assert one.shape == (70, 3, 8, 8) and one.dtype == torch.uint8
    assert torch.equal(one, sample_images(model, 70, seed=3))
    assert not torch.equal(one, sample_images(model, 70, seed=4))
    likeliest = sample_images(model, 3, temperature=0.0)
    assert torch.equal(likeliest, sample_images(model, 3, temperature=0.0, seed=9))


def test_pictures_leave_the_random_numbers_alone(model):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    sample_images(model, 2)
    reconstruction_pairs(model, images(2).byte())
    assert torch.equal(torch.rand(3), expected)


def test_pairs_are_reconstruction_then_original(model):
    originals = images(3).byte()
    pairs = reconstruction_pairs(model, originals)
    assert torch.equal(pairs[1::2], originals)
    assert pairs.dtype == torch.uint8 and not torch.equal(pairs[::2], originals)


def test_many_images_are_reconstructed_in_parts(model, monkeypatch):
    sizes, reconstruct = [], model.reconstruct

    def counted(part, labels):
        sizes.append(len(part))
        return reconstruct(part, labels)

    monkeypatch.setattr(model, "reconstruct", counted)
    originals = images(130).byte()
    pairs = reconstruction_pairs(model, originals)
    assert sizes == [64, 64, 2] and torch.equal(pairs[1::2], originals)


def test_the_pictures_of_a_run_have_their_sizes(model, tmp_path):
    write_run_pictures(model, images(40).byte(), tmp_path, seed=0)
    assert Image.open(tmp_path / "samples.png").size == (78, 78)
    assert Image.open(tmp_path / "reconstructions.png").size == (78, 78)
    write_run_pictures(model, images(3).byte(), tmp_path, seed=0)  # fewer test images than places
    assert Image.open(tmp_path / "reconstructions.png").size == (78, 8)
