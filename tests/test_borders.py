"""What a model is given is checked once, at every public entry; foreign weights likewise."""

import json

import numpy as np
import pytest
import torch
from helpers import TINY, VQVAE, lively
from safetensors.torch import load_file, save_file
from torch.utils._python_dispatch import TorchDispatchMode

from rrvqlib.coding.codec import Codec
from rrvqlib.data.pixels import check_pixels
from rrvqlib.errors import UserError
from rrvqlib.models import HierarchicalVAE, build, load_model, save_model
from rrvqlib.runs.pictures import reconstruction_pairs, sample_images
from rrvqlib.runs.scoring import importance_weighted_score, score
from rrvqlib.settings import ModelSettings, changed


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return build(TINY.model).eval()


IMAGES = torch.randint(0, 256, (3, 3, 8, 8), dtype=torch.uint8)
BAD = {
    "uint8 from 0 to 255: images.mul(255)": IMAGES.float() / 255,
    "add(1).mul(127.5)": IMAGES.float() / 127.5 - 1,
    "round().clamp": IMAGES.float() - 20,
    "clamp(0, 255).to(torch.uint8)": IMAGES.long() * 2,
    "* 255": IMAGES > 9,
    "images[None]": IMAGES[0],
    "permute(0, 3, 1, 2)": IMAGES.permute(0, 2, 3, 1),
    "expand(-1, 3, -1, -1)": IMAGES[:, :1],
    "images[:, :3]": torch.cat([IMAGES, IMAGES[:, :1]], 1),
    "8x8": IMAGES[:, :, :4, :4],
    "B of 1 or more": IMAGES[:0],
    "torch.as_tensor": IMAGES.numpy(),
}


@pytest.mark.parametrize("remedy", BAD)
def test_pixels_of_another_kind_are_refused_with_the_conversion(remedy, model):
    images = BAD[remedy]
    for entry in (
        model,
        model.reconstruct,
        model.initialise,
        lambda x: score(model, x),
        lambda x: importance_weighted_score(model, x, 2),
        lambda x: check_pixels(x, 8),
    ):
        with pytest.raises(UserError) as error:
            entry(images)
        assert remedy in str(error.value)


def test_the_advised_conversion_gives_the_images_back():
    for scaled in (IMAGES.float() / 255, IMAGES.float() / 127.5 - 1):
        with pytest.raises(UserError) as error:
            check_pixels(scaled)
        code = str(error.value).partition(": ")[2].partition(",")[0]
        assert torch.equal(eval(code, {"images": scaled, "torch": torch}), IMAGES)


def test_the_codec_takes_bytes_of_its_size_alone(model):
    pytest.importorskip("constriction")
    from rrvqlib.coding.codec import Codec

    codec = Codec(model)
    for image in (IMAGES[0].float() / 255, IMAGES[0, :1], IMAGES[0, :, :4], IMAGES[0].long()):
        with pytest.raises(UserError):
            codec.encode([image])
        with pytest.raises(UserError):
            codec.encode_codes([image], 1)
    for layers in (0, 3):
        with pytest.raises(UserError, match="1 to 2"):
            codec.encode_codes(IMAGES, layers)


@pytest.mark.parametrize("n", [0, -1, 2.5, True, "2", None])
def test_numbers_of_samples_are_checked(n, model):
    with pytest.raises(UserError, match="samples"):
        model.sample(n)


@pytest.mark.parametrize(
    "temperature", [-1.0, float("nan"), float("inf"), None, "1", [1, 0.5], True, torch.ones(2)]
)
def test_temperatures_are_checked(temperature, model):
    with pytest.raises(UserError, match="temperature"):
        model.sample(1, temperature)


def test_a_temperature_may_come_from_numpy_or_torch(model):
    for one in (1, np.float32(1), torch.tensor(1.0)):
        assert model.sample(2, one).shape == (2, 3, 8, 8)


def test_folders_of_models_are_checked(model, tmp_path):
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match="cannot write .*; choose another path"):
            model.save_pretrained(place)
    for place in (None, "", 3):
        for call in (model.save_pretrained, load_model):
            with pytest.raises(UserError, match=f"^{place!r} is no path; name a folder"):
                call(place)
    model.save_pretrained(tmp_path / "new" / "deep")
    assert load_model(tmp_path / "new" / "deep").settings == model.settings


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_models_of_another_precision_are_refused_in_words(kind):
    other = build(TINY.model).to(kind)
    for entry in (
        lambda: other(IMAGES),
        lambda: other.sample(1),
        lambda: other.reconstruct(IMAGES),
    ):
        with pytest.raises(UserError, match="model.float"):
            entry()


class NoFloat64(TorchDispatchMode):
    """A device without float64, as a Mac's GPU: no operation may make such a tensor there."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else [out]:
            if isinstance(tensor, torch.Tensor) and tensor.dtype == torch.float64:
                raise TypeError(f"{func} made float64")
        return out


VARIANTS = [
    {},
    {"latent": "gaussian"},
    {"latent": "nearest"},
    {"latent": "scalar", "levels": (3, 4)},
    {"latent": "gaussian-mixture"},
    {"latent": "residual", "stages": 2},
    {"latent": "binary"},
    {"latent": "stochastic"},
    {"covariance": "diagonal", "prior": "direct"},
    {"model": "one-layer", "latent": "nearest", "pyramid": (4,)},
    {"model": "one-layer", "pyramid": (4,)},
    {"model": "one-layer", "objective": "vimco", "pyramid": (4,)},
]


@pytest.mark.parametrize("changes", VARIANTS)
def test_a_model_makes_no_float64(changes):
    model = build(changed(TINY, **changes).model)
    with NoFloat64():
        model.initialise(IMAGES)
        terms = model.train()(IMAGES, torch.tensor(1.0))
        terms.elbo.mean().backward()
        model.eval()(IMAGES)
        model.sample(2)


@pytest.fixture
def folder(tmp_path, model):
    save_model(model, tmp_path)
    return tmp_path


def rewrite(folder, change):
    path = folder / "model.safetensors"
    save_file(change(load_file(path)), path)


CHANGES = {
    "missing": lambda state: dict(list(state.items())[1:]),
    "not of this model": lambda state: state | {"more": torch.zeros(1)},
    "is missing": lambda state: {f"module.{name}": value for name, value in state.items()},
    "not finite": lambda state: {n: torch.full_like(v, float("nan")) for n, v in state.items()},
    "has shape": lambda state: {n: v.reshape(-1)[:1].clone() for n, v in state.items()},
}


@pytest.mark.parametrize("what", CHANGES)
def test_weights_that_are_not_the_model_s_are_refused_by_every_reader(what, folder):
    rewrite(folder, CHANGES[what])
    for reader in (load_model, HierarchicalVAE.from_pretrained):
        with pytest.raises(UserError, match=what):
            reader(str(folder))


@pytest.mark.parametrize("text", ["{", "[]", "null", "\udcff", "[" * 100_000])
def test_a_damaged_config_is_refused_by_every_reader(text, folder):
    (folder / "config.json").write_bytes(text.encode(errors="surrogateescape"))
    for reader in (load_model, HierarchicalVAE.from_pretrained):
        with pytest.raises(UserError, match="config.json"):
            reader(folder)


@pytest.mark.parametrize("name", ["/nowhere", "nowhere", "no/where/at/all", "owner/name", None])
def test_a_model_that_is_nowhere_is_refused(name, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match="no folder|cannot be fetched|is no path"):
        HierarchicalVAE.from_pretrained(name)


def test_a_shard_s_name_that_no_disk_holds_is_damage(folder):
    index = {"weight_map": {"a": "x" * 300 + ".safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match="damaged|missing"):
        load_model(folder)


def test_another_model_s_folder_is_refused(tmp_path):
    save_model(
        build(changed(TINY, model="one-layer", latent="nearest", pyramid=(4,)).model), tmp_path
    )
    with pytest.raises(UserError, match="is a OneLayerVAE; call its"):
        HierarchicalVAE.from_pretrained(str(tmp_path))


def test_a_flipped_bit_is_noticed(folder):
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    start = 8 + int.from_bytes(whole[:8], "little")
    for at in range(start, len(whole), max(1, (len(whole) - start) // 60)):
        data = bytearray(whole)
        data[at] ^= 1
        path.write_bytes(data)
        for reader in (load_model, HierarchicalVAE.from_pretrained):
            with pytest.raises(UserError):
                reader(str(folder))


@pytest.mark.parametrize(
    "absurd",
    [{"blocks": 10**6}, {"channels": 10**6}, {"codebook_size": (10**9,)}, {"pyramid": (4,) * 5000}],
)
def test_absurd_settings_are_refused_before_a_network_is_built(absurd):
    with pytest.raises(UserError, match="at most|1 to 1000 layers"):
        changed(ModelSettings(), **{"image_size": 8, "pyramid": (4, 2), "channels": 4, **absurd})


def test_settings_that_do_not_fit_the_weights_take_no_memory(folder):
    path = folder / "config.json"
    path.write_text(path.read_text().replace('"channels": 4', '"channels": 30000'))
    with pytest.raises(UserError, match="has shape"):
        load_model(folder)  # 30,000 channels are 130 GB


@pytest.mark.parametrize(
    "kind", [{}, {"latent": "gaussian"}, {"latent": "binary"}, {"latent": "nearest"}, VQVAE]
)
def test_pictures_of_numbers_that_are_not_finite_are_refused(kind):
    broken = lively(changed(TINY.model, **kind))
    with torch.no_grad():
        for parameter in broken.parameters():
            parameter.zero_()
    for entry in (
        lambda: sample_images(broken, 2),
        lambda: sample_images(broken, 2, 0.0),
        lambda: reconstruction_pairs(broken, IMAGES),
    ):
        with pytest.raises(UserError, match="not a number"):
            entry()


@pytest.mark.parametrize("part", ["pstrap", "qladder"])
def test_no_code_is_coded_with_a_layer_that_gives_no_numbers(part):
    broken = lively(TINY.model)
    with torch.no_grad():
        getattr(broken.layers[0], part).project.bias.fill_(torch.nan)
    pytest.importorskip("constriction", reason="needs pip's constriction")
    for encode in (Codec(broken).encode, lambda images: Codec(broken).encode_codes(images, 2)):
        with pytest.raises(UserError, match="not a number"):
            encode([IMAGES[0]])
