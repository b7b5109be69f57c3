"""What `--dry-run` says: parameters and FLOPs against counts by hand, memory, words."""

import gc
import re

import pytest
import torch
from helpers import TINY
from torch.utils.flop_counter import FlopCounterMode

from rrvqlib.errors import UserError
from rrvqlib.models import build
from rrvqlib.objectives.elbo import training_loss
from rrvqlib.optimisation.costs import (
    BYTES_PER_PARAMETER,
    counted,
    duration,
    estimate,
    extrapolated,
    saved_bytes,
    scientific,
    show,
    with_layers,
)
from rrvqlib.optimisation.step import Step
from rrvqlib.runs import RUNS, NamedRun
from rrvqlib.settings import changed, parse_sides

MLP = changed(TINY, model="one-layer", network="mlp", pyramid=(2,), channels=16, blocks=1)


def test_the_flops_of_an_mlp_by_hand():
    """Linear layers cost 2 * in * out forward, twice that backward, less for the first one."""
    model = build(MLP.model)
    linear = [m for m in model.modules() if isinstance(m, torch.nn.Linear)]
    assert len(linear) >= 4
    forward = sum(2 * m.in_features * m.out_features for m in linear)
    first = linear[0]  # images need no gradient
    by_hand = 3 * forward - 2 * first.in_features * first.out_features
    # Four latents of 4 codes, size 3: distances and the lookup of soft samples, a few per cent.
    assert estimate(MLP).flops_per_image == pytest.approx(by_hand, rel=0.1)


def test_parameters_are_counted_and_kept_with_their_states():
    cost = estimate(TINY)
    assert cost.parameters == sum(p.numel() for p in build(TINY.model).parameters())
    assert cost.memory_bytes > cost.parameters * BYTES_PER_PARAMETER
    assert cost.images == 12 * 8 and cost.hours == cost.seconds_per_image * 96 / 3600


def test_bytes_per_parameter_are_those_that_a_step_holds_when_its_gradients_are_there():
    settings = changed(MLP, channels=256)
    gc.collect()
    before = storages()
    model = build(settings.model)
    images = torch.randint(0, 256, (20, 3, 8, 8), dtype=torch.uint8)
    step = Step(model, images, settings)
    step.dials.set((1e-3, 2e-3), temperature=0.7, kl_weight=0.5)
    update, held = step.optimizer.step, []

    def counting(*args):
        gradients = [p.grad for p in model.parameters()]  # seen here only once they are asked for
        now = storages()
        held.append(sum(size for key, size in now.items() if key not in before))
        assert len(gradients) > 10
        update(*args)

    step.optimizer.step = counting
    for _ in range(2):
        step()
    parameters = sum(p.numel() for p in model.parameters())
    assert held[-1] / parameters == pytest.approx(BYTES_PER_PARAMETER, rel=0.05)


def storages():
    """Of all tensors alive: identity -> bytes."""
    # By its type: `isinstance` would wake torch's deprecated objects.
    tensors = [t for t in gc.get_objects() if issubclass(type(t), torch.Tensor)]
    return {t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in tensors}


def activations(**changes):
    cost = estimate(changed(TINY, **changes))
    return cost.memory_bytes - cost.parameters * BYTES_PER_PARAMETER


def test_activations_grow_with_the_micro_batch():
    one, two, whole = (activations(batch_size=n) for n in (1, 2, 64))
    assert whole == pytest.approx(one + 63 * (two - one))
    assert activations(batch_size=64, grad_accumulation=4) == pytest.approx(one + 15 * (two - one))


def test_memory_is_that_of_distinct_storages():
    """Two images and eight, counted directly, lie on the line that the estimate draws."""
    model = build(TINY.model)
    side = TINY.model.image_size
    images = torch.zeros(8, 3, side, side, dtype=torch.uint8)
    direct = saved_bytes(model, lambda: training_loss(model(images, torch.ones(()))))
    assert activations(batch_size=8) == pytest.approx(direct, rel=0.001)

    linear = torch.nn.Linear(3, 5, bias=False)
    x = torch.ones(7, 3)

    def twice():  # the input is kept twice, its exponential once; the weight is a parameter
        return (linear(x).sum() * (2 * linear(x).exp()).sum()).sum()

    kept = saved_bytes(linear, twice)
    assert 4 * (7 * 3 + 7 * 5) <= kept <= 4 * (7 * 3 + 7 * 5 + 4)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"latent": "gaussian"},
        {"latent": "binary"},
        {"model": "one-layer", "latent": "nearest", "pyramid": (4,)},
        {"model": "one-layer", "latent": "gaussian", "pyramid": (4,)},
        {"precision": "bf16"},
    ],
)
def test_every_kind_of_model_has_a_cost(change, capsys):
    settings = changed(TINY, **change)
    show("tiny", NamedRun(settings, "a second", "no score"), estimate(settings))
    lines = capsys.readouterr().out.splitlines()
    labels = [line[:12].strip() for line in lines]
    expected = "run, model, latents, parameters, FLOPs, memory, data, time here"
    assert labels == expected.split(", ")
    assert ("at most" in lines[2]) == (settings.model.latent.kind != "gaussian")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there():
    with pytest.raises(UserError, match="--device cpu"):
        estimate(changed(TINY, device="cuda"))


@pytest.mark.parametrize("name", [name for name, run in RUNS.items() if "FLOP" in run.cost])
def test_a_named_run_says_what_it_costs(name):
    settings = RUNS[name].settings
    counts = extrapolated(settings.model, counted(with_layers(settings.model, 1)))
    number, unit = re.search(r"([\d.]+) ([PE])FLOP", RUNS[name].cost).groups()
    said = float(number) * {"P": 1e15, "E": 1e18}[unit]
    total = counts.flops * settings.schedule.steps * settings.optimisation.batch_size
    assert said == pytest.approx(total, rel=0.03), scientific(total)


@pytest.mark.parametrize(
    "pyramid", ["8*3,4*3,2*3", "8*4,4,2*2", "8,4,2", "8*2", "4*5"], ids=lambda text: text
)
@pytest.mark.parametrize(
    "change", [{}, {"latent": "gaussian"}, {"blocks": 2, "ladder_blocks": 1, "prior": "direct"}]
)
def test_counts_of_many_layers_are_those_of_the_whole(change, pyramid):
    """Counted on few layers without arithmetic, against torch's counter on the whole model."""
    settings = changed(TINY, image_size=16, pyramid=parse_sides(pyramid), **change).model
    found = extrapolated(settings, counted(with_layers(settings, 1)))
    model = build(settings)
    images = torch.zeros(1, 3, 16, 16, dtype=torch.uint8)
    with FlopCounterMode(display=False) as flops:
        training_loss(model(images, torch.ones(()))).backward()
    assert found.flops == flops.get_total_flops()
    assert found.parameters == sum(p.numel() for p in model.parameters())
    for n, saved in ((1, found.saved_one), (2, found.saved_two)):
        batch = images.repeat(n, 1, 1, 1)
        whole = saved_bytes(model, lambda batch=batch: training_loss(model(batch, torch.ones(()))))
        assert saved == pytest.approx(whole, rel=0.01)


def test_by_the_clock_a_run_costs_its_time_and_says_what_that_buys(capsys):
    settings = changed(TINY, seconds=30.0)
    cost = estimate(settings)
    assert cost.images == pytest.approx(30 / cost.seconds_per_image, rel=0.01)
    show("tiny", NamedRun(settings, "30 s", "no score"), cost)
    shown = capsys.readouterr().out
    assert "images by the clock" in shown and "30 seconds on" in shown


def test_units():
    assert scientific(1.2e18) == "1.2 EFLOP" and scientific(3e15) == "3.0 PFLOP"
    assert scientific(2e12) == "2.0 TFLOP" and scientific(5e8) == "0.5 GFLOP"
    assert duration(0) == "1 minute" and duration(0.5) == "30 minutes"
    assert duration(10) == "10 hours" and duration(72) == "3 days"
