"""A step against torch's own pieces; a step that never leaves its device; a step recorded."""

import math

import pytest
import torch
from helpers import TINY, VQVAE, trainer, write_images
from torch.nn.utils import clip_grad_norm_
from torch.optim.swa_utils import AveragedModel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from rrvqlib.models import build
from rrvqlib.objectives.elbo import bits_per_dim, training_loss
from rrvqlib.optimisation import step as step_module
from rrvqlib.optimisation import trainer as trainer_module
from rrvqlib.optimisation.adamax import Adam, AdaMax
from rrvqlib.optimisation.cuda_graph import recorded
from rrvqlib.optimisation.feed import BUFFERS, FromHost, OnDevice, fits
from rrvqlib.optimisation.flat_weights import learning_groups
from rrvqlib.optimisation.order import ImageOrder, epoch_order
from rrvqlib.optimisation.schedules import kl_weight_at, lr_factor_at, temperature_at
from rrvqlib.optimisation.step import Step
from rrvqlib.runs import pictures
from rrvqlib.runs.scoring import score
from rrvqlib.settings import changed

SECOND = {"start_from": "given", "prior_channels": 4, "prior_blocks": 1}
KINDS = {
    "rrvq": {"decoder_input": "concat"},
    "table-g1": {"ladder_blocks": 1, "top_prior": "uniform", "covariance": "diagonal"},
    "direct, as printed": {"prior": "direct", "covariance": "as_printed", "free_nats": 0.05},
    "soft, accumulated": {"relaxation": "soft", "grad_accumulation": 2},
    "gaussian": {"latent": "gaussian"},
    "mixture": {"likelihood": "mixture", "components": 2},
    "logistic-pixel": {"likelihood": "logistic-pixel", "latent": "gaussian"},
    "binary": {"latent": "binary"},
    "nearest": {"latent": "nearest"},
    "scalar": {"latent": "scalar", "levels": (3, 4)},
    "gaussian-mixture": {"latent": "gaussian-mixture"},
    "gm-vq": {"model": "one-layer", "latent": "gaussian-mixture", "pyramid": (4,)},
    "residual": {"latent": "residual", "stages": 2},
    "rsq-vae": {
        "model": "one-layer",
        "latent": "residual",
        "stages": 3,
        "relaxation": "soft",
        "pyramid": (4,),
    },
    "vqvae": VQVAE,
    "vqvae by loss": {**VQVAE, "codebook_update": "loss"},
    "sq-vae": {"model": "one-layer", "latent": "stochastic", "pyramid": (4,)},
    "sq-vae-2": {"latent": "stochastic", "prior": "uniform", "relaxation": "soft"},
    "mlp": {"model": "one-layer", "pyramid": (2,), "network": "mlp", "covariance": "fixed"},
    "spatial-vae": {"model": "one-layer", "latent": "gaussian", "pyramid": (4,)},
    "leave-one-out": {"model": "one-layer", "objective": "leave-one-out", "pyramid": (4,)},
    "vimco": {"model": "one-layer", "objective": "vimco", "pyramid": (4,)},
    "pixelcnn": {**VQVAE, "second_stage": "pixelcnn", **SECOND},
    "fsq pixelcnn": {
        "model": "one-layer",
        "latent": "scalar",
        "pyramid": (4,),
        "second_stage": "pixelcnn",
        **SECOND,
    },
    "greedy": {"model": "one-layer", "pyramid": (4, 2), "second_stage": "greedy", **SECOND},
}
every_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())


# The step against torch's optimiser, clipping, schedules and average.


def plain_training(run_settings, model, images, steps):
    """Losses, weights and averages of a run, written plainly with torch's own pieces."""
    settings, schedule = run_settings.optimisation, run_settings.schedule
    slow, fast = learning_groups(model)
    groups = [{"params": slow}, {"params": fast, "lr": schedule.lr * settings.codebook_lr_factor}]
    optimizer = torch.optim.Adamax(groups, lr=schedule.lr)
    rates = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: lr_factor_at(step, schedule))
    average = AveragedModel(
        model,
        multi_avg_fn=lambda averages, current, count: torch._foreach_lerp_(
            averages, current, 1 - min(settings.ema_decay, (1 + float(count)) / (10 + float(count)))
        ),
    )
    order = epoch_order(settings.seed, 0, len(images))
    losses = []
    for step in range(steps):
        torch.manual_seed((settings.seed << 40) + (step << 8))
        batch = images[order[step * settings.batch_size :][: settings.batch_size]]
        terms = model(
            batch.contiguous(memory_format=torch.channels_last),
            torch.tensor(temperature_at(step, schedule)),
        )
        nats = training_loss(terms, kl_weight_at(step, schedule))
        loss = bits_per_dim(-nats, run_settings.model.dims)
        optimizer.zero_grad()
        loss.backward()
        clip_grad_norm_(model.parameters(), settings.max_grad_norm)
        optimizer.step()
        rates.step()
        average.update_parameters(model)
        losses.append(loss.item())
    return losses, model.state_dict(), average.module.state_dict()


@pytest.mark.parametrize("kind", ["rrvq", "table-g1", "gaussian", "vqvae by loss", "mlp"])
def test_twenty_steps_equal_those_of_torchs_own_pieces_bit_for_bit(kind, tmp_path):
    dataset = write_images(tmp_path / "many.npz", train=240)
    settings = changed(TINY, dataset=dataset, steps=24, codebook_lr_factor=7.0, **KINDS[kind])
    if kind == "vqvae by loss":
        settings = changed(settings, dead_code_threshold=0.0)
    run = trainer(settings, tmp_path / "run")
    other = build(settings.model)
    other.load_state_dict(run.model.state_dict())
    losses, weights, averages = plain_training(settings, other, run.splits.train, 20)
    found = []
    for _ in range(20):
        run.step()
        found.append(run.compute.statistics.read()["loss"])
    assert found == losses
    for name, value in weights.items():
        assert torch.equal(run.model.state_dict()[name], value), name
        assert torch.equal(run.evaluated.state_dict()[name], averages[name]), name


@pytest.mark.parametrize(
    ("ours", "torchs", "exactly"),
    [(AdaMax, torch.optim.Adamax, True), (Adam, torch.optim.Adam, False)],
)
def test_an_optimiser_equals_torchs(ours, torchs, exactly):
    torch.manual_seed(0)
    sizes, resting = (37, 11), 5
    values = torch.randn(sum(sizes) + resting)
    first = values.clone()
    theirs = [torch.nn.Parameter(part.clone()) for part in values[: sum(sizes)].split(sizes)]
    rates = [1e-2, 5e-2]
    optimizer = torchs([{"params": p, "lr": r} for p, r in zip(theirs, rates, strict=True)])
    mine = ours(values, sizes)
    for step in range(30):
        gradient = torch.randn(sum(sizes)) * 10 ** torch.randint(-6, 3, ()).item()
        wanted = torch.tensor(step % 7 != 3)
        if wanted:
            for parameter, part in zip(theirs, gradient.split(sizes), strict=True):
                parameter.grad = part.clone()
            optimizer.step()
        else:
            gradient = torch.full_like(gradient, math.nan)
        mine.step(gradient, torch.tensor(rates, dtype=torch.float64), wanted)
    tolerance = {"rtol": 0, "atol": 0} if exactly else {"rtol": 1e-5, "atol": 1e-6}
    torch.testing.assert_close(values[: sum(sizes)], torch.cat([*theirs]).detach(), **tolerance)
    assert torch.equal(values[sum(sizes) :], first[sum(sizes) :])
    assert mine.count == 30 - 4


@every_kind
@pytest.mark.parametrize("spoilt", ["nan", "large"])
def test_a_skipped_step_changes_nothing_but_its_count(kind, spoilt, images, tmp_path):
    run = made(kind, images, tmp_path)
    run()
    run.statistics.norms.fill_(1e-9)  # so that every norm is large
    run.statistics.seen.fill_(100)
    if spoilt == "nan":
        run.statistics.norms.fill_(math.inf)
        run.dials.kl_weight.fill_(math.nan)
    before = [tensor.clone() for tensor in run.tensors()]
    run()
    assert run.statistics.skipped == 1
    counts = {id(t) for t in run.statistics.tensors()}
    for tensor, old in zip(run.tensors(), before, strict=True):
        if id(tensor) not in counts:
            assert torch.equal(tensor, old)
    for tensor in run.statistics.window:
        assert tensor.isfinite()


def made(kind, dataset, folder, device="cpu"):
    """A step of a model on few images."""
    settings = changed(TINY, dataset=dataset, **kind)
    torch.manual_seed(0)
    model = build(settings.model)
    if device == "meta":
        model.to(device)
    images = torch.zeros(20, 3, 8, 8, dtype=torch.uint8, device=device)
    if device == "cpu":
        images = torch.randint(0, 256, images.shape, dtype=torch.uint8)
        model.initialise(images)
    step = Step(model, images, settings)
    step.dials.set((1e-3, 2e-3), temperature=0.7, kl_weight=0.5)
    return step


# Nothing leaves the device.


class OnOneDevice(TorchDispatchMode):
    """Refuses what would make a host wait: reading a number, a copy to it, a tensor of the CPU."""

    def __init__(self, device):
        super().__init__()
        self.device, self.operations = device, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.operations += 1
        name = func._schema.name
        if name in ("aten::_local_scalar_dense", "aten::nonzero", "aten::is_nonzero"):
            raise AssertionError(f"{name} waits for the device")
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves((args, kwargs, out)):
            if isinstance(leaf, torch.Tensor) and leaf.device.type != self.device:
                raise AssertionError(f"{name} has a tensor of shape {leaf.shape} on {leaf.device}")
        return out


def use(step):
    """A training step, a score, reconstructions, samples."""
    step()
    model = step.evaluated.eval()
    images = step.feed.batch()[0][:2]
    with torch.no_grad():
        assert model(images).log_weight.device == images.device
        assert model.reconstruct(images).device == images.device
        assert model.sample(2).device == images.device


@every_kind
def test_a_step_stays_on_its_device(kind, images, tmp_path):
    """On the device `meta` there is nothing to read; an operation that mixes devices shows."""
    step = made(kind, images, tmp_path, device="meta")
    with OnOneDevice("meta") as mode:
        use(step)
    assert mode.operations > 500


@every_kind
def test_a_step_of_the_cpu_reads_no_number_either(kind, images, tmp_path):
    step = made(kind, images, tmp_path)
    with OnOneDevice("cpu"):
        use(step)
    assert step.statistics.steps == 1


@pytest.mark.skipif(not torch.cuda._is_compiled(), reason="torch is built without CUDA")
@every_kind
def test_a_step_runs_on_fake_cuda_tensors(kind, images, tmp_path, monkeypatch):
    """All but the backward pass, for which torch wants a real GPU; that one is traced on `meta`."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    # A copy of a fake tensor does not know its mode.
    monkeypatch.setattr(step_module, "deepcopy", lambda model: build(model.settings))
    with FakeTensorMode(), torch.device("cuda"):
        step = made(kind, images, tmp_path, device="cuda")

        def backward(loss):
            assert loss.requires_grad
            for parameter in step.weights.learning:
                parameter.grad = torch.zeros_like(parameter)

        monkeypatch.setattr(torch.Tensor, "backward", backward)
        with OnOneDevice("cuda"):
            use(step)


@pytest.mark.parametrize(
    "waits",
    [
        lambda device: torch.ones((), device=device).item(),
        lambda device: torch.ones(3, device=device).tolist(),
        lambda device: bool(torch.ones((), device=device)),
        lambda device: torch.ones(3, device=device).nonzero(),
        lambda device: torch.ones(3, device=device).cpu(),
        lambda device: torch.ones(3, device=device) + torch.ones(()),
        lambda device: torch.ones(3, device=device)[torch.zeros(1, dtype=torch.int64)],
    ],
)
def test_the_guard_refuses_what_it_should(waits):
    with OnOneDevice("meta"), pytest.raises((AssertionError, RuntimeError, NotImplementedError)):
        waits("meta")


# Images that stay on the host.


def test_a_step_on_a_device_takes_images_from_the_host(tmp_path):
    """They are sent when the step's turn comes; the step itself stays on its device."""
    settings = changed(TINY, dataset="swatches")
    model = build(settings.model).to("meta")
    images = torch.randint(0, 256, (20, 3, 8, 8), dtype=torch.uint8)
    step = Step(model, images, settings)
    step.dials.set((1e-3, 2e-3), temperature=0.7, kl_weight=0.5)
    assert step.feed.images is images and step.feed.batch()[0].device.type == "meta"
    step.feed.turn_to(1)
    with OnOneDevice("meta"):
        use(step)


@pytest.mark.parametrize("n", [3, 20, 23])
@pytest.mark.parametrize("processes", [1, 2])
def test_both_feeds_give_the_same_images(n, processes):
    images = torch.randint(0, 256, (n, 3, 4, 4), dtype=torch.uint8)
    labels = torch.arange(n)
    for rank in range(processes):
        order, here = (
            [ImageOrder(n, 4, 1, torch.device("cpu")) for _ in range(2)],
            (rank, processes),
        )
        there = OnDevice(images, labels, order[0], *here)
        sent = FromHost(images, labels, order[1], *here, torch.device("cpu"))
        for step in [*range(12), 5]:  # over the end of epochs, and back as a resumed run goes
            there.turn_to(step)
            sent.turn_to(step)
            for one, other in zip(there.batch(), sent.batch(), strict=True):
                assert torch.equal(one, other)
            assert torch.equal(images[sent.batch()[1]], sent.batch()[0])


def test_training_from_the_host_is_training_bit_for_bit(images, tmp_path, monkeypatch):
    weights = []
    for host in (False, True):
        step = rrvq(images, tmp_path)
        if host:
            own = step.feed
            step.feed = FromHost(own.images, None, own.order, 0, 1, torch.device("cpu"))
        for number in range(4):
            torch.manual_seed(number)
            step.feed.turn_to(number)
            step()
        weights.append(step.weights.values.clone())
    assert torch.equal(*weights)


def test_what_is_sent_next_does_not_change_what_is_under_way():
    """Copies may still be running when the host writes the next buffer, for two steps."""
    images = torch.arange(40, dtype=torch.uint8).view(40, 1, 1, 1)
    order = ImageOrder(40, 4, 0, torch.device("cpu"))
    feed = FromHost(images, None, order, 0, 1, torch.device("cpu"))
    under_way = []
    for step in range(3):
        feed.turn_to(step)
        under_way.append((feed.sent[step % BUFFERS], feed.batch()[0].clone()))
    assert all(torch.equal(buffer, batch) for buffer, batch in under_way)


@pytest.mark.parametrize(("free", "expected"), [(2 * 960, True), (2 * 960 - 1, False)])
def test_images_stay_on_the_host_where_a_gpu_has_no_room(free, expected, monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 10**12))
    images = torch.zeros(20, 3, 4, 4, dtype=torch.uint8)
    assert fits(images, torch.device("cuda")) is expected
    assert fits(images, torch.device("cpu"))


# Recorded steps. Here a recording is a function that plays the step again.


def rrvq(images, tmp_path):
    return made(KINDS["rrvq"], images, tmp_path)


def test_a_good_recording_is_used_and_the_state_restored(images, tmp_path, capsys):
    step = rrvq(images, tmp_path)
    before = [tensor.clone() for tensor in step.tensors()]
    calls = []

    def capture(step):
        for _ in range(3):
            step()
        return lambda: (calls.append(1), step())

    replay = recorded(step, capture)
    assert replay is not step and capsys.readouterr().err == ""
    for tensor, old in zip(step.tensors(), before, strict=True):
        assert torch.equal(tensor, old)
    del calls[:]
    replay()
    assert calls and step.statistics.steps == 1


def test_a_run_records_a_step_that_moves_its_weights(images, tmp_path, monkeypatch, capsys):
    """With learning rates of 0 no recording could be told from another."""
    run = trainer(changed(TINY, dataset=images, steps=2, lr_warmup=0), tmp_path / "run")
    seen = []

    def capture(step):
        seen.append(step.dials.rates.clone())
        return lambda: step()

    monkeypatch.setattr(trainer_module, "records_steps", lambda *_: True)
    monkeypatch.setattr(trainer_module, "recorded", lambda step: recorded(step, capture))
    run.run(show_progress=False)
    assert (seen[0] > 0).all()
    assert run.on_device is not run.compute and "not recorded" not in capsys.readouterr().err


def test_a_skipped_step_leaves_codes_where_they_were_that_the_forward_pass_moves(tmp_path, images):
    step = made(KINDS["greedy"], images, tmp_path)
    means = step.model.code_prior.latent.codebook.means
    step.model.code_prior.unused.steps.fill_(20)  # it is time to move the least used code
    step.model.code_prior.unused.counts.copy_(torch.arange(len(means)))
    before = [means.clone(), step.model.code_prior.unused.counts.clone()]
    step.statistics.trusts = lambda *_: torch.tensor(False)
    step()
    assert torch.equal(means, before[0])
    assert torch.equal(step.model.code_prior.unused.counts, before[1])


def frozen_noise(step):
    def replay():
        torch.manual_seed(99)
        step()

    return replay


def nothing(step):
    return lambda: None


def stale_images(step):
    row = step.feed.order.row.clone()

    def replay():
        step.feed.order.row.fill_((int(row) + 1) % len(step.feed.order.table))
        step()
        step.feed.order.row.copy_(row)

    return replay


def without_the_optimiser(step):
    def replay():
        values = step.weights.values.clone()
        step()
        step.weights.values.copy_(values)

    return replay


def failing(step):
    step()
    raise RuntimeError("operation not permitted when stream is capturing\nlong story")


@pytest.mark.parametrize(
    "broken", [frozen_noise, nothing, stale_images, without_the_optimiser, failing]
)
def test_a_broken_recording_is_a_line_and_the_step_itself(broken, images, tmp_path, capsys):
    step = rrvq(images, tmp_path)
    before = [tensor.clone() for tensor in step.tensors()]
    assert recorded(step, broken) is step
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and "steps are not recorded" in lines[0]
    for tensor, old in zip(step.tensors(), before, strict=True):
        assert torch.equal(tensor, old)


def test_scores_and_pictures_of_a_step_s_average(images, tmp_path):
    step = rrvq(images, tmp_path)
    for _ in range(2):
        step()
    assert math.isfinite(score(step.evaluated, step.feed.images)["bits_per_dim"])
    assert pictures.sample_images(step.evaluated, 2).shape == (2, 3, 8, 8)
