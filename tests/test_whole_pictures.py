"""Pictures of any size through a model, and the command that shows them."""

import numpy as np
import pytest
import torch
from helpers import TINY, VQVAE
from PIL import Image

import rrvqlib
from rrvqlib import cli, data, reconstruct
from rrvqlib.coding.whole_pictures import kept_layers, poster, read_whole, rebuild
from rrvqlib.errors import UserError
from rrvqlib.likelihoods.base import reals_to_pixels
from rrvqlib.models import build
from rrvqlib.objectives.elbo import bits_per_dim
from rrvqlib.runs.pictures import STRIP
from rrvqlib.runs.scoring import seeded
from rrvqlib.settings import changed


@pytest.fixture(scope="module")
def model():
    return rrvqlib.load("photos")


def picture(height, width, seed=0):
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (-(-height // 8), -(-width // 8), 3), dtype=np.uint8)
    whole = coarse.repeat(8, 0).repeat(8, 1)[:height, :width]
    return torch.from_numpy(whole.copy()).permute(2, 0, 1)


def test_one_tile_is_what_the_model_says_of_it(model):
    """The model's own ELBO, KL and reconstruction, by its other road."""
    image = picture(32, 32)
    found = rebuild(model, image, seed=3)
    with torch.no_grad(), seeded(3):
        terms = model(image[None])
    with seeded(3):
        again = reals_to_pixels(model.reconstruct(image[None]))
    dims = model.settings.dims
    assert found.tiles == 1 and found.kept == [1, 2, 3, 4]
    assert found.bits_per_dim == pytest.approx(bits_per_dim(terms.elbo, dims).item(), abs=1e-6)
    from_the_top = [bits_per_dim(-terms.kl[0, -n:].sum(), dims).item() for n in found.kept]
    assert found.code_bits_per_dim == pytest.approx(from_the_top, abs=1e-6)
    assert torch.equal(found.pictures[-1], again[0])


def test_tiles_are_put_together_in_their_places(model):
    images = data.load("photos", image_size=64).valid
    image = images[images.float().flatten(1).std(1).argmax()][:, :, :50]
    whole = rebuild(model, image).pictures[-1].float()
    assert whole.shape == image.shape
    errors = (whole - image).abs().mean().item()
    moved = (whole.roll(32, 2) - image).abs().mean().item()
    assert errors < moved / 2


@pytest.mark.parametrize("sides", [(1, 1), (5, 70), (33, 32)])
def test_any_size(model, sides):
    found = rebuild(model, picture(*sides))
    assert all(one.shape == (3, *sides) for one in found.pictures)
    assert poster(found).dtype == torch.uint8


@pytest.mark.parametrize(
    "flags",
    [VQVAE, {"latent": "gaussian"}, {"latent": "binary", "codebook_size": None}, {"groups": 3}],
    ids=str,
)
def test_every_kind_of_model(flags):
    flags = {name: value for name, value in flags.items() if value is not None}
    settings = changed(TINY, **flags).model
    torch.manual_seed(0)
    found = rebuild(build(settings).eval(), picture(20, 9))
    assert found.kept[-1] == len(settings.pyramid)
    assert found.bits_per_dim > 0


def test_layers_that_are_shown():
    assert kept_layers(1) == [1]
    assert kept_layers(7) == [1, 2, 3, 4, 5, 6, 7]
    assert kept_layers(8) == [1, 2, 4, 8]
    assert kept_layers(32) == [1, 2, 4, 8, 16, 32]
    assert kept_layers(33) == [1, 2, 4, 8, 16, 32, 33]


def test_the_poster_has_a_panel_for_each(model):
    found = rebuild(model, picture(80, 200))
    assert poster(found).shape == (3, STRIP + 80, 5 * 206 - 6)
    small = rebuild(model, picture(20, 40))  # enlarged four times
    assert poster(small).shape == (3, STRIP + 80, 5 * 166 - 6)


def test_long_pictures_are_shrunk(tmp_path):
    Image.fromarray(picture(300, 600).permute(1, 2, 0).numpy()).save(tmp_path / "a.png")
    pixels, size = read_whole(tmp_path / "a.png", 100)
    assert size == (600, 300) and pixels.shape == (3, 50, 100)
    pixels, _ = read_whole(tmp_path / "a.png", 0)
    assert torch.equal(pixels, picture(300, 600))


def test_the_command(tmp_path, capsys):
    for name, sides in (("a.png", (70, 90)), ("b.png", (6, 40))):
        Image.fromarray(picture(*sides).permute(1, 2, 0).numpy()).save(tmp_path / name)
    files = [str(tmp_path / name) for name in ("a.png", "b.png")]
    out = str(tmp_path / "out.png")
    line = ["photos", *files, "--longest", "64", "--out", out, "--device", "cpu"]
    cli.run(reconstruct.main, line)
    told = capsys.readouterr().out
    assert "a.png: 90x70 pixels, shrunk to 64x50, 4 tiles of 32x32; " in told
    assert "b.png: 40x6 pixels, 2 tiles of 32x32; " in told
    assert told.count("layers kept  bits/dim of codes  PSNR in dB  SSIM") == 2
    assert Image.open(out).width == 5 * 198 - 6
    for argv, mentions in (
        ([*line[:2], "--out", files[0]], "exists"),
        ([*line[:2], "--out", files[0], "--force"], "which this command reads"),
        (["photos", "--dataset", "photos", files[0]], "give one of them"),
        (["photos", str(tmp_path / "c.png"), "--out", str(tmp_path / "d.png")], "does not exist"),
        (["photos", files[0], "--longest", "-1"], "--longest"),
    ):
        with pytest.raises(SystemExit) as exit_:
            cli.run(reconstruct.main, argv)
        assert exit_.value.code == 2
        assert mentions in capsys.readouterr().err


def test_what_is_no_picture_of_the_model_s_is_refused():
    model = build(TINY.model).train()
    for bad in (torch.rand(3, 9, 9), torch.zeros(1, 9, 9, dtype=torch.uint8)):
        with pytest.raises(UserError):
            rebuild(model, bad)
    rebuild(model, torch.zeros(3, 9, 9, dtype=torch.uint8))
    assert model.training
