"""A step -> the same step as one CUDA graph, recorded once and replayed.

A step of 32 layers is some 9,500 launches, and issuing them takes a GPU's host longer than
computing them takes the GPU; a replay is one.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from rrvqlib.optimisation.step import Step
from rrvqlib.settings.run import MachineSettings
from rrvqlib.words import say

WARM_UP = 3  # steps before recording: they choose kernels, allocate, and compile what is compiled
SEED, OTHER_SEED = 1, 2  # of the self-check


def records_steps(machine: MachineSettings, device: torch.device, processes: int) -> bool:
    """Whether steps are recorded as a CUDA graph; where that was asked for and cannot be, says so.

    Args:
        machine: settings of the run.
        device: where it computes.
        processes: that share it.
    """
    if device.type != "cuda":
        if machine.cuda_graphs == "true":
            say("--cuda_graphs true: there is no GPU, steps are not recorded", error=True)
        return False
    can = processes == 1 and machine.grad_accumulation == 1
    return can and machine.cuda_graphs != "false"


def cuda_graph(step: Step) -> Callable[[], None]:
    """Record a step; what is returned replays it. Neither restores what it changes."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def recorded(
    step: Step, capture: Callable[[Step], Callable[[], None]] = cuda_graph
) -> Callable[[], None]:
    """The step, recorded, or itself where that fails: then a line on standard error says why.

    Args:
        step: after data-dependent initialisation; everything it changes is as before afterwards.
        capture: records it.
    """
    saved = [tensor.clone() for tensor in step.tensors()]

    def restore() -> None:
        for tensor, old in zip(step.tensors(), saved, strict=True):
            tensor.copy_(old)

    try:
        replay = capture(step)
        problem = difference(step, replay, restore)
    except RuntimeError as error:
        problem = " ".join(str(error).split())[:200] or type(error).__name__
    restore()
    if problem:
        say(f"--cuda_graphs: steps are not recorded ({problem})", error=True)
        return step
    return replay


def difference(step: Step, replay: Callable[[], None], restore: Callable[[], None]) -> str:
    """What is wrong with a recorded step, in words; nothing where it does what the step does.

    One replay must equal a plain step with the same noise, up to what two plain steps differ by
    (sums on a GPU have no fixed order), and one with other noise must differ from it.
    """

    def results(call: Callable[[], None], seed: int) -> tuple[Tensor, Tensor]:
        restore()
        before = step.weights.values.clone()
        torch.manual_seed(seed)
        call()
        return step.weights.gradient.clone(), step.weights.values - before

    def distance(one: Tensor, two: Tensor) -> float:
        return ((one - two).norm() / two.norm()).item()

    plain, again = results(step, SEED), results(step, SEED)
    replayed, other = results(replay, SEED), results(replay, OTHER_SEED)
    # AdaMax's first step is the gradient's sign times the rate: where a gradient is nearly 0,
    # rounding decides, so that the weights may differ by more.
    for what, index, floor in (("gradient", 0, 1e-3), ("change of the weights", 1, 0.1)):
        allowed = floor + 3 * distance(again[index], plain[index])
        found = distance(replayed[index], plain[index])
        if not found <= allowed:  # not a number, too
            return (
                f"the {what} of a replay is off by {found:.1g} of its size, {allowed:.1g} allowed"
            )
    if distance(other[0], replayed[0]) == 0:
        return "replays draw the same noise again"
    return ""
