"""Weights and codebooks of all layers prepared at once against each prepared by itself."""

from copy import deepcopy

import pytest
import torch
from helpers import TINY
from test_step import KINDS
from torch.utils._python_dispatch import TorchDispatchMode

from rrvqlib.latents.codebook import Codebook
from rrvqlib.models import build
from rrvqlib.models.batched_weights import BatchedWeights
from rrvqlib.nets.convolutions import Normed
from rrvqlib.optimisation.step import Step
from rrvqlib.settings import changed

ALL_KINDS = {
    **KINDS,
    "four latents, as printed": {"pyramid": (4, 4, 2, 2), "covariance": "as_printed"},
    "groups": {"pyramid": (4, 4, 2, 2), "groups": 3, "covariance": "diagonal"},
    "several grids": {"pyramid": (4, 4, 2, 2), "channels": 6},
}


def made(settings, *, batch_weights, bf16=False):
    """A step on few images."""
    torch.manual_seed(0)
    model = build(settings.model)
    images = torch.randint(0, 256, (20, 3, 8, 8), dtype=torch.uint8)
    model.initialise(images)
    step = Step(model, images, settings, bf16=bf16, batch_weights=batch_weights)
    step.dials.set((1e-3, 2e-3), temperature=0.7, kl_weight=0.5)
    return step


def gradients(settings, *, batch_weights, bf16=False):
    """Of one step, and its loss; the noise is the same each time."""
    step = made(settings, batch_weights=batch_weights, bf16=bf16)
    torch.manual_seed(1)
    step()
    return step.weights.gradient, step.statistics.read()["loss"]


@pytest.mark.parametrize("kind", ALL_KINDS.values(), ids=ALL_KINDS.keys())
def test_a_step_is_the_same_up_to_rounding(kind):
    settings = changed(TINY, **kind)
    each, loss = gradients(settings, batch_weights=False)
    once, same = gradients(settings, batch_weights=True)
    assert same == pytest.approx(loss, rel=1e-6)
    assert (once - each).norm() <= 1e-4 * each.norm()


def test_in_bfloat16_it_is_as_near_as_bfloat16_is():
    settings = changed(TINY, **KINDS["rrvq"])
    exact, _ = gradients(settings, batch_weights=False)
    each, _ = gradients(settings, batch_weights=False, bf16=True)
    once, _ = gradients(settings, batch_weights=True, bf16=True)
    assert (once - exact).norm() < 1.5 * (each - exact).norm() < 0.05 * exact.norm()


def test_every_layer_gets_its_own_and_loses_it_again():
    model = build(changed(TINY, **KINDS["rrvq"]).model)
    for parameter in model.parameters():
        parameter.data.normal_()
    before = deepcopy(model.state_dict())
    layers = [m for m in model.modules() if isinstance(m, Normed)]
    books = [m for m in model.modules() if isinstance(m, Codebook)]
    with pytest.raises(KeyError), BatchedWeights(model, torch.float32).in_use():
        for layer in layers:
            weight, bias = layer.prepared
            torch.testing.assert_close(weight, layer.weight)
            assert torch.equal(bias, layer.bias)
            if weight.ndim == 4:
                assert weight.is_contiguous(memory_format=torch.channels_last)
        for book in books:
            prepared, book.prepared = book.prepared, None
            for name, expected in vars(book.terms).items():
                torch.testing.assert_close(getattr(prepared, name), expected)
        raise KeyError("even when what is inside fails")
    assert len(layers) > 10 and len(books) == 2
    assert not any(item.prepared for item in [*layers, *books])
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


def test_it_takes_a_fraction_of_the_operations():
    class Counter(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.count += not func.is_view
            return func(*args, **(kwargs or {}))

    counts = []
    settings = changed(TINY, pyramid=(4,) * 8 + (2,) * 8)
    for batch_weights in (False, True):
        step = made(settings, batch_weights=batch_weights)
        with Counter() as counter:
            step()
        counts.append(counter.count)
    assert counts[1] < 0.6 * counts[0], counts
