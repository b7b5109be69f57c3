"""Sizes, alignment, weight norm, rescaled identity paths, data-dependent initialisation."""

import pytest
import torch
import torch.nn.functional as F
from helpers import normal, output_statistics
from torch import nn

from rrvqlib.nets.convolutions import (
    Projection,
    ResidualBlock,
    ResidualStack,
    conv,
    linear,
    rescale,
    up_conv,
)
from rrvqlib.nets.initialisation import data_dependent_init


@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("stride", [1, 2, 4])
def test_convolutions_keep_the_side_or_divide_it(kernel, stride):
    out = conv(3, 5, kernel, stride)(normal(2, 3, 16, 16))
    assert out.shape == (2, 5, 16 // stride, 16 // stride)


@pytest.mark.parametrize(
    ("kernel", "stride"), [(3, 1), (5, 1), (3, 2), (5, 2), (4, 2), (8, 4), (16, 8)]
)
@pytest.mark.parametrize("side", [1, 4])
def test_transposed_convolutions_keep_the_side_or_multiply_it(kernel, stride, side):
    out = up_conv(3, 5, kernel, stride)(normal(2, 3, side, side))
    assert out.shape == (2, 5, side * stride, side * stride)


@pytest.mark.parametrize("stride", [2, 4, 8])
def test_transposed_convolutions_spread_an_input_evenly_around_the_outputs_it_becomes(stride):
    layer = up_conv(1, 1, 2 * stride, stride)
    with torch.no_grad():
        layer.weight = torch.ones_like(layer.weight)
    impulse = torch.zeros(1, 1, 5, 5)
    impulse[..., 2, 2] = 1
    reached = layer(impulse)[0, 0].abs().sum(0).nonzero().flatten().float()
    becomes = torch.arange(2 * stride, 3 * stride).float()
    assert reached.mean() == becomes.mean()


@pytest.mark.parametrize(("layer", "dim"), [(conv(3, 5), 0), (up_conv(3, 5), 1), (linear(3, 5), 0)])
def test_weight_norm_has_one_gain_for_each_output_channel(layer, dim):
    gain = layer.parametrizations.weight.original0
    assert gain.numel() == 5
    with torch.no_grad():
        gain.copy_(torch.arange(1.0, 6.0).view(gain.shape))
    norms = layer.weight.transpose(0, dim).flatten(1).norm(dim=1)
    torch.testing.assert_close(norms, torch.arange(1.0, 6.0))


@pytest.mark.parametrize("factor", [2, 4])
def test_rescaling_averages_down_and_copies_up(factor):
    maps = normal(2, 3, 8, 8)
    assert rescale(maps, 1) is maps
    blocks = maps.unflatten(3, (-1, factor)).unflatten(2, (-1, factor))
    torch.testing.assert_close(rescale(maps, 1 / factor), blocks.mean((3, 5)))
    up = rescale(maps, factor)
    assert torch.equal(up, maps.repeat_interleave(factor, 2).repeat_interleave(factor, 3))
    torch.testing.assert_close(rescale(up, 1 / factor), maps)


def silence(block):
    """Set the branch's last gains to zero, so that only the identity path is left."""
    with torch.no_grad():
        block.second.parametrizations.weight.original0.zero_()
    return block


@pytest.mark.parametrize(
    ("factor", "transposed"),
    [(1, False), (1 / 2, False), (1 / 4, False), (1, True), (2, True), (4, True)],
)
@pytest.mark.parametrize("joined", [0, 2])
def test_residual_blocks_add_a_branch_to_the_rescaled_identity(factor, transposed, joined):
    block = ResidualBlock(3, factor, transposed=transposed, joined=joined)
    maps, side = normal(2, 3, 8, 8), round(8 * factor)
    joining = normal(2, 2, side, side, seed=1) if joined else None
    assert isinstance(block.first, nn.ConvTranspose2d) == transposed
    identity = rescale(maps, factor)
    hidden = block.first(F.elu(maps))
    if joined:
        hidden = torch.cat([hidden, joining], dim=1)
    torch.testing.assert_close(block(maps, joining), identity + block.second(F.elu(hidden)))
    torch.testing.assert_close(silence(block)(maps, joining), identity)


def test_only_the_first_block_of_a_stack_resizes():
    stack = ResidualStack(3, 3, 2, transposed=True, init_scale=0.1)
    assert [block.factor for block in stack] == [2, 1, 1]
    assert stack(normal(2, 3, 4, 4)).shape == (2, 3, 8, 8)
    empty = ResidualStack(3, 0, 1, transposed=True, init_scale=0.1)
    maps = normal(2, 3, 4, 4)
    assert torch.equal(empty(maps), maps)


@pytest.mark.parametrize("blocks", [0, 1, 4])
@pytest.mark.parametrize("factor", [1, 2, 4])
def test_projections_change_channels_and_side(blocks, factor):
    projection = Projection(6, 3, blocks, factor)
    assert projection(normal(2, 6, 4, 4)).shape == (2, 3, 4 * factor, 4 * factor)
    found = [m for m in projection.modules() if isinstance(m, ResidualBlock)]
    assert len(found) == blocks
    resizing = found[0].first if blocks else projection.project
    assert isinstance(resizing, nn.ConvTranspose2d) == (factor > 1)
    assert resizing.stride == (factor, factor)


def test_data_dependent_init_sets_mean_and_spread_of_every_channel():
    torch.manual_seed(0)
    network = nn.Sequential(
        conv(3, 8, 5, 2),
        ResidualStack(8, 2, 1 / 2, transposed=False, init_scale=0.1),
        Projection(8, 4, 1, 2, 0.3),
        up_conv(4, 8, 5, 2, 0.7),
        nn.Flatten(),
        linear(8 * 8 * 8, 5, 2.0),
    )
    images = 3 + normal(64, 3, 8, 8)
    with torch.no_grad():
        data_dependent_init(network, lambda: network(images))
    seen = output_statistics(network, lambda: network(images))
    assert len(seen) == 10
    assert sorted({scale for _, _, scale in seen.values()}) == [0.1, 0.3, 0.7, 1.0, 2.0]
    for mean, std, scale in seen.values():
        torch.testing.assert_close(mean, torch.zeros_like(mean), atol=1e-4, rtol=0)
        torch.testing.assert_close(std, torch.full_like(std, scale), atol=0, rtol=1e-3)


def test_data_dependent_init_passes_on_what_the_new_weights_give():
    """Later layers see inputs that are already right, and no hook stays behind."""
    torch.manual_seed(0)
    network = nn.Sequential(conv(3, 4), nn.ELU(), up_conv(4, 5, 4, 2), nn.ELU(), conv(5, 2))
    images, outputs = normal(8, 3, 6, 6), []
    data_dependent_init(network, lambda: outputs.append(network(images)))
    torch.testing.assert_close(network(images), outputs[0], atol=1e-5, rtol=1e-5)
    assert not any(layer._forward_hooks for layer in network.modules())


def test_data_dependent_init_keeps_the_gain_of_constant_channels():
    layer = conv(3, 4)
    gain = layer.parametrizations.weight.original0.detach().clone()
    data_dependent_init(layer, lambda: layer(torch.zeros(2, 3, 6, 6)))
    assert torch.equal(layer.parametrizations.weight.original0, gain)
    assert layer.bias.isfinite().all()


def test_hooks_go_even_when_the_run_fails():
    layer = conv(3, 4)
    with pytest.raises(RuntimeError):
        data_dependent_init(layer, lambda: layer(torch.zeros(2, 9, 6, 6)))
    assert not layer._forward_hooks
