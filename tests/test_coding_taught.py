"""The coder that chapter 9 teaches, and the files that it is compared with."""

import json
import math
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from rrvqlib import data, load
from rrvqlib.coding import Codec
from rrvqlib.likelihoods import pixels_to_reals
from rrvqlib.teaching import ans, fixed_length, formats

STARTS = [0, 8, 12, 15, 16]


def test_a_push_in_numbers():
    """5 = 1 * 4 + 1: one whole row is passed, then the second of the symbol's four seats."""
    assert ans.push(5, 1, STARTS) == 16 + 8 + 1
    assert ans.pop(25, STARTS) == (1, 5)


def test_push_and_pop_undo_each_other_and_no_number_is_left_over():
    for k in range(4):
        for n in range(200):
            assert ans.pop(ans.push(n, k, STARTS), STARTS) == (k, n)
    reached = {ans.push(n, k, STARTS) for k in range(4) for n in range(800)}
    assert set(range(800)) <= reached  # every number is one symbol and one state


def test_the_nth_number_that_a_symbol_owns():
    owned = [n for n in range(400) if ans.pop(n, STARTS)[0] == 2]
    assert owned[:7] == [12, 13, 14, 28, 29, 30, 44]
    assert owned == [ans.push(n, 2, STARTS) for n in range(len(owned))]


def test_a_message_costs_its_price():
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(20))
    message = rng.choice(20, size=2000, p=p).tolist()
    table = ans.to_starts(torch.tensor(p).log())
    tables = np.broadcast_to(table, (2000, 21))
    state = ans.push_all(1, message, tables)
    price = -sum(math.log2(p[k]) for k in message)
    assert price < len(ans.to_bytes(state)) * 8 < 1.002 * price + 16
    assert ans.pop_all(state, tables) == (message, 1)
    assert ans.to_bytes(258) == b"\x01\x02"


@pytest.mark.parametrize("K", [2, 64, 256])
def test_whole_frequencies_are_never_zero_and_cost_little(K):
    log_p = (10 * torch.randn(50, K, generator=torch.Generator().manual_seed(0))).log_softmax(-1)
    starts = ans.to_starts(log_p)
    frequencies = np.diff(starts)
    assert starts.shape == (50, K + 1) and (starts[:, -1] == 2**16).all()
    assert frequencies.min() >= 1
    excess = log_p.double().numpy() / math.log(2) - np.log2(frequencies / 2**16)
    assert excess.max() <= -math.log2(1 - K / 2**16) + 1e-9


def test_a_jpeg_is_its_header_and_its_payload():
    image = data.load("photos", image_size=32).test[0]
    small, large = formats.jpeg(image, 5), formats.jpeg(image, 95)
    assert 0 < small.payload < small.bits < large.bits
    assert small.image.shape == image.shape and small.image.dtype == torch.uint8
    file = formats.written(image, "JPEG", quality=5, subsampling="4:2:0", optimize=True)
    assert 8 * (len(file) - formats.header(file)) == small.payload
    assert torch.equal(formats.seen(formats.written(image, "PNG")), image)


@pytest.mark.parametrize("coder", [*formats.JPEG, *formats.WEBP])
def test_more_bits_more_decibels(coder):
    images = data.load("photos", image_size=32).test[:3]
    curve = formats.rate_distortion(images, coder, (5, 50, 90))
    assert curve.shape == (3, 3) and (np.diff(curve, axis=0) > 0).all()
    levels = [formats.decibels_at(bits, images[0], [coder]) for bits in (200, 800, 2000)]
    assert levels == sorted(levels)
    one = coder(images[0], 50)
    at = formats.decibels_at(one.payload, images[0], [coder])
    assert at == pytest.approx(formats.psnr(images[:1], one.image[None]))


def test_the_best_that_fits():
    image = data.load("photos", image_size=32).test[1]
    exact = formats.jpeg(image, 60)
    chosen = formats.best_under(exact.payload, image, [formats.jpeg])
    assert torch.equal(chosen, exact.image)
    least = formats.best_under(0, image, formats.JPEG)
    assert torch.equal(least, formats.jpeg(image, 0).image)


def test_of_two_jpegs_the_better_counts():
    image = data.load("photos", image_size=32).test[1]
    for budget in (300, 4000):
        each = [formats.decibels_at(budget, image, [coder]) for coder in formats.JPEG]
        assert formats.decibels_at(budget, image, formats.JPEG) == max(each)
        seen = [
            formats.best_under(budget, image, coders) for coders in (formats.JPEG[:1], formats.JPEG)
        ]
        levels = [formats.psnr(image[None], one[None]) for one in seen]
        assert levels[0] <= levels[1]
    assert each[1] > each[0] + 0.5  # many bits: colour at full resolution is far better


def test_gains_picture_by_picture():
    codec = Codec(load("cifar10-cpu"))
    images = data.load("photos", image_size=32).test[:2]
    coded, seen = codec.encode_codes(images[1:], 6)
    rival = formats.decibels_at(coded.net_bits, images[1], formats.JPEG)
    found = formats.gains(codec, images, formats.JPEG)
    assert len(found) == 2
    assert found[1] == pytest.approx(formats.psnr(images[1:], seen) - rival)


def test_bits_per_dim_of_files():
    images = data.load("photos", image_size=32).test[:2]
    size = sum(len(formats.written(image, "PNG")) for image in images)
    assert formats.lossless_bits_per_dim(images, "PNG") == 8 * size / images.numel()


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
def test_the_interactive_figure_pushes_and_pops_as_the_library_does():
    chapter = Path(__file__).resolve().parent.parent / "book/09-compression.ipynb"
    cells = json.loads(chapter.read_text())["cells"]
    text = "".join("".join(cell["source"]) for cell in cells)
    maths = text.split("// ans-maths")[1].split("// end of ans-maths")[0]
    states = [*range(60), 10**30 + 7]
    script = f"""{maths}
    const found = {json.dumps(list(map(str, states)))}.map((text) => {{
      const n = BigInt(text), last = pop(n);
      return [...[0, 1, 2, 3].map((k) => push(n, k).n), last.k, last.n].map(String);
    }});
    console.log(JSON.stringify(found));"""
    run = subprocess.run(["node", "-e", script], capture_output=True, text=True, check=True)
    for state, found in zip(states, json.loads(run.stdout), strict=True):
        pushed = [ans.push(state, k, STARTS) for k in range(4)]
        assert list(map(int, found)) == [*pushed, *ans.pop(state, STARTS)]


def test_codes_at_fixed_length_are_2275_bits_of_a_file_and_come_back(tmp_path):
    """Appendix F's count, from a file on disk; what is seen is what the library's codec sees."""
    codec = Codec(load("photos64-l5-cpu"))
    images = data.load("photos", image_size=64).test[:3]
    assert fixed_length.bits(codec.model) == [256 * 7, 64 * 6, 16 * 5, 4 * 4, 3]
    for number, image in enumerate(images.split(1)):
        path = tmp_path / f"{number}.bin"
        path.write_bytes(fixed_length.to_file(codec.model, image))
        assert path.stat().st_size == 285 and fixed_length.bits_in(path.read_bytes()) == 2275
        _, (seen,) = codec.encode_codes(image, 5)
        assert torch.equal(fixed_length.from_file(codec.model, path.read_bytes())[0], seen)
    other = fixed_length.to_file(codec.model, images[:1])  # the file is of this picture
    assert not torch.equal(fixed_length.from_file(codec.model, other)[0], seen)


def test_the_layout_of_a_fixed_length_file():
    """By hand: digits of base K, the top layer's first symbol lowest, a 1 above all."""
    codec = Codec(load("photos64-l5-cpu"))
    model, image = codec.model, data.load("photos", image_size=64).test[:1]
    number = int.from_bytes(fixed_length.to_file(model, image), "big")
    with torch.no_grad():
        feature = model.encoder(pixels_to_reals(image).double())[-1]
        layer = model.layers[-1]
        log_q = layer.latent.log_posterior(layer.posterior(feature, model.decoder.top(1)))
    assert number % 8 == log_q.argmax().item() and number >> 2275 == 1
