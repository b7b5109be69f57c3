"""Models that are told the class of each image: a learnt top vector for each."""

import json
import math

import numpy as np
import pytest
import torch
from helpers import TINY, lively, trainer
from PIL import Image

from rrvqlib import data, evaluate, reconstruct, sample
from rrvqlib.coding.codec import Codec
from rrvqlib.coding.whole_pictures import rebuild
from rrvqlib.errors import UserError
from rrvqlib.models import build, load_model
from rrvqlib.objectives.elbo import bits_per_dim
from rrvqlib.optimisation.step import Step
from rrvqlib.runs.folder import images_of, with_classes
from rrvqlib.runs.pictures import sample_columns, whole_rows
from rrvqlib.runs.scoring import importance_weighted_score, likeness, score, score_over_classes
from rrvqlib.settings import changed
from rrvqlib.settings.fields import SettingError

CLASSES = 3
RUN = changed(TINY, classes=CLASSES)
UNTOLD, TOLD = TINY.model, RUN.model
IMAGES = torch.randint(
    0, 256, (12, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
)
LABELS = torch.arange(12) % CLASSES


def model_with_classes(settings=TOLD, by=0.5):
    torch.manual_seed(0)
    return lively(build(settings), by=by).eval()


def test_with_one_vector_for_all_classes_the_model_is_the_one_without():
    told = model_with_classes()
    untold = build(UNTOLD).eval()
    with torch.no_grad():
        told.decoder.top_vector[:] = told.decoder.top_vector[:1].clone()
    state = told.state_dict()
    state["decoder.top_vector"] = state["decoder.top_vector"][:1]
    untold.load_state_dict(state)
    torch.manual_seed(1)
    expected = untold(IMAGES).elbo
    for labels in (LABELS, LABELS.flip(0)):
        torch.manual_seed(1)
        assert torch.equal(told(IMAGES, None, labels).elbo, expected)


def test_each_image_goes_by_the_vector_of_its_class():
    told = model_with_classes()
    for label in range(CLASSES):
        untold = build(UNTOLD).eval()
        state = told.state_dict()
        state["decoder.top_vector"] = state["decoder.top_vector"][label : label + 1]
        untold.load_state_dict(state)
        here = LABELS == label
        torch.manual_seed(2)
        drawn = told.infer(IMAGES, None, LABELS)
        vectors = [draw.vectors[here] for draw in drawn.draws]
        expected = untold.decode(vectors)
        assert torch.allclose(drawn.parameters[here], expected, atol=1e-5)
        assert torch.allclose(told.decode(vectors, LABELS[here]), expected, atol=1e-5)


def test_the_gradient_of_a_class_comes_from_its_images_alone():
    told = model_with_classes()
    few = LABELS < 2
    told(IMAGES[few], torch.ones(()), LABELS[few]).elbo.sum().backward()
    gradient = told.decoder.top_vector.grad.flatten(1).abs().sum(1)
    assert (gradient[:2] > 0).all() and gradient[2] == 0


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (None, "wants labels"),
        (LABELS[:5], r"int64, \(12,\)"),
        (LABELS.float(), "int64"),
        (LABELS.int(), "int64"),
    ],
)
def test_labels_that_do_not_fit(labels, message):
    told = model_with_classes()
    with pytest.raises(UserError, match=message):
        told(IMAGES, None, labels)


def test_labels_that_are_no_class():
    told = model_with_classes()
    for wrong in (-1, CLASSES):
        with pytest.raises(UserError, match="from 0 to 2"):
            told.sample(2, labels=torch.tensor([0, wrong]))
        with pytest.raises(UserError, match="from 0 to 2"):
            told.reconstruct(IMAGES[:1], torch.tensor([wrong]))
    with pytest.raises(UserError, match="knows no classes"):
        build(UNTOLD).sample(2, labels=torch.tensor([0, 1]))


@pytest.mark.parametrize(
    "fields",
    [
        {"classes": 1},
        {"classes": 2, "model": "one-layer", "pyramid": (4,)},
        {"classes": 2, "second_stage": "pixelcnn", "latent": "nearest"},
    ],
)
def test_models_that_have_no_classes(fields):
    with pytest.raises(SettingError, match="must be 0"):
        changed(TINY, **fields)


def test_samples_take_their_class_or_draw_it():
    told = model_with_classes(by=2.0)
    one = torch.full((40,), 1)
    torch.manual_seed(3)
    first = told.sample(40, 0.0, one)
    assert torch.equal(first, first[:1].expand_as(first))  # the mode of one class
    torch.manual_seed(3)
    assert len(told.sample(60, 0.0).unique(dim=0)) == CLASSES  # the modes of all
    assert [sample_columns(n, 64) for n in (0, CLASSES, 10, 65)] == [8, 9, 10, 8]
    assert whole_rows(CLASSES, 64) == 63 and whole_rows(0, 64) == 64


def test_scores_over_classes_by_hand():
    """Road two: image by image and class by class, with the same noise."""
    told = model_with_classes()
    found = score_over_classes(told, IMAGES, LABELS, batch_size=12, seed=5)
    torch.manual_seed(5)
    weights = torch.stack(
        [told(IMAGES, None, torch.full((12,), y)).log_weight.double() for y in range(CLASSES)]
    )
    bound = weights.max(0).values + (weights - weights.max(0).values).exp().mean(0).log()
    expected = bits_per_dim(bound, told.settings.dims).mean().item()
    assert found["class_averaged_bits_per_dim"] == pytest.approx(expected, rel=1e-6)
    true = torch.stack([weights[LABELS[n], n] for n in range(12)])
    told_score = bits_per_dim(true, told.settings.dims).mean().item()
    assert found["class_told_bits_per_dim"] == pytest.approx(told_score, rel=1e-6)
    right = [int(weights[:, n].argmax()) == int(LABELS[n]) for n in range(12)]
    assert found["class_guessed"] == pytest.approx(sum(right) / 12)


def test_not_knowing_the_class_costs_at_most_its_bits():
    """log mean >= log of the true class's share: at most log2(classes) bits an image."""
    told = model_with_classes()
    untold = score_over_classes(told, IMAGES, LABELS, 12, 5)["class_averaged_bits_per_dim"]
    torch.manual_seed(5)
    weights = torch.stack(
        [told(IMAGES, None, torch.full((12,), y)).log_weight for y in range(CLASSES)]
    )
    own = bits_per_dim(weights[LABELS, torch.arange(12)].mean(), told.settings.dims).item()
    assert untold <= own + math.log2(CLASSES) / told.settings.dims + 1e-6


def test_every_score_is_told_the_class():
    told = model_with_classes()
    whole = score(told, IMAGES, 5, labels=LABELS)
    torch.manual_seed(0)
    by_hand = torch.cat(
        [told(IMAGES[n : n + 5], None, LABELS[n : n + 5]).elbo for n in range(0, 12, 5)]
    )
    assert whole["bits_per_dim"] == pytest.approx(
        bits_per_dim(by_hand.double(), told.settings.dims).mean().item()
    )
    bound = importance_weighted_score(told, IMAGES, 4, 6, labels=LABELS)
    assert bound["bits_per_dim"] <= bound["elbo"]
    assert likeness(told, IMAGES, labels=LABELS)["likeness_n"] == 12


@pytest.mark.parametrize("parts", [1, 2])
def test_each_image_of_a_step_keeps_its_label(parts):
    settings = changed(RUN, batch_size=12, grad_accumulation=parts)
    found = Step(model_with_classes(), IMAGES, settings, labels=LABELS).micro_batches()
    assert [len(labels) for _, labels in found] == [12 // parts] * parts
    for images, labels in found:
        for image, label in zip(images, labels, strict=True):
            (place,) = [n for n in range(12) if torch.equal(IMAGES[n], image)]
            assert LABELS[place] == label


def test_neither_files_nor_tiles_have_classes():
    told = model_with_classes()
    with pytest.raises(UserError, match="with classes does not compress"):
        Codec(told)
    with pytest.raises(UserError, match="no class"):
        rebuild(told, IMAGES[0])


# Data sets with labels.


def coloured(path, classes=3, train=30, test=9):
    """Images of one brightness for each class, and their labels."""
    labels = np.arange(train + test) % classes
    noise = np.random.default_rng(0).integers(0, 20, (len(labels), 8, 8, 3))
    images = (70 * labels[:, None, None, None] + noise).astype(np.uint8)
    np.savez(
        path,
        train_images=images[:train],
        test_images=images[train:],
        train_labels=labels[:train],
        test_labels=labels[train:],
    )
    return f"npz:{path}"


def test_labels_stay_with_their_images(tmp_path):
    dataset = coloured(tmp_path / "set.npz")
    arrays = dict(np.load(tmp_path / "set.npz"))
    index = np.random.default_rng(1).permutation(1000)[:30]
    np.savez(tmp_path / "shuffled.npz", **arrays, train_index=index)
    for name in (dataset, f"npz:{tmp_path / 'shuffled.npz'}"):
        splits = data.load(name)
        for split in data.SPLITS:
            shades = splits[split].float().mean((1, 2, 3)) // 70
            assert torch.equal(shades.long(), splits.labels[split])
            assert len(splits.labels[split]) == len(splits[split])


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros(29, int), "one whole number"),
        (np.zeros(30), "one whole number"),
        (np.zeros((30, 1), int), "one whole number"),
        (np.full(30, -1), "from 0"),
        (np.full(30, 10**6), "from 0"),
    ],
)
def test_labels_of_a_file_that_do_not_fit(labels, message, tmp_path):
    coloured(tmp_path / "set.npz")
    arrays = dict(np.load(tmp_path / "set.npz")) | {"train_labels": labels}
    np.savez(tmp_path / "set.npz", **arrays)
    with pytest.raises(UserError, match=message):
        data.load(f"npz:{tmp_path / 'set.npz'}")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (np.array(["dark", "grey"]), "3 or more"),
        (np.array([["dark", "grey", "light"]]), "one string"),
        (np.arange(3), "one string"),
        (np.array(["dark", "grey", "dark"]), "must differ"),
        (np.array(["dark", "", "light"]), "none may be empty"),
    ],
)
def test_names_of_classes_that_do_not_fit(names, message, tmp_path):
    coloured(tmp_path / "set.npz")
    np.savez(tmp_path / "set.npz", **np.load(tmp_path / "set.npz"), class_names=names)
    with pytest.raises(UserError, match=message):
        data.load(f"npz:{tmp_path / 'set.npz'}")


def test_a_file_names_its_classes(tmp_path):
    coloured(tmp_path / "set.npz")
    names = np.array(["dark", "grey", "light", "not in it"])
    np.savez(tmp_path / "named.npz", **np.load(tmp_path / "set.npz"), class_names=names)
    assert data.load(f"npz:{tmp_path / 'named.npz'}").class_names == tuple(names)
    assert data.load(f"npz:{tmp_path / 'set.npz'}").class_names == ()
    objects = names.astype(object)  # would have to be unpickled
    np.savez(tmp_path / "objects.npz", **np.load(tmp_path / "set.npz"), class_names=objects)
    with pytest.raises(UserError, match="plain arrays"):
        data.load(f"npz:{tmp_path / 'objects.npz'}")


def test_folders_are_classes(tmp_path):
    for split in ("train", "valid", "test"):
        for number, name in enumerate(("cats", "dogs")):
            (tmp_path / "pets" / split / name).mkdir(parents=True)
            for n in range(3):
                picture = Image.new("RGB", (8, 8), (100 * number, 0, 0))
                picture.save(tmp_path / "pets" / split / name / f"{n}.png")
    for place in ("pets", "pets/train"):  # with folders for the splits, and without
        if place == "pets/train":
            for name in ("cats", "dogs"):
                for n in range(3, 9):
                    old = tmp_path / place / name / "0.png"
                    (old.parent / f"{n}.png").write_bytes(old.read_bytes())
        splits = data.load(f"folder:{tmp_path / place}", image_size=8)
        assert splits.class_names == ("cats", "dogs")
        for split in data.SPLITS:
            assert torch.equal(splits[split][:, 0, 0, 0] // 100, splits.labels[split])
    Image.new("RGB", (8, 8)).save(tmp_path / "pets" / "train" / "stray.png")
    assert data.load(f"folder:{tmp_path / 'pets'}", image_size=8).labels == {}


def test_classes_are_those_of_the_data(tmp_path):
    splits = data.load(coloured(tmp_path / "set.npz"))
    assert with_classes(splits, 0).labels == {}
    assert with_classes(splits, 3).labels == splits.labels
    with pytest.raises(UserError, match="take --classes 3"):
        with_classes(splits, 10)
    with pytest.raises(UserError, match="has no labels"):
        with_classes(data.load("swatches"), 9)


def test_where_the_test_set_selects_labels_go_along(tmp_path):
    settings = changed(RUN, dataset=coloured(tmp_path / "set.npz"), select_on="test")
    splits = images_of(settings)
    for split in data.SPLITS:
        shades = splits[split].float().mean((1, 2, 3)) // 70
        assert torch.equal(shades.long(), splits.labels[split])


# A whole run and the commands.


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("classes")
    settings = changed(
        RUN,
        dataset=coloured(folder / "set.npz"),
        steps=60,
        batch_size=10,
        lr=2e-2,
        eval_every=30,
        save_every=30,
        iw_k=2,
        iw_images=4,
        device="cpu",
        lr_warmup=1,
    )
    run = trainer(settings, folder / "run")
    run.run(show_progress=False)
    from rrvqlib.optimisation.reports import finish

    finish(run)
    return folder


def test_a_run_learns_its_classes(trained, capsys):
    results = json.loads((trained / "run" / "results.json").read_text())
    assert results["class_n"] == 9 and results["class_guessed"] > 0.9
    model = load_model(trained / "run")
    for label in range(CLASSES):  # samples have the brightness of their class
        torch.manual_seed(0)
        drawn = model.sample(8, labels=torch.full((8,), label)) + 0.5
        assert abs(drawn.mean().item() * 255 - (70 * label + 10)) < 25
    evaluate.main([str(trained / "run"), "--json"])
    told = json.loads(capsys.readouterr().out)
    assert told["class_guessed"] == results["class_guessed"]
    evaluate.main([str(trained / "run")])
    assert "guesses" in capsys.readouterr().out


def test_commands_take_classes(trained, tmp_path, capsys):
    run = str(trained / "run")
    sample.main([run, "--n", "6", "--class", "2", "--out", str(tmp_path / "two.png")])
    shades = np.asarray(Image.open(tmp_path / "two.png"))[:8, :8]
    assert abs(shades.mean() - 150) < 30
    sample.main([run, "--n", "6", "--out", str(tmp_path / "all.png")])
    assert Image.open(tmp_path / "all.png").size == (3 * 10 - 2, 2 * 10 - 2)
    reconstruct.main([run, "--n", "4", "--out", str(tmp_path / "pairs.png")])
    for wrong in ("3", "-1", "frog", "1.5"):
        with pytest.raises(UserError, match="from 0 to 2"):
            sample.main([run, f"--class={wrong}", "--out", str(tmp_path / "none.png")])
    assert not (tmp_path / "none.png").exists()
