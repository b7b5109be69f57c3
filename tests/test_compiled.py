"""Compiled layers: the same numbers, one compilation for layers of one kind, no second ones.

The backend `aot_eager` compiles everything but the kernels, so results must agree bit by bit.
"""

import subprocess
import sys
from functools import partial

import pytest
import torch
from helpers import TINY, VQVAE, trainer, write_images
from torch._dynamo.utils import counters

from rrvqlib.errors import UserError
from rrvqlib.models import build
from rrvqlib.objectives.elbo import training_loss
from rrvqlib.optimisation import reports
from rrvqlib.optimisation import trainer as trainer_module
from rrvqlib.optimisation.compiled import compile_layers
from rrvqlib.settings import changed, parse_sides

KINDS = {
    "rrvq": {"decoder_input": "concat"},
    "table-g1": {"ladder_blocks": 1, "top_prior": "uniform", "covariance": "diagonal"},
    "gaussian": {"latent": "gaussian"},
    "binary": {"latent": "binary"},
    "nearest": {"latent": "nearest"},
    "vqvae": VQVAE,
    "relaxed-vqvae": {"model": "one-layer", "pyramid": (4,)},
}


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()
    counters.clear()


def graphs():
    assert not counters["graph_break"]  # each piece is one graph
    return counters["stats"]["unique_graphs"]


def one_step(model, temperature):
    """Loss and gradients of a batch."""
    side = model.settings.image_size
    torch.manual_seed(0)
    images = torch.randint(0, 256, (6, 3, side, side), dtype=torch.uint8)
    model.zero_grad()
    torch.manual_seed(1)
    loss = training_loss(model(images, torch.full((), temperature)))
    loss.backward()
    return loss, [p.grad for p in model.parameters() if p.grad is not None]


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())
def test_compiled_layers_compute_the_same(kind):
    settings = changed(TINY, **kind).model
    plain, compiled = build(settings), build(settings)
    compiled.load_state_dict(plain.state_dict())
    compile_layers(compiled, "aot_eager")
    for step, temperature in enumerate((1.0, 0.7, 0.5)):
        expected, found = one_step(plain, temperature), one_step(compiled, temperature)
        torch.testing.assert_close(found, expected)
        if step == 0:
            after_the_first = graphs()
    assert 0 < graphs() == after_the_first  # another temperature compiles nothing anew


def test_layers_of_one_kind_are_compiled_once():
    pyramid = parse_sides("16*3,8*2,4*3,2*2,1*3")
    model = build(changed(TINY, image_size=32, pyramid=pyramid).model)
    compile_layers(model, "eager")
    one_step(model, 1.0)
    # On each of five grids a layer under another of the same grid, and one under the next; the
    # top one follows the learnt vector. Blocks of the encoder: the same without the top. A head.
    assert graphs() == 10 + 9 + 1


def test_a_compiled_run_is_the_run_and_evaluations_compile_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(
        trainer_module, "compile_layers", partial(compile_layers, backend="aot_eager")
    )
    settings = changed(TINY, dataset=write_images(tmp_path / "images.npz"), ema_decay=0.0)
    plain = trainer(settings, tmp_path / "plain")
    plain.run(show_progress=False)
    run = trainer(changed(settings, compile=True), tmp_path / "compiled")
    run.step()
    after_the_first = graphs()
    run.run(show_progress=False)
    reports.finish(run)
    assert 0 < graphs() == after_the_first
    torch.testing.assert_close(run.model.state_dict(), plain.model.state_dict())


def test_a_machine_that_cannot_compile_is_a_clear_error(tmp_path, monkeypatch):
    def broken(graph, inputs):
        raise OSError("no compiler here")

    monkeypatch.setattr(trainer_module, "compile_layers", partial(compile_layers, backend=broken))
    dataset = write_images(tmp_path / "images.npz")
    run = trainer(changed(TINY, dataset=dataset, compile=True), tmp_path / "run")
    with pytest.raises(UserError, match=r"(?s)no compiler here.*--compile false"):
        run.run(show_progress=False)


def test_runs_that_do_not_compile_do_not_import_the_compiler():
    code = "import sys, rrvqlib.optimisation.trainer; sys.exit('torch._dynamo' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
