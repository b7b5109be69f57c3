"""A model's parameters as views of one vector: what moves all of them is one operation each.

32 layers have some 1,100 parameters. Clipping, AdaMax, the average and a step that must be undone
would be thousands of launches on a GPU, and are a dozen on a vector.
"""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from rrvqlib.models.base import VAE


def learning_groups(model: VAE) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Parameters that learn at the networks' rate, and those that learn at the codebooks'."""
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    fast = {id(parameter) for parameter in model.fast_parameters()}
    return [p for p in learning if id(p) not in fast], [p for p in learning if id(p) in fast]


class FlatWeights:
    """The vector and its views.

    Args:
        model: its parameters are moved into the vector and stay what they are.

    Attributes:
        values: (N,), the networks' parameters, then the codebooks', then those without gradient, as
            codes that follow averages, and frozen stages.
        sizes: how many are of the first and of the second kind.
    """

    def __init__(self, model: VAE):
        self.model = model
        slow, fast = learning_groups(model)
        self.learning = [*slow, *fast]
        resting = [p for p in model.parameters() if not p.requires_grad]
        self.sizes = (sum(p.numel() for p in slow), sum(p.numel() for p in fast))
        parameters = [*self.learning, *resting]
        self.values = torch.cat([p.detach().reshape(-1) for p in parameters])
        for parameter, view in zip(parameters, self._views(self.values, parameters), strict=True):
            parameter.data = view

    @cached_property
    def gradient(self) -> Tensor:
        """(N with gradient,), filled by `gather`; made when first used: an average has none."""
        return torch.zeros_like(self.values[: sum(self.sizes)])

    @cached_property
    def _gradient_views(self) -> list[Tensor]:
        return self._views(self.gradient, self.learning)

    @staticmethod
    def _views(vector: Tensor, like: list[nn.Parameter]) -> list[Tensor]:
        parts = vector.split([p.numel() for p in like])
        return [part.view(p.shape) for part, p in zip(parts, like, strict=True)]

    def clear(self) -> None:
        """Forget the gradients of the step before."""
        for parameter in self.learning:
            parameter.grad = None

    @torch.no_grad()
    def gather(self, max_norm: float) -> Tensor:
        """Collect the gradients into `gradient`, clipped to a norm; return the norm before."""
        found = [
            (view, p.grad)
            for view, p in zip(self._gradient_views, self.learning, strict=True)
            if p.grad is not None
        ]
        views, gradients = (list(tensors) for tensors in zip(*found, strict=True))
        torch._foreach_copy_(views, gradients)
        # In the model's own order, for a sum's last bits go by it.
        norm = get_total_norm([p.grad for p in self.model.parameters() if p.grad is not None])
        self.gradient.mul_((max_norm / (norm + 1e-6)).clamp(max=1.0))
        return norm
