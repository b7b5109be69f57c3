"""A prior learnt afterwards: causal, normalised, scored as enumeration says; the rest frozen."""

import itertools
import json
import shutil
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from helpers import TINY, lively, random_images, start_or_resume, trainer, write_images

from rrvqlib import cli, train
from rrvqlib.errors import UserError
from rrvqlib.models import build
from rrvqlib.models.pixelcnn import GatedPixelCNN, causal_conv
from rrvqlib.models.saved import load_model, load_weights, save_model
from rrvqlib.optimisation import reports
from rrvqlib.optimisation.whole_run import train as train_run
from rrvqlib.runs.scoring import score
from rrvqlib.settings import ModelSettings, changed


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


# The PixelCNN.


def grids(K, side):
    """Every grid of codes: (K^(side^2), side, side)."""
    return torch.tensor(list(itertools.product(range(K), repeat=side**2))).view(-1, side, side)


def conditions(conditioned, n):
    return torch.tensor([[[2, 0], [1, 1]]]).expand(n, -1, -1) if conditioned else None


@pytest.mark.parametrize("conditioned", [False, True])
def test_every_code_depends_on_all_before_it_and_on_none_after(conditioned):
    net = lively(GatedPixelCNN(3, 8, 4, 3 if conditioned else 0))
    torch.manual_seed(1)
    codes = torch.randint(3, (1, 4, 4))
    told = conditions(conditioned, 1)
    before = net(codes, told)
    for other in range(16):
        others = codes.clone()
        others.view(-1)[other] = (others.view(-1)[other] + 1) % 3
        moved = (net(others, told) != before).any(-1).flatten()
        assert moved.tolist() == [position > other for position in range(16)]  # no blind spot


def test_the_condition_reaches_every_position():
    net = lively(GatedPixelCNN(3, 8, 2, 3))
    codes = torch.zeros(1, 4, 4, dtype=torch.long)
    one, two = (net(codes, torch.full((1, 2, 2), code)) for code in (0, 1))
    assert (one != two).any(-1).all()


def test_probabilities_of_all_grids_sum_to_one():
    net = lively(GatedPixelCNN(3, 8, 3))
    total = net.log_prob(grids(3, 2)).double().flatten(1).sum(1).exp().sum()
    assert total.item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("conditioned", [False, True])
def test_samples_have_the_model_s_frequencies(conditioned):
    net, every = lively(GatedPixelCNN(2, 8, 2, 3 if conditioned else 0)), grids(2, 2)
    with torch.no_grad():
        p = net.log_prob(every, told(conditioned, 16)).flatten(1).sum(1).exp()
        torch.manual_seed(3)
        drawn = net.sample(20_000, 2, condition=told(conditioned, 20_000))
    index = (drawn.flatten(1) * torch.tensor([8, 4, 2, 1])).sum(1)
    counts = torch.bincount(index, minlength=16)
    chi_square = ((counts - 20_000 * p).square() / (20_000 * p)).sum()
    assert chi_square < 45  # 15 degrees of freedom: 1 in 10,000


def told(conditioned, n):
    return torch.full((n, 1, 1), 2) if conditioned else None


def test_a_causal_convolution_is_a_masked_one():
    layer = causal_conv(2, 5, 2, 3)
    masked = torch.zeros(5, 2, 3, 3)
    masked[:, :, :2] = layer.weight  # the row below is masked
    maps = torch.randn(1, 2, 4, 4)
    expected = F.conv2d(maps, masked, layer.bias, padding=1)
    torch.testing.assert_close(layer(F.pad(maps, (1, 1, 1, 0))), expected)


# Two stages as one model.

FIRST = changed(
    ModelSettings(),
    model="one-layer",
    image_size=4,
    pyramid=(2,),
    codebook_size=(2,),
    embedding_dim=2,
    channels=3,
    codebook_init="unit",
)
RELAXED = changed(FIRST, second_stage="pixelcnn", prior_channels=4, prior_blocks=2)
TWO_STAGES = {
    "VQ-VAE": changed(RELAXED, latent="nearest"),
    "relaxed": RELAXED,
    "VQ-VAE-2": changed(RELAXED, model="hierarchy", latent="nearest", pyramid=(2, 1)),
    "FSQ": changed(RELAXED, latent="scalar", levels=(2,)),
    "FSQ, two levels": changed(
        RELAXED, model="hierarchy", latent="scalar", levels=(2,), pyramid=(2, 1)
    ),
    "one bit": changed(RELAXED, latent="binary", embedding_dim=1),
    "SQ-VAE-2": changed(
        RELAXED, model="hierarchy", latent="stochastic", prior="uniform", pyramid=(2, 1)
    ),
    "HQA": changed(RELAXED, second_stage="greedy", pyramid=(2, 1), codebook_size=(2, 3)),
}
each = pytest.mark.parametrize("settings", TWO_STAGES.values(), ids=TWO_STAGES)


def images(n=1):
    return random_images(n, 4, seed=5)


def log_marginal(model, image):
    """log p(x), by a sum over all codes of the first stage (and of the layer above)."""
    prior, latents = model.code_prior, model.first.latents
    codes = [grids(2, side) for side in model.settings.first_stage.pyramid]
    if len(codes) == 2:  # all pairs
        pairs = itertools.product(range(len(codes[0])), range(len(codes[1])))
        first, second = torch.tensor(list(pairs)).T
        codes = [codes[0][first], codes[1][second]]
    if model.settings.second_stage.kind == "greedy":
        upper = torch.arange(3).view(3, 1, 1, 1)
        tables = prior.log_prob(prior.latent.lookup(upper), latents[0].codebook)
        rows = [  # of each upper code, the probabilities of all lower ones
            table.expand(16, -1, -1, -1, -1).gather(-1, codes[0][..., None, None]).flatten(1).sum(1)
            for table in tables  # (H, W, 1, K)
        ]
        log_p = torch.stack(rows).logsumexp(0) - torch.tensor(3.0).log()
    else:
        above = [*codes[1:], None]
        maps = [net.log_prob(z, up) for net, z, up in zip(prior.nets, codes, above, strict=True)]
        log_p = sum(m.flatten(1).sum(1) for m in maps)
    vectors = [latent.lookup(z[..., None]) for latent, z in zip(latents, codes, strict=True)]
    means = model.first.decode_prior(len(codes[0]), keep=vectors)
    log_likelihood = model.likelihood.log_prob(image.expand(len(means), -1, -1, -1), means)
    return (log_p + log_likelihood).logsumexp(0)


@pytest.mark.parametrize("name", ["relaxed", "SQ-VAE-2", "HQA"])
def test_importance_weights_average_to_the_marginal_likelihood(name):
    model, image = lively(build(TWO_STAGES[name]), by=0.1), images()
    with torch.no_grad():
        exact = log_marginal(model, image)
        torch.manual_seed(0)
        terms = model(image.expand(20_000, -1, -1, -1))
    ratios = (terms.log_weight - exact).double().exp()
    assert abs(ratios.mean() - 1) < 5 * ratios.std() / 20_000**0.5
    assert ratios.std() < 20  # so that the line above says something
    # The ELBO averages the same weights' logarithms, the posterior's entropy taken exactly.
    spread = (terms.log_weight.std() + terms.elbo.std()) / 20_000**0.5
    assert abs(terms.log_weight.mean() - terms.elbo.mean()) < 5 * spread


@pytest.mark.parametrize("name", ["VQ-VAE", "VQ-VAE-2"])
def test_nearest_codes_give_one_term_of_the_marginal_likelihood(name):
    model, batch = lively(build(TWO_STAGES[name])), images(20)
    lively(model.code_prior, by=1.0)
    with torch.no_grad():
        model.first.fit_codebooks(batch)  # so that features differ in their codes
        terms = model(batch)
        codes = [z.squeeze(-1) for z in terms.codes]
        nets = zip(model.code_prior.nets, codes, [*codes[1:], None], strict=True)
        log_p = sum(net.log_prob(z, up).flatten(1).sum(1) for net, z, up in nets)
        exact = torch.stack([log_marginal(model, image[None]) for image in batch])
    assert all(z.unique().numel() == 2 for z in terms.codes)  # or the conditions go untested
    torch.testing.assert_close(terms.elbo, terms.log_weight)
    torch.testing.assert_close(terms.elbo, terms.log_likelihood + log_p)
    assert (terms.elbo <= exact).all()


@each
def test_a_prior_that_knows_nothing_scores_as_the_first_stage_does(settings):
    model = build(settings)
    lively(model.first)
    with torch.no_grad():
        for module in model.code_prior.modules():
            if hasattr(module, "init_scale"):
                module.parametrizations.weight.original0.zero_()
                module.bias.zero_()
        if settings.second_stage.kind == "greedy":  # equal responsibilities: codes of equal length
            codebook = model.first.latent.codebook
            codebook.means.copy_(F.normalize(codebook.means))
            codebook.raw_log_variances.zero_()
    batch = images(6)
    torch.manual_seed(0)
    first = model.first(batch)
    torch.manual_seed(0)
    both = model(batch)
    if settings.second_stage.kind == "greedy":
        torch.testing.assert_close(both.kl_maps[0], first.kl_maps[0])
    else:
        torch.testing.assert_close(both.elbo, first.elbo)
        torch.testing.assert_close(both.log_weight, first.log_weight)


def finish(settings, folder):
    start_or_resume(settings, folder)
    run = trainer(settings, folder)
    run.resume()
    reports.finish(run)


@each
def test_training_moves_the_prior_alone(settings, tmp_path):
    dataset = write_images(tmp_path / "images.npz", side=4)
    shared = changed(TINY, dataset=dataset)
    finish(replace(shared, model=settings.first_stage), tmp_path / "first")
    second = replace(changed(shared, start_from=str(tmp_path / "first")), model=settings)
    start_or_resume(second, tmp_path / "second")
    run = trainer(second, tmp_path / "second")
    fresh = {name: value.clone() for name, value in run.model.code_prior.state_dict().items()}
    run.resume()
    stored = load_model(tmp_path / "first").state_dict()
    for name, value in run.model.first.state_dict().items():
        torch.testing.assert_close(value, stored[name], rtol=0, atol=0)
    prior = run.model.code_prior.state_dict()
    unmoved = [name for name, value in prior.items() if torch.equal(value, fresh[name])]
    # A grid of one code has nothing before it to learn from.
    assert all(name.startswith("nets.1.") for name in unmoved)
    reports.finish(run)
    again = load_model(tmp_path / "second")
    results = json.loads((tmp_path / "second" / "results.json").read_text())
    found = score(again, run.splits.test, batch_size=16)
    assert found["bits_per_dim"] == pytest.approx(results["test_bits_per_dim"], abs=1e-5)
    assert len(results["perplexity"]) == settings.layers


@each
def test_layers_that_are_kept_decide_the_rest(settings):
    model = lively(build(settings))
    with torch.no_grad():
        torch.manual_seed(0)
        draws = model.infer(images(4), None).draws
        vectors = [draw.vectors for draw in draws]
        kept = model.decode_prior(4, keep=vectors)
        expected = model.first.decode_prior(4, keep=vectors[: model.first.settings.layers])
        torch.testing.assert_close(kept, expected)
        if len(vectors) > 1:
            mode = [model.decode_prior(4, temperature=0, keep=vectors[1:]) for _ in range(2)]
            torch.testing.assert_close(*mode)
        assert model.sample(3).shape == (3, 3, 4, 4)


@pytest.mark.parametrize(
    "changes",
    [
        {"latent": "gaussian"},
        {"model": "hierarchy"},
        {"model": "hierarchy", "latent": "gaussian"},
        {"model": "hierarchy", "latent": "nearest", "second_stage": "greedy"},
    ],
)
def test_only_codes_under_uniform_priors_have_a_second_stage(changes):
    with pytest.raises(UserError, match="uniform priors"):
        changed(RELAXED, **changes)


def test_a_greedy_layer_needs_a_side_of_its_own():
    with pytest.raises(UserError, match="two sides"):
        changed(RELAXED, second_stage="greedy")


@each
def test_codes_learn_at_their_own_rate_where_they_learn(settings):
    """What training moves of `fast_parameters` is what the names of parameters tell."""
    model = build(settings)
    fast = {id(parameter) for parameter in model.fast_parameters()}
    found = [n for n, p in model.named_parameters() if id(p) in fast and p.requires_grad]
    by_name = [n for n, p in model.named_parameters() if ".codebook." in n and p.requires_grad]
    assert found == by_name
    assert bool(found) == (settings.second_stage.kind == "greedy")


# Starting from a finished run.


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-6), ("float16", 2e-3)])
def test_a_run_starts_with_the_weights_of_another(dtype, tolerance, tmp_path):
    dataset = write_images(tmp_path / "images.npz")
    finish(changed(TINY, dataset=dataset), tmp_path / "first")
    first = load_model(tmp_path / "first")
    save_model(first, tmp_path / "first", dtype)  # float16 is what travels between machines
    again = trainer(
        changed(TINY, dataset=dataset, start_from=str(tmp_path / "first")), tmp_path / "again"
    )
    for name, value in again.model.state_dict().items():
        expected = first.state_dict()[name]
        assert value.dtype == expected.dtype
        torch.testing.assert_close(value, expected, rtol=tolerance, atol=tolerance)
    assert again.compute.optimizer.count == 0  # afresh


def test_a_run_is_resumed_without_the_folder_that_it_started_from(tmp_path):
    dataset = write_images(tmp_path / "images.npz")
    finish(changed(TINY, dataset=dataset), tmp_path / "first")
    settings = changed(TINY, dataset=dataset, start_from=str(tmp_path / "first"))
    run = trainer(settings, tmp_path / "again")
    run.step()
    run.report(None)
    run.save()
    shutil.rmtree(tmp_path / "first")
    assert (
        train_run(settings, tmp_path / "again", "again", resume=True, show_progress=False)["n_test"]
        == 12
    )


def test_another_model_s_weights_are_refused(tmp_path):
    save_model(build(FIRST), tmp_path)
    with pytest.raises(UserError, match=r"--start_from .*--channels 3, or another run"):
        load_weights(build(changed(FIRST, channels=5)), tmp_path)
    with pytest.raises(UserError, match="--latent relaxed") as refusal:
        load_weights(build(TWO_STAGES["VQ-VAE"]), tmp_path)
    assert "--prior " not in str(refusal.value)  # plays no part in one layer
    with pytest.raises(UserError, match="--model one-layer"):
        load_weights(build(TWO_STAGES["VQ-VAE-2"]), tmp_path)
    with pytest.raises(UserError, match="is missing"):
        load_weights(build(FIRST), tmp_path / "none")


def test_a_second_stage_without_a_first_is_refused(tmp_path, capsys):
    flags = "--model one-layer --latent nearest --pyramid 8 --second_stage pixelcnn".split()
    with pytest.raises(SystemExit):
        cli.run(train.main, [*flags, "--out", str(tmp_path / "out")])
    assert "--start_from" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("objective", ["vimco", "leave-one-out"])
def test_a_first_stage_may_have_had_any_objective(objective, tmp_path):
    first = changed(TINY.model, model="one-layer", pyramid=(4,), codebook_size=(5,))
    trained = build(changed(first, objective=objective, num_samples=3))
    save_model(trained, tmp_path)
    whole = build(changed(first, second_stage="pixelcnn"))
    load_weights(whole, tmp_path)
    assert torch.equal(whole.first.latent.codebook.means, trained.latent.codebook.means)
    with pytest.raises(UserError, match="--channels"):
        load_weights(build(changed(first, second_stage="pixelcnn", channels=12)), tmp_path)
