"""What chapters 13 and 14 read of stored runs, count of colours, and draw."""

import json
import math
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt

from rrvqlib.latents import Codebook
from rrvqlib.likelihoods import LogisticMixture
from rrvqlib.models import build
from rrvqlib.runs import read_run_settings
from rrvqlib.settings import ModelSettings, changed
from rrvqlib.teaching import (
    arms,
    bits_of_channels,
    colours,
    gap,
    records,
    relatives,
    rivals,
    suspects,
)

RESULTS = Path(__file__).parent.parent / "book" / "results"
TINY = changed(
    ModelSettings(),
    image_size=8,
    pyramid=(4, 2),
    codebook_size=(6,),
    embedding_dim=4,
    channels=4,
    decoder_input="concat",
    likelihood="mixture",
)


@pytest.fixture(autouse=True)
def no_figures_left():
    yield
    plt.close("all")


def raw(run):
    return json.loads((RESULTS / run / "results.json").read_text())


def test_a_stored_run_says_what_its_files_say():
    found, file = records.stored(RESULTS / gap.MIXTURE), raw(gap.MIXTURE)
    assert found.score == file["test_bits_per_dim"] and found.kl == file["kl_bits_per_dim"]
    sides = (16, 16, 16, 16, 8, 4)
    bits = [3 * 32 * 32 * kl / side**2 for kl, side in zip(found.kl, sides, strict=True)]
    assert found.position == pytest.approx(bits)


def test_seeds_are_those_of_the_run_and_a_new_one_is_found(tmp_path):
    names = [folder.name for folder in records.seeds_of(RESULTS, gap.MIXTURE)]
    assert names[:2] == ["cifar10-cpu-mixture-one-of-64", "cifar10-cpu-mixture-one-of-64-seed-1"]
    assert not any("spatial" in name or "groups" in name for name in names)
    for name in ("run", "run-seed-10", "run-seed-2", "run-spatial"):
        shutil.copytree(RESULTS / gap.MIXTURE, tmp_path / name)
    (tmp_path / "run-seed-3").mkdir()  # has not finished
    found = [folder.name for folder in records.seeds_of(tmp_path, "run")]
    assert found == ["run", "run-seed-2", "run-seed-10"]


def test_a_gap_curve_is_the_difference_of_two_at_the_evaluations_of_both(tmp_path):
    usual = json.loads((RESULTS / gap.MIXTURE / "metrics.jsonl").read_text().splitlines()[0])
    for name, lines in {"a": [(1, 5.0), (2, 4.0), (3, 3.5)], "b": [(2, 3.0), (3, 3.0)]}.items():
        (tmp_path / name).mkdir()
        text = "\n".join(
            json.dumps(usual | {"images_seen": 1000 * n, "valid_bits_per_dim": x}) for n, x in lines
        )
        (tmp_path / name / "metrics.jsonl").write_text(text)
    found = records.gap_curve(tmp_path / "a", tmp_path / "b")
    np.testing.assert_allclose(found, [[2, 3], [1.0, 0.5]])


def test_variants_keep_all_seeds():
    found = records.variants(RESULTS / "likelihoods-cifar10.jsonl")
    assert {len(scores) for scores in found.values()} == {3}
    assert min(found["mixture"]) == pytest.approx(5.858, abs=1e-3)


def test_the_mean_gap_is_that_of_the_means_and_gaps_go_seed_by_seed():
    means = [
        np.mean([raw(f"{run}{seed}")["test_bits_per_dim"] for seed in ("", "-seed-1")])
        for run in ("cifar10-cpu", "cifar10-cpu-spatial")
    ]
    assert gap.mean_gap(RESULTS, gap.LOGISTIC) == pytest.approx(means[0] - means[1])
    first = (
        raw("cifar10-cpu")["test_bits_per_dim"] - raw("cifar10-cpu-spatial")["test_bits_per_dim"]
    )
    assert gap.gaps(RESULTS, gap.LOGISTIC)[0] == pytest.approx(first)


def test_suspects_quote_the_records():
    found = {suspect.name: suspect for suspect in suspects.suspects(RESULTS)}
    assert len(found) == 8
    wide, narrow, rest = (gap.mean_gap(RESULTS, run) for run in gap.STAGES.values())
    assert found["likelihood"].found == f"gap {wide:.2f}, then {narrow:.2f}"
    runs = gap.MIXTURE, gap.FOUR, gap.RECIPE
    twin = raw(gap.TWINS[gap.RECIPE])["test_bits_per_dim"]  # seed 0
    ends = "{:.2f}, {:.2f} and {:.2f}".format(*(raw(x)["test_bits_per_dim"] - twin for x in runs))
    assert f"first seed, {ends} (means" in found["number of vectors"].found
    assert f"two: {narrow:.2f} and {rest:.2f})" in found["number of vectors"].found
    lines = map(json.loads, (RESULTS / arms.FILE).read_text().splitlines())
    early = {x["variant"]: x["valid_bits_per_dim"] for x in lines if x["images_seen"] == 56_000}
    reached = early["recipe-mixture+gaussian"]
    for variant in ("recipe-mixture", "recipe-mixture+groups-2+codes-8"):
        assert f"{early[variant] - reached:.2f}" in found["all or nothing"].found
    most = [max(gap.most_said(RESULTS, run)) for run in (gap.MIXTURE, gap.FOUR)]
    assert [f"{bits:.1f}" in found["ceiling"].found for bits in most] == [True, True]
    lines = (RESULTS / "temperature-cifar10.jsonl").read_text().splitlines()
    scores = {x["variant"]: x["valid_bits_per_dim"] for x in map(json.loads, lines)}
    assert f"{scores['soft-samples'] - scores['base']:+.2f}" in found["estimator"].found
    small_codes = "recipe-mixture+groups-4+codes-16"
    behind = [early[f"{small_codes}{x}"] - reached for x in ("", "+reinmax")]
    scores = [raw(run)["test_bits_per_dim"] for run in (gap.RECIPE, gap.REINMAX)]
    behind += [score - raw(gap.TWINS[gap.RECIPE])["test_bits_per_dim"] for score in scores]
    ends = "gap {:.2f} and {:.2f} early, {:.2f} and {:.2f} late".format(*behind)
    assert found["estimator"].found.endswith(ends)
    behind = [
        early[f"{small_codes}{x}"] - early[f"recipe-mixture+gaussian{x}"] for x in ("", "+at-32")
    ]
    behind += [
        raw(run)["test_bits_per_dim"] - raw(gap.TWINS[run])["test_bits_per_dim"]
        for run in (gap.RECIPE, gap.FINE)
    ]
    ends = "gap {:.2f} and {:.2f} early, {:.2f} and {:.2f} late".format(*behind)
    assert found["resolution"].found.endswith(ends)


def test_short_and_long_runs_stand_by_the_images_they_saw(tmp_path):
    row = {
        "variant": "recipe-mixture",
        "images_seen": 56_000,
        "perplexity": [16.0, 32.0],
        "seed": 0,
    }
    rows = [row | {"valid_bits_per_dim": 4.7, "seed": 1}, row | {"valid_bits_per_dim": 4.5}]
    rows += [row | {"variant": "recipe-mixture+gaussian", "valid_bits_per_dim": 4.4}]
    rows += [row | {"images_seen": 14_400, "valid_bits_per_dim": 5.0}]  # has no Gaussian twin
    (tmp_path / arms.FILE).write_text("\n".join(map(json.dumps, rows)))
    alone = arms.ARMS["1 of 64"]
    assert arms.scores(tmp_path, alone) == {14_400: [5.0], 56_000: [4.5, 4.7]}
    assert arms.behind(tmp_path, alone) == {56_000: [pytest.approx(0.1)]}  # of seed 0
    assert arms.in_use(tmp_path, alone, 56_000) == 24 / 64
    last = json.loads((RESULTS / gap.MIXTURE / "metrics.jsonl").read_text().splitlines()[-1])
    found = arms.scores(RESULTS, alone)[224_000]
    assert found[0] == last["valid_bits_per_dim"] and len(found) == 2


def test_arms_are_what_their_variants_set():
    sys.path.insert(0, str(RESULTS.parents[1] / "tools"))
    import sweep

    finer = arms.FINER["4 of 16"][1]
    assert sweep.VARIANTS[finer.variant.split("+")[-1]]["pyramid"] == (32, 16, 16, 16, 16, 8, 4)
    others = (arms.WARM, arms.FAST, arms.WIDE, arms.SEVEN_AT_16, finer)
    for arm in (*arms.ARMS.values(), *arms.SLOW.values(), *arms.REINMAX.values(), *others):
        changes = {k: v for part in arm.variant.split("+") for k, v in sweep.VARIANTS[part].items()}
        assert changes.get("groups", 1) == arm.groups
        assert changes.get("codebook_size", (64,)) == (arm.codes,)
    assert arms.ARMS["4 of 16"].bits == 16


def test_a_figure_of_vectors_has_a_point_for_each_arm_in_both_panels():
    axes = arms.draw_vectors(RESULTS, 56_000).axes
    scores = {name: arms.scores(RESULTS, arm)[56_000] for name, arm in arms.ARMS.items()}
    points = [line for line in axes[0].lines if len(line.get_xdata()) == 1]
    assert sorted(p.get_ydata()[0] for p in points) == sorted(map(np.mean, scores.values()))
    assert {text.get_text() for text in axes[1].texts} == set(scores)


def test_a_figure_of_finer_grids_joins_what_is_stored():
    lines = (RESULTS / arms.FILE).read_text().splitlines()
    early = {x["variant"]: x for x in map(json.loads, lines) if x["images_seen"] == 56_000}
    names = "recipe-mixture+groups-4+codes-16", "recipe-mixture+gaussian"
    ends = [[early[f"{name}{x}"]["valid_bits_per_dim"] for x in ("", "+at-32")] for name in names]
    found = [line.get_ydata() for line in arms.draw_finer(RESULTS, 56_000).axes[0].lines]
    np.testing.assert_allclose([found[0], found[2]], ends)
    assert ends[0][0] > ends[1][0] and ends[0][1] < ends[1][1]  # the order turns


def test_a_figure_of_finer_grids_in_training_is_less_the_gaussians_of_six_layers():
    lines = {line.get_label(): line for line in gap.draw_finer_course(RESULTS).axes[0].lines}
    for label, (run, *_) in gap.FINER.items():
        logs = ((RESULTS / name / "metrics.jsonl").open() for name in (run, gap.TWINS[gap.RECIPE]))
        course, six = ([json.loads(row)["valid_bits_per_dim"] for row in log] for log in logs)
        np.testing.assert_allclose(lines[label].get_ydata(), np.subtract(course, six))
    for run in (gap.FINE, gap.TWINS[gap.FINE]):
        assert read_run_settings(RESULTS / run).model.pyramid == (32, 16, 16, 16, 16, 8, 4)


def test_suspects_make_a_table_with_a_row_each():
    lines = suspects.table(suspects.suspects(RESULTS)).splitlines()
    assert sum(line.startswith("| ") for line in lines) == 9  # and the heads
    assert {line.count("|") for line in lines if line.startswith("|")} == {5}


def test_a_second_seed_of_four_codebooks_is_taken_up(tmp_path):
    for run in (*gap.RUNS.values(), *set(gap.TWINS.values())):
        for folder in records.seeds_of(RESULTS, run):
            (tmp_path / folder.name).symlink_to(folder)
    for run in (gap.FOUR, gap.RECIPE, gap.REINMAX, gap.FINE):
        (tmp_path / run).symlink_to(RESULTS / run)
    lines, suspect = (
        len(gap.draw_four(tmp_path).axes[0].lines),
        suspects.suspects(tmp_path_with(tmp_path)),
    )
    assert "one seed of four" in suspect[2].test
    (tmp_path / f"{gap.FOUR}-seed-1").symlink_to(RESULTS / gap.FOUR)
    assert len(gap.draw_four(tmp_path).axes[0].lines) == lines + 1
    assert "two seeds of four" in suspects.suspects(tmp_path)[2].test


def tmp_path_with(folder):
    """The folder, with the files of JSON lines that the suspects need."""
    for file in RESULTS.glob("*.jsonl"):
        (folder / file.name).symlink_to(file)
    return folder


def test_figures_of_the_gap_show_what_is_stored():
    assert len(gap.draw_training(RESULTS).axes[0].lines) == 4
    bars = gap.draw_ceiling(RESULTS).axes[1].patches
    seeds = [records.stored(f).position for f in records.seeds_of(RESULTS, gap.MIXTURE)]
    assert [bar.get_height() for bar in bars[:6]] == pytest.approx(np.mean(seeds, 0).tolist())
    widths = [bar.get_width() for bar in gap.draw_verdict(RESULTS).axes[0].patches]
    means = [gap.mean_gap(RESULTS, run) for run in gap.ENDS.values()]
    assert widths == pytest.approx(means)
    numbers = [text.get_text() for text in gap.draw_verdict(RESULTS).axes[0].texts]
    assert numbers == [f"{mean:.2f}" for mean in means]
    logs = (
        (RESULTS / run / "metrics.jsonl").open() for run in (gap.REINMAX, gap.TWINS[gap.REINMAX])
    )
    course, twin = ([json.loads(row)["valid_bits_per_dim"] for row in log] for log in logs)
    (line,) = [x for x in gap.draw_estimators(RESULTS).axes[0].lines if x.get_label() == "ReinMax"]
    np.testing.assert_allclose(line.get_ydata(), np.subtract(course, twin))
    heights = [bar.get_height() for bar in gap.draw_layers({"a": [1.0, 2.0]}).axes[0].patches]
    assert heights == [1.0, 2.0]
    books = Codebook(16, 2, init="unit"), Codebook(4, 2, init="unit", groups=2)
    for axis in gap.draw_cells(books).axes:
        assert len(axis.lines[0].get_xdata()) == 16
        assert len(np.unique(axis.images[0].get_array())) > 8


def test_parts_of_an_image_sum_to_the_bound_that_its_own_draw_gives():
    torch.manual_seed(0)
    model = build(TINY).eval()
    images = torch.randint(256, (3, 3, 8, 8), dtype=torch.uint8)
    parts = colours.bits_by_part(model, images, seed=5)
    assert parts.shape == (5,)
    torch.manual_seed(5)
    channels = bits_of_channels(model, images).sum((2, 3)).mean(0) / model.settings.dims
    torch.testing.assert_close(parts[:3], channels)
    with torch.no_grad():
        kl = model(images, None).kl.mean(0)
    torch.testing.assert_close(parts[3:].float(), kl / math.log(2) / model.settings.dims)


def test_the_joint_of_red_and_green_is_a_distribution_and_follows_red():
    apart = colours.parameters_of([[0.0], [0.1]], [[-1.0], [-1.5]], [0.0])
    joint = colours.joint(LogisticMixture(1), apart)
    assert joint.sum().item() == pytest.approx(1.0, abs=1e-9)
    product = joint.sum(1, keepdim=True) * joint.sum(0)
    torch.testing.assert_close(joint, product, atol=1e-12, rtol=1e-6)
    values = torch.arange(256.0, dtype=torch.float64)
    assert (joint.sum(0) * values).sum() > (joint.sum(1) * values).sum() + 5  # green is brighter
    coupled = colours.joint(
        LogisticMixture(1), colours.parameters_of([[0.0], [0.0]], [[-1.0], [-2.5]], [1.8])
    )
    modes = coupled.argmax(1)  # of green, for each red
    assert modes[180] > 160 and modes[80] < 95


def test_figures_of_colours_show_their_numbers():
    patch = torch.randint(256, (3, 8, 8), dtype=torch.uint8)
    panels = colours.draw_channels(patch).axes
    assert len(panels) == 6
    assert panels[4].images[0].get_array()[2, 3] == int(patch[1, 2, 3]) - int(patch[0, 2, 3]) + 128
    axis = colours.draw_parts({"one": [1, 2, 3, 4], "two": [1, 1, 1, 1]}).axes[0]
    assert [bar.get_width() for bar in axis.patches] == [1, 2, 3, 4, 1, 1, 1, 1]
    maps = colours.draw_maps(patch, {"model": torch.full((3, 8, 8), 2.5)}).axes
    assert [axis.get_title() for axis in maps[1:4]] == ["red: 2.5", "green: 2.5", "blue: 2.5"]
    assert maps[4].get_xlim() == (0, 10) and maps[4].get_xlabel() == "bits of a sub-pixel"
    residuals = torch.randn(3, 50)
    (axis,) = colours.draw_pairs(residuals, [(2, 0)]).axes
    np.testing.assert_allclose(axis.lines[0].get_xdata(), residuals[2])
    (axis,) = colours.draw_joints({"a": torch.eye(256)}).axes
    assert axis.images[0].get_array()[7, 7] == 1


def test_points_and_codes_of_the_plane_are_where_they_are_said_to_be():
    e = relatives.points(40)
    assert e.shape == (40, 2) and torch.equal(e, relatives.points(40))
    assert 0.9 < e.norm(dim=1).mean() < 1.7
    codes = relatives.spread_codes(8, 1.3)
    torch.testing.assert_close(codes.norm(dim=1), torch.full((8,), 1.3))
    distances = torch.cdist(codes, codes) + 9 * torch.eye(8)
    nearest = distances.min(1).values
    torch.testing.assert_close(nearest, torch.full((8,), 2 * 1.3 * math.sin(math.pi / 8)))


def test_what_is_seen_is_joined_to_its_point():
    e = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    axes = relatives.draw_seen(e, {"a": (e + 0.5, e[:1]), "b": (e, e)}).axes
    first = axes[0].lines[0]  # of the first point, to what is seen for it
    assert first.get_xdata().tolist() == [0.0, 0.5] and first.get_ydata().tolist() == [1.0, 1.5]
    assert len(axes) == 3 and not axes[2].axison
    figure = relatives.draw_seen(e, {"a": (e, e)}, ("point", "mean", "seen"), reach=1.5)
    words = [text.get_text() for text in figure.legends[0].get_texts()]
    assert words == ["point", "mean", "seen"] and figure.axes[0].get_xlim() == (-1.5, 1.5)


def test_relatives_are_stored_and_their_sizes_known():
    found = rivals.stored_rivals(RESULTS, relatives.LABELS)
    assert set(found) == set(relatives.LABELS)
    assert found["sq-vae-2-pixelcnn"].kind == "second stage"
    figure = rivals.draw_rivals(found, end=6.5)
    assert figure.axes[0].get_xlim() == (5.4, 6.5) and len(figure.legends[0].get_texts()) == 4
    points = [line for line in figure.axes[0].lines if line.get_marker() == "."]
    assert [len(line.get_xdata()) for line in points] == [2, 2]
    one, two = relatives.millions(RESULTS, ("sq-vae-2", "sq-vae-2-pixelcnn"))
    assert one == pytest.approx(0.610685) and two > 4 * one


@pytest.mark.parametrize("name", rivals.SECOND_SEEDS)
def test_a_second_seed_is_of_the_same_settings(name):
    first, second = (
        read_run_settings(RESULTS / run) for run in (f"rival-{name}", rivals.SECOND_SEEDS[name])
    )
    assert (first.optimisation.seed, second.optimisation.seed) == (0, 1)
    assert first.model == second.model and first.schedule == second.schedule
    assert first.optimisation == replace(second.optimisation, seed=0)
    found = rivals.stored_rivals(RESULTS, {name: name})[name]
    assert found.again == raw(rivals.SECOND_SEEDS[name])["test_bits_per_dim"] != found.test


def test_a_figure_of_budgets_joins_first_seeds_and_shows_others():
    axis = arms.draw_budgets(RESULTS).axes[0]
    lines = {line.get_label(): line for line in axis.lines if line.get_label() in arms.LINES}
    assert set(lines) == set(arms.LINES) == set(gap.ENDS)
    for label, (arm, twin) in arms.LINES.items():
        found = arms.behind(RESULTS, arm, twin)
        assert list(lines[label].get_xdata()) == list(found)
        np.testing.assert_allclose(lines[label].get_ydata(), [x[0] for x in found.values()])
    points = sum(len(line.get_xdata()) for line in axis.lines if line.get_marker() == ".")
    seeds = [arms.behind(RESULTS, arm, twin).values() for arm, twin in arms.LINES.values()]
    assert points == sum(len(one) - 1 for arm in seeds for one in arm)
