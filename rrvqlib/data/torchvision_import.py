"""The one place that imports torchvision, so that it also works beside a CPU build of torch.

A torchvision wheel built for CUDA registers its operators from a library that a CPU-only torch
cannot load; the import then stops at `torchvision::nms`, which no data set needs. The missing
operators are declared (without an implementation), and only when a plain import has failed.
"""

import torch

try:
    import torchvision
except RuntimeError as error:
    if "torchvision::nms does not exist" not in str(error):
        raise
    _library = torch.library.Library("torchvision", "FRAGMENT")
    for _name in ("nms", "qnms"):
        _library.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import torchvision

__all__ = ["torchvision"]
