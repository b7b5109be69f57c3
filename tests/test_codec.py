"""Coded images come back bit for bit, at the price of the ELBO, on any number of threads."""

import math
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from helpers import TINY
from hypothesis import given, settings
from hypothesis import strategies as st

from rrvqlib.coding.codec import Codec
from rrvqlib.coding.stack import FREQUENCY_BITS, Stack, frequencies, high_masses, low_masses
from rrvqlib.errors import UserError
from rrvqlib.latents import of_codes
from rrvqlib.likelihoods import pixels_to_reals
from rrvqlib.models import build, load_model, save_model
from rrvqlib.models.base import build_likelihood
from rrvqlib.settings import ModelSettings, changed
from rrvqlib.settings.likelihoods import LIKELIHOODS

pytest.importorskip("constriction", reason="needs pip's constriction")


def make_model(**changes):
    torch.manual_seed(0)
    model = build(changed(changed(TINY, codebook_size=16), **changes).model)
    model.initialise(make_images(32))
    return model.eval()


def slightly_trained(model):
    optimizer = torch.optim.Adamax(model.parameters(), lr=0.02)
    for step in range(60):
        optimizer.zero_grad()
        loss = -model(make_images(32, seed=100 + step), torch.ones(())).elbo.mean()
        loss.backward()
        optimizer.step()
    return model


def make_images(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randint(0, 256, (count, 3, 2, 2), generator=generator, dtype=torch.uint8)
    return coarse.repeat_interleave(4, 2).repeat_interleave(4, 3)


@given(st.integers(2, 300), st.integers(0, 2**32 - 1), st.floats(0.01, 20))
@settings(max_examples=60, deadline=None)
def test_frequencies_are_whole_positive_and_sum_to_the_total(codes, seed, spread):
    torch.manual_seed(seed)
    p = (spread * torch.randn(5, codes)).double().softmax(1)
    whole = frequencies(p)
    assert whole.min() >= 1 and (whole.sum(1) == 1 << FREQUENCY_BITS).all()
    # The price of rounding: at most -log2(1 - K / 2^16) bits.
    loss = np.log2(p.numpy() * (1 << FREQUENCY_BITS) / whole)
    assert loss.max() <= -math.log2(1 - codes / (1 << FREQUENCY_BITS)) + 1e-12


@given(st.integers(0, 2**32 - 1), st.integers(1, 200))
@settings(max_examples=30, deadline=None)
def test_a_stack_gives_back_what_was_pushed_at_its_price(seed, count):
    torch.manual_seed(seed)
    p = (3 * torch.randn(count, 9)).double().softmax(1)
    symbols = torch.multinomial(p, 1)[:, 0]
    stack = Stack()
    stack.push(symbols, p)
    ideal = -p.gather(1, symbols[:, None]).log2().sum().item()
    assert stack.bits <= ideal + 0.01 * count + 64
    again = Stack(stack.words())
    assert torch.equal(again.pop(p), symbols)


@pytest.mark.parametrize("known", [0, 1, 2])
@pytest.mark.parametrize("name", LIKELIHOODS)
def test_high_and_low_bits_together_have_the_mass_of_the_value(name, known):
    torch.manual_seed(known)
    likelihood = build_likelihood(changed(ModelSettings(), likelihood=name)).double()
    parameters = 0.1 * torch.randn(1, likelihood.parameter_channels, 5, 5).double()
    image = torch.randint(0, 256, (1, 3, 5, 5), dtype=torch.uint8)
    with torch.no_grad():
        channel = likelihood.next_channel(parameters, image[:, :known])
        each = channel.below(torch.arange(257)).diff(dim=0).flatten(1).T  # (25, 256)
        high = high_masses(channel)
        low = torch.stack([low_masses(channel, torch.full((25,), h)) for h in range(16)], 1)
    ones = torch.ones(25, 16).double()
    torch.testing.assert_close(high.sum(1), ones[:, 0])
    torch.testing.assert_close(low.sum(2), ones)
    torch.testing.assert_close((high.unsqueeze(2) * low).flatten(1), each, rtol=1e-9, atol=1e-15)


def test_values_without_mass_in_float64_can_be_coded():
    likelihood = build_likelihood(changed(ModelSettings(), likelihood="mixture")).double()
    parameters = torch.full((1, 50, 1, 1), -50.0).double()  # all means at -150, scales tiny
    image = torch.full((1, 3, 1, 1), 255, dtype=torch.uint8)
    with torch.no_grad():
        channel = likelihood.next_channel(parameters, image[:, :2])
        tables = [high_masses(channel), low_masses(channel, torch.tensor([15]))]
    for p in tables:
        assert (frequencies(p) >= 1).all()
        torch.testing.assert_close(p.sum(1), torch.ones(1).double())


VARIANTS = [
    {},
    {"likelihood": "logistic-edge", "covariance": "diagonal"},
    {"likelihood": "logistic-pixel"},
    {"likelihood": "mixture", "components": 3},
    {"prior": "direct", "covariance": "fixed", "top_prior": "uniform"},
    {"decoder_input": "concat", "blocks": 2, "codebook_size": (16, 5)},
    {"latent": "stochastic"},
    {"latent": "stochastic", "prior": "uniform"},
    {"latent": "nearest"},
    {"latent": "scalar", "levels": (4, 3)},
    {"groups": 3},
    {"pyramid": (8, 4), "groups": 3, "prior": "direct", "covariance": "fixed"},
    {"latent": "binary"},
    {"latent": "binary", "embedding_dim": 1, "top_prior": "uniform", "decoder_input": "concat"},
]


@pytest.mark.parametrize("changes", VARIANTS)
def test_images_come_back_and_the_initial_bits_too(changes):
    codec = Codec(make_model(**changes))
    images = make_images(5, seed=1)
    coded = codec.encode(images)
    calls = []
    assert torch.equal(torch.stack(codec.decode(coded.words, 5, calls.append)), images)
    assert len(calls) == 5
    assert coded.initial_bits < 5 * 300  # only what was touched is kept


@pytest.mark.parametrize(
    ("likelihood", "latent"),
    [
        ("logistic-edge", "relaxed"),
        ("logistic-pixel", "relaxed"),
        ("mixture", "relaxed"),
        ("logistic-edge", "binary"),
        ("logistic-edge", "nearest"),
    ],
)
def test_the_net_length_is_the_elbo(likelihood, latent):
    # Untrained posteriors are the prior: every image would pop the codes that the last one pushed.
    model = slightly_trained(make_model(likelihood=likelihood, latent=latent))
    images = make_images(60, seed=2)
    net = Codec(model).encode(images).net_bits
    torch.manual_seed(0)
    with torch.no_grad():
        draws = [model(images, None).log_weight.sum().item() for _ in range(30)]
    promised = -np.mean(draws) / math.log(2)
    assert net == pytest.approx(promised, rel=0.005)


@pytest.mark.parametrize("latent", ["relaxed", "binary"])
def test_codes_cost_what_the_prior_says(latent):
    codec, images = Codec(make_model(latent=latent)), make_images(40, seed=3)
    coded, seen = codec.encode_codes(images, layers=2)
    assert all(map(torch.equal, codec.decode_codes(coded.words, 40, 2), seen))
    model, ideal = codec.model, 0.0
    with torch.no_grad():
        features = model.encoder(pixels_to_reals(images).double())
        state = model.decoder.top(len(images))
        for layer, feature in zip(reversed(model.layers), reversed(features), strict=True):
            codes = layer.latent.log_posterior(layer.posterior(feature, state)).argmax(-1)
            ideal -= of_codes(layer.latent.log_prior(layer.prior(state)), codes).sum().item()
            state = layer.decode(state, layer.latent.lookup(codes))
    assert coded.net_bits == pytest.approx(ideal / math.log(2), rel=0.002, abs=64)


def test_fewer_layers_cost_fewer_bits_and_come_back():
    codec, images = Codec(make_model()), make_images(6, seed=4)
    (one, seen), (both, _) = codec.encode_codes(images, 1), codec.encode_codes(images, 2)
    assert one.net_bits < both.net_bits
    assert all(map(torch.equal, codec.decode_codes(one.words, 6, 1), seen))


def test_whoever_waits_is_told_of_each_image_the_last_first():
    codec = Codec(make_model())
    images = list(make_images(3))
    coded, told = codec.encode(images), []
    assert all(map(torch.equal, codec.decode(coded.words, 3), images))  # nobody waits
    found = codec.decode(coded.words, 3, told.append)
    assert len(found) == 3 and all(map(torch.equal, told, found[::-1]))
    coded, seen = codec.encode_codes(images, 1)
    del told[:]
    found = codec.decode_codes(coded.words, 3, 1, told.append)
    assert all(map(torch.equal, codec.decode_codes(coded.words, 3, 1), found))
    assert len(found) == len(seen) == 3 and all(map(torch.equal, told, found[::-1]))


def test_neighbours_in_the_chain_do_not_matter():
    codec, images = Codec(make_model()), make_images(4, seed=5)
    alone = [codec.encode_codes(images[i : i + 1], 2)[1][0] for i in range(4)]
    assert all(map(torch.equal, codec.encode_codes(images, 2)[1], alone))


DECODE = """
import sys
import numpy as np, torch
from rrvqlib.coding import Codec
from rrvqlib.models import load_model
words = np.load(sys.argv[2], allow_pickle=False)
images = Codec(load_model(sys.argv[1])).decode(words, 3)
np.save(sys.argv[3], torch.stack(images).numpy(), allow_pickle=False)
"""


@pytest.mark.parametrize("likelihood", ["logistic", "mixture"])
def test_another_process_with_other_threads_decodes_the_same(tmp_path, likelihood):
    model, images = make_model(channels=16, likelihood=likelihood), make_images(3, seed=6)
    save_model(model, tmp_path)
    threads = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        coded = Codec(load_model(tmp_path)).encode(images)
        assert torch.get_num_threads() == 4  # left as it was
    finally:
        torch.set_num_threads(threads)
    np.save(tmp_path / "words.npy", coded.words, allow_pickle=False)
    command = [sys.executable, "-c", DECODE, tmp_path, tmp_path / "words.npy", tmp_path / "out.npy"]
    subprocess.run(command, check=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert np.array_equal(np.load(tmp_path / "out.npy"), images.numpy())


def test_foreign_bits_are_refused():
    codec, images = Codec(make_model()), make_images(3, seed=7)
    words = codec.encode(images).words.copy()
    words[0] ^= 1  # of the initial bits, which no image touches but which must be there again
    with pytest.raises(UserError, match="do not decode with this model"):
        codec.decode(words, 3)
    with pytest.raises(UserError, match="do not decode with this model"):
        codec.decode(words[5:], 3)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model": "one-layer", "pyramid": (4,)}, "only hierarchies of codes"),
        ({"latent": "residual"}, "only hierarchies of codes or bits"),
        ({"latent": "gaussian-mixture"}, "only hierarchies of codes or bits"),
        ({"latent": "gaussian"}, "only hierarchies of codes or bits"),
    ],
)
def test_models_without_a_hierarchy_of_codes_are_refused(changes, says):
    with pytest.raises(UserError, match=says):
        Codec(make_model(**changes))


def test_a_lone_code_costs_nothing():
    model = build(changed(TINY.model, codebook_size=(1,))).eval()
    images = torch.randint(256, (2, 3, 8, 8), dtype=torch.uint8)
    codec = Codec(model)
    coded = codec.encode(images)
    assert torch.equal(torch.stack(codec.decode(coded.words, 2)), images)
    codes, _ = codec.encode_codes(images, len(codec.layers))
    assert codes.net_bits < 64
