"""A first batch -> the gains and biases of every weight-normed layer."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from rrvqlib.nets.convolutions import Normed


@torch.no_grad()
def data_dependent_init(model: nn.Module, run: Callable[[], object]) -> None:
    """Set gains and biases from a batch (Salimans and Kingma 2016).

    Every weight-normed layer's output then has mean 0 and the layer's `init_scale` as standard
    deviation, channel by channel.

    Args:
        model: holds the layers.
        run: runs the model on a batch; layers are set in the order in which they are reached, so
            that each sees inputs that are already right.
    """

    def set_scale(layer: Normed, _inputs: tuple, output: Tensor) -> Tensor:
        others = [d for d in range(output.ndim) if d != 1]
        std, mean = torch.std_mean(output.float(), dim=others, correction=0)
        # A channel that is constant over the batch (behind a tiled vector, say) keeps its gain.
        gain = torch.where(std > 1e-4, layer.init_scale / std.clamp_min(1e-4), 1.0)
        magnitude = layer.parametrizations.weight.original0
        shape = [1] * magnitude.ndim
        shape[layer.output_dim] = -1
        magnitude.mul_(gain.view(shape))
        shift = mean * gain
        layer.bias.copy_(layer.bias * gain - shift)
        per_channel = (1, -1) + (1,) * (output.ndim - 2)
        return output * gain.view(per_channel) - shift.view(per_channel)

    hooks = [
        layer.register_forward_hook(set_scale)
        for layer in model.modules()
        if isinstance(layer, Normed)
    ]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
