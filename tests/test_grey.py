"""Images of one channel: likelihoods, models, data sets, files, and what refuses the other kind."""

import struct

import numpy as np
import pytest
import torch
from helpers import TINY, TINY_FLAGS
from PIL import Image

from rrvqlib import compress, data, load, reconstruct, sample, train
from rrvqlib.coding.codec import Codec
from rrvqlib.coding.container import fingerprint
from rrvqlib.data.pixels import check_pixels
from rrvqlib.data.torchvision_import import torchvision
from rrvqlib.errors import UserError
from rrvqlib.likelihoods import EdgeLogistic, Logistic, LogisticMixture, PixelLogistic
from rrvqlib.models import build
from rrvqlib.settings import SettingError, changed

GREY = changed(TINY, image_channels=1).model
EXACT = {  # with masses that sum to 1
    "edge": EdgeLogistic(1),
    "pixel": PixelLogistic(1),
    "mixture": LogisticMixture(4, 1),
}


def noise(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def write_grey(path, train_shape=(40, 8, 8)):
    shades = noise(train_shape[0] + 12).numpy()[:, None, None]
    images = np.broadcast_to(shades, (len(shades), 8, 8)).copy()
    images[:, 2:4] //= 2
    train_images = images[: train_shape[0]].reshape(train_shape)
    np.savez(path, train_images=train_images, test_images=images[train_shape[0] :])
    return f"npz:{path}"


# Likelihoods: all 256 values of a pixel, and limits.


@pytest.mark.parametrize("name", EXACT)
def test_the_masses_of_a_grey_pixel_sum_to_one(name):
    likelihood = EXACT[name]
    parameters = torch.randn(1, likelihood.parameter_channels, 2, 3).double()
    values = torch.arange(256, dtype=torch.uint8).view(256, 1, 1, 1).expand(-1, 1, 2, 3)
    masses = likelihood.log_masses(values, parameters.expand(256, -1, -1, -1)).exp()
    torch.testing.assert_close(masses.sum(0).flatten(), torch.ones(6).double())


def test_a_grey_mixture_of_one_is_a_scale_for_every_pixel():
    one, many = PixelLogistic(1), LogisticMixture(1, 1)
    parameters, images = torch.randn(5, 2, 4, 4), noise(5, 1, 4, 4)
    weight = torch.zeros(5, 1, 4, 4)
    expected = one.log_prob(images, parameters)
    assert torch.allclose(many.log_prob(images, torch.cat([weight, parameters], 1)), expected)


@pytest.mark.parametrize("kind", [Logistic, EdgeLogistic, PixelLogistic])
def test_three_grey_images_are_one_of_three_independent_channels(kind):
    colour, grey = kind(3), kind(1)
    parameters, images = torch.randn(2, colour.parameter_channels, 4, 4), noise(2, 3, 4, 4)
    apart = [
        grey.log_prob(images[:, c : c + 1], parameters[:, c::3])  # means, or means and scales
        for c in range(3)
    ]
    assert torch.allclose(colour.log_prob(images, parameters), sum(apart))


def test_a_grey_mixture_has_three_numbers_a_component_and_draws_what_it_says():
    likelihood = LogisticMixture(5, 1)
    assert likelihood.parameter_channels == 15
    torch.manual_seed(0)
    parameters = torch.randn(1, 15, 1, 1).expand(40_000, -1, -1, -1)
    drawn = likelihood.sample(parameters).flatten().bincount(minlength=256) / 40_000
    values = torch.arange(256, dtype=torch.uint8).view(-1, 1, 1, 1)
    expected = likelihood.log_masses(values, parameters[:256]).exp().flatten()
    assert (drawn.cumsum(0) - expected.cumsum(0)).abs().max() < 0.01  # Kolmogorov and Smirnov


# Models and codec.


@pytest.mark.parametrize("likelihood", ["logistic", "logistic-edge", "logistic-pixel", "mixture"])
@pytest.mark.parametrize("model", ["hierarchy", "one-layer"])
def test_models_of_grey_images_score_sample_and_reconstruct(model, likelihood):
    pyramid = (4, 2) if model == "hierarchy" else (4,)
    settings = changed(GREY, model=model, likelihood=likelihood, pyramid=pyramid)
    vae, images = build(settings), noise(3, 1, 8, 8)
    assert vae.sample(2).shape == vae.reconstruct(images[:2]).shape == (2, 1, 8, 8)
    assert vae(images).log_likelihood.shape == (3,)
    assert settings.dims == 64


def test_the_network_of_fully_connected_layers_takes_grey_images():
    settings = changed(GREY, model="one-layer", network="mlp", pyramid=(4,))
    assert build(settings).sample(2).shape == (2, 1, 8, 8)


@pytest.mark.parametrize("likelihood", ["logistic-edge", "mixture"])
def test_grey_images_are_coded_without_loss_at_the_price_of_the_bound(likelihood):
    torch.manual_seed(0)
    model = build(changed(GREY, likelihood=likelihood))
    images = list(noise(30, 1, 8, 8))
    coded = Codec(model).encode(images)
    assert all(map(torch.equal, Codec(model).decode(coded.words, 30), images))
    with torch.no_grad():
        bits = -model(torch.stack(images)).elbo.sum() / np.log(2)
    assert coded.net_bits == pytest.approx(bits.item(), rel=0.02)


def test_a_colour_model_keeps_its_fingerprint():
    """Files that were written before there were grey models can be read."""
    assert fingerprint(load("photos")).hex() == "2f32503bcee3c445"


def test_other_numbers_of_channels_are_refused():
    with pytest.raises(SettingError, match="3 .colour. or 1 .grey."):
        changed(GREY, image_channels=2)
    grey, colour = noise(2, 1, 8, 8), noise(2, 3, 8, 8)
    with pytest.raises(UserError, match="expand"):
        check_pixels(grey, 8)
    with pytest.raises(UserError, match="for grey images"):
        build(GREY)(colour)
    with pytest.raises(UserError, match="permute"):
        check_pixels(grey.permute(0, 2, 3, 1), 8, 1)


# Data.


@pytest.mark.parametrize("shape", [(40, 8, 8), (40, 8, 8, 1), (40, 1, 8, 8)])
def test_grey_arrays_come_in_three_shapes(shape, tmp_path):
    splits = data.load(write_grey(tmp_path / "grey.npz", shape), image_channels=1)
    again = data.load(write_grey(tmp_path / "plain.npz"))
    assert splits.train.shape == (36, 1, 8, 8) and splits.image_channels == 1
    assert torch.equal(splits.train, again.train) and torch.equal(splits.test, again.test)


def test_arrays_of_other_channels_are_refused_before_they_are_read(tmp_path):
    grey = write_grey(tmp_path / "grey.npz")
    for ask in (data.load, data.check):
        with pytest.raises(UserError, match="are grey; take image_channels 1"):
            ask(grey, image_channels=3)
    np.savez(
        tmp_path / "both.npz",
        train_images=noise(20, 8, 8).numpy(),
        test_images=noise(4, 8, 8, 3).numpy(),
    )
    with pytest.raises(UserError, match=r"differ in channels \(train 1, test 3\)"):
        data.check(f"npz:{tmp_path / 'both.npz'}")
    for name in ("cifar10", "photos"):
        with pytest.raises(UserError, match=f"{name} are in colour; take image_channels 3"):
            data.check(name, image_channels=1)
    with pytest.raises(UserError, match="must be 3"):
        data.check("photos", image_channels=2)


def test_pictures_of_a_folder_are_made_grey_where_that_is_asked(tmp_path):
    for number in range(10):
        shade = noise(6, 6, seed=number).numpy()
        pixels = np.stack([shade] * 3, -1)
        if number == 0:
            pixels[..., 0] = 0  # one picture has colours
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    grey = data.load(f"folder:{tmp_path}", image_size=6, image_channels=1)
    colour = data.load(f"folder:{tmp_path}", image_size=6)
    assert grey.train.shape == (8, 1, 6, 6) and colour.train.shape == (8, 3, 6, 6)
    assert torch.equal(grey.train[1:], colour.train[1:, :1])
    red, green, blue = colour.train[0].double()
    luminance = 0.299 * red + 0.587 * green + 0.114 * blue
    assert (grey.train[0, 0] - luminance).abs().max() < 1
    assert "grey" in grey.description and "1 x its colours" in grey.description


@pytest.fixture(params=["mnist", "fashion-mnist"])
def idx_files(request, tmp_path):
    """A folder with small files of a data set's format, and the set's name."""
    folder = tmp_path / {"mnist": "MNIST", "fashion-mnist": "FashionMNIST"}[request.param] / "raw"
    folder.mkdir(parents=True)
    for split, count in (("train", 50), ("t10k", 20)):
        head = struct.pack(">4i", 0x803, count, 28, 28)
        pixels = noise(count, 28, 28, seed=count).numpy().tobytes()
        (folder / f"{split}-images-idx3-ubyte").write_bytes(head + pixels)
        labels = bytes(n % 10 for n in range(count))
        (folder / f"{split}-labels-idx1-ubyte").write_bytes(
            struct.pack(">2i", 0x801, count) + labels
        )
    return request.param, folder


def test_mnist_is_read_as_torchvision_reads_it(idx_files, tmp_path):
    name, folder = idx_files
    splits = data.load(name, tmp_path)
    for split, file in (("train", "train"), ("test", "t10k")):
        path = str(folder / f"{file}-images-idx3-ubyte")
        read = torchvision.datasets.mnist.read_image_file(path).unsqueeze(1)
        mine = torch.cat([splits.train, splits.valid]) if split == "train" else splits.test
        assert torch.equal(mine, read)
        path = str(folder / f"{file}-labels-idx1-ubyte")
        read, labels = torchvision.datasets.mnist.read_label_file(path), splits.labels
        mine = torch.cat([labels["train"], labels["valid"]]) if split == "train" else labels["test"]
        assert torch.equal(mine, read)
    assert len(splits.class_names) == 10
    assert len(splits.valid) == 5


@pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: b"\0" + b[:3], lambda b: b"\1" + b])
@pytest.mark.parametrize("victim", ["images-idx3", "labels-idx1"])
def test_a_damaged_file_of_mnist_is_refused(victim, damage, idx_files, tmp_path):
    name, folder = idx_files
    file = folder / f"t10k-{victim}-ubyte"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(UserError, match="damaged; remove it and run again"):
        data.load(name, tmp_path)


def test_mnist_is_fetched_from_the_mirror_that_has_it(tmp_path, monkeypatch):
    asked = []

    def fetch(url, folder, md5):
        asked.append(url)
        if len(asked) == 1:
            raise OSError("the first mirror is down")
        count = 50 if "train" in url else 20
        name = url.rpartition("/")[2].removesuffix(".gz")
        folder.mkdir(parents=True, exist_ok=True)
        if "labels" in name:
            (folder / name).write_bytes(struct.pack(">2i", 0x801, count) + bytes(count))
            return
        head = struct.pack(">4i", 0x803, count, 28, 28)
        (folder / name).write_bytes(head + bytes(count * 28 * 28))

    utils = torchvision.datasets.utils
    monkeypatch.setattr(utils, "download_and_extract_archive", fetch)
    splits = data.load("mnist", tmp_path)
    assert len(splits.train) == 45 and len(asked) == 5
    assert sum("labels" in url for url in asked) == 2


def test_mnist_without_a_network_says_what_to_put_where(tmp_path, monkeypatch):
    def fetch(url, folder, md5):
        raise OSError("no network")

    utils = torchvision.datasets.utils
    monkeypatch.setattr(utils, "download_and_extract_archive", fetch)
    with pytest.raises(
        UserError, match=r"FashionMNIST is not complete.*train-images-idx3-ubyte\.gz"
    ):
        data.load("fashion-mnist", tmp_path)
    with pytest.raises(UserError, match="28x28, not 32x32"):
        data.check("fashion-mnist", tmp_path, image_size=32)


# Commands.


@pytest.fixture(scope="module")
def grey_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("grey")
    dataset = write_grey(folder / "grey.npz")
    out = folder / "run"
    flags = [*TINY_FLAGS, "--image_channels", "1", "--likelihood", "mixture"]
    train.main([*flags, "--dataset", dataset, "--out", str(out)])
    return out, dataset


def test_a_run_on_grey_images_writes_grey_pictures(grey_run, tmp_path):
    out, _ = grey_run
    assert Image.open(out / "samples.png").mode == "L"
    assert Image.open(out / "reconstructions.png").mode == "L"
    sample.main([str(out), "--n", "4", "--out", str(tmp_path / "four.png")])
    assert Image.open(tmp_path / "four.png").mode == "L"


def test_training_on_grey_images_without_saying_so_is_refused(tmp_path):
    dataset = write_grey(tmp_path / "grey.npz")
    with pytest.raises(UserError, match="are grey; take image_channels 1"):
        train.main([*TINY_FLAGS, "--dataset", dataset, "--out", str(tmp_path / "run")])
    assert not (tmp_path / "run").exists()


def test_a_grey_picture_makes_the_round_trip_and_a_coloured_one_is_refused(grey_run, tmp_path):
    out, _ = grey_run
    shades = noise(11, 19).numpy()
    Image.fromarray(shades).save(tmp_path / "a.png")
    Image.fromarray(noise(11, 19, 3).numpy()).save(tmp_path / "colour.png")
    file = tmp_path / "a.rrvq"
    compress.main(["encode", str(out), str(tmp_path / "a.png"), "--out", str(file)])
    compress.main(["decode", str(out), str(file), "--out", str(tmp_path / "back")])
    back = Image.open(tmp_path / "back" / "a.png")
    assert back.mode == "L" and np.array_equal(np.array(back), shades)
    with pytest.raises(UserError, match="is in colour, the model is for grey pictures"):
        command = ["encode", str(out), str(tmp_path / "colour.png"), "--out"]
        compress.main([*command, str(tmp_path / "colour.rrvq")])


def test_any_picture_is_rebuilt_by_its_luminance(grey_run, tmp_path, capsys):
    out, _ = grey_run
    Image.fromarray(noise(16, 24, 3).numpy()).save(tmp_path / "colour.png")
    poster = tmp_path / "poster.png"
    reconstruct.main([str(out), str(tmp_path / "colour.png"), "--out", str(poster)])
    assert poster.exists() and "24x16 pixels, 6 tiles of 8x8" in capsys.readouterr().out
