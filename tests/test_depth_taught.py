"""What chapters 11 and 12 and the manual draw and print comes from where they say."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import matplotlib as mpl
import pytest
import torch
from helpers import TINY, write_images

from rrvqlib.errors import UserError
from rrvqlib.likelihoods import reals_to_pixels
from rrvqlib.models import build
from rrvqlib.settings import changed
from rrvqlib.teaching import depth, depth_figures, full_scale, manual, records

mpl.use("Agg")
ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "book" / "results"
CHAPTER = ROOT / "book" / "11-what-depth-buys.ipynb"
sys.path.insert(0, str(ROOT / "tools"))
import measure_reach  # noqa: E402


@pytest.fixture(scope="module")
def model():
    """An untrained hierarchy of grids 8 and 4 for images of 16 x 16."""
    torch.manual_seed(0)
    settings = changed(TINY, image_size=16, pyramid=(8, 4), codebook_size=(8,), channels=8)
    return build(settings.model).eval()


@pytest.fixture
def images():
    torch.manual_seed(1)
    return torch.randint(256, (3, 3, 16, 16), dtype=torch.uint8)


def test_a_score_is_the_sum_of_its_parts():
    results = json.loads((RESULTS / "cifar10-cpu" / "results.json").read_text())
    parts = depth.parts_of(RESULTS / "cifar10-cpu")
    assert parts.score == results["test_bits_per_dim"]
    assert parts.kl + parts.pixels == pytest.approx(parts.score)
    assert parts.kl == pytest.approx(sum(results["kl_bits_per_dim"]))


def test_a_course_has_what_its_log_has():
    course = records.course_of(RESULTS / "cifar10-cpu")
    lines = (RESULTS / "cifar10-cpu" / "metrics.jsonl").read_text().splitlines()
    last = json.loads(lines[-1])
    assert len(course.images) == len(lines)
    assert course.images[-1] == last["images_seen"]
    assert course.score[-1].item() == last["valid_bits_per_dim"]
    assert course.kl[-1].item() == pytest.approx(sum(last["kl_bits_per_dim"]))


def test_depths_keep_the_order_asked_for_and_count_the_finest_grid(tmp_path):
    lines = [
        {"variant": "a", "changes": {"pyramid": [16, 8, 4]}, "valid_bits_per_dim": 6.5, "step": 7},
        {"variant": "base", "changes": {}, "valid_bits_per_dim": 5.5, "step": 9},
    ]
    lines[0]["processor_seconds"] = 17.5  # the other was run before they were recorded
    (tmp_path / "runs.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    found = depth.depths_of([tmp_path / "runs.jsonl"], ["base", "none", "a"])
    assert found == [depth.Depth("base", 6, 4, 5.5, 9, None), depth.Depth("a", 3, 1, 6.5, 7, 17.5)]


def test_bits_of_a_code_are_those_of_its_layer_shared_out():
    assert depth.bits_per_code([0.5, 0.25], [16, 2]) == [6.0, 192.0]  # 1536 / 256, 768 / 4
    with pytest.raises(ValueError, match="zip"):
        depth.bits_per_code([0.5], [16, 2])


def test_pixels_agree_where_they_are_alike():
    torch.manual_seed(0)
    noise = torch.randint(256, (50, 3, 16, 16), dtype=torch.uint8)
    assert all(abs(value) < 0.05 for value in depth.agreement(noise, [1, 4, 12]))
    flat = torch.randint(256, (50, 1, 1, 1), dtype=torch.uint8).expand(50, 3, 16, 16)
    assert depth.agreement(flat, [1, 15]) == pytest.approx([1, 1])
    stripes = torch.zeros(2, 3, 16, 16, dtype=torch.uint8)
    stripes[..., ::2] = 255  # rows alternate, columns are alike: -1 and 1, and 1 and 1
    assert depth.agreement(stripes, [1, 2]) == pytest.approx([0, 1], abs=1e-6)


def test_layers_are_kept_from_the_top_until_nothing_is_drawn(model, images):
    torch.manual_seed(0)
    pictures, ratios = depth.kept_layer_by_layer(model, images, draws=3)
    assert pictures.shape == (3, *images.shape) and len(ratios) == 3
    torch.manual_seed(0)
    codes = [draw.vectors for draw in model.infer(images, None).draws]
    whole = reals_to_pixels(model.likelihood.mean(model.decode(codes)))
    torch.testing.assert_close(pictures[2], whole)
    error = (whole.double() - images.double()).square().mean()
    assert ratios[2] == pytest.approx((10 * torch.log10(255**2 / error)).item(), abs=1e-6)


def test_swapping_a_code_moves_what_the_decoder_lets_it_move(model, images):
    """A code at 8 x 8 cannot reach the far corner; swapping it for itself moves nothing."""
    with torch.no_grad():  # an untrained head hardly looks at the codes
        for parameter in model.decoder.parameters():
            parameter.mul_(3)
    torch.manual_seed(0)
    moved = depth.moved_by_code(model, images, 1, (0, 0), draws=4)
    assert moved.shape == (16, 16)
    assert moved[:3, :3].sum() > 0 and moved[-1, -1] == 0
    assert depth.area(moved) < 16 * 16 / 2
    means = model.latents[0].codebook.means
    kept = means.detach().clone()
    with torch.no_grad():
        means.copy_(means[:1].expand_as(means).clone())  # all codes are one
    assert depth.moved_by_code(model, images, 1, (0, 0), draws=4).max() == 0
    with torch.no_grad():
        means.copy_(kept)


def test_a_place_sees_the_pixels_whose_change_changes_its_features(model, images):
    seen = depth.seen_by_place(model, images, 1, (0, 0), probes=4)
    encode = model.encoder
    from rrvqlib.likelihoods import pixels_to_reals

    reals = pixels_to_reals(images)
    with torch.no_grad():
        before = encode(reals)[0][:, :, 0, 0]
        for y, x in ((0, 0), (15, 15)):
            other = reals.clone()
            other[:, :, y, x] += 0.1
            changes = (encode(other)[0][:, :, 0, 0] - before).abs().max() > 1e-7
            assert bool(changes) == bool(seen[y, x] > 0)


def test_area_counts_the_fewest_pixels():
    effect = torch.tensor([[4.0, 3.0], [2.0, 1.0]])
    assert [depth.area(effect, share) for share in (0.35, 0.69, 0.71, 0.95)] == [1, 2, 3, 4]


def test_the_reach_in_the_page_is_what_the_tool_measures():
    text = measure_reach.OUT.read_text()
    stored = json.loads(text.removeprefix("var rrvqReach = ").rstrip().removesuffix(";"))
    assert [one["side"] for one in stored] == [16] * 8 + [8] * 8 + [4] * 8 + [2] * 8
    from rrvqlib import load

    model, images = load(measure_reach.RUN), measure_reach.images_of_run()
    for layer in (1, 17):
        found = measure_reach.reach_of(model, layer, images)
        for name in ("sees", "moves"):
            assert abs(found[name]["pixels"] - stored[layer - 1][name]["pixels"]) <= 3


def widget_data():
    text = "".join("".join(cell["source"]) for cell in json.loads(CHAPTER.read_text())["cells"])
    return text, json.loads(re.search(r'id="gap-data">(.*?)</script>', text, re.S).group(1))


def test_the_curves_in_the_page_are_those_of_the_runs():
    _, data = widget_data()
    runs = {
        ("logistic", "one layer"): "cifar10-cpu-one-layer",
        ("logistic", "six layers"): "cifar10-cpu",
        ("logistic", "six layers of Gaussians"): "cifar10-cpu-spatial",
        ("mixture", "six layers"): "cifar10-cpu-mixture-one-of-64",
        ("mixture", "six layers of Gaussians"): "cifar10-cpu-mixture-spatial",
    }
    assert sum(len(data[kind]) for kind in ("logistic", "mixture")) == len(runs)
    for (kind, name), run in runs.items():
        for seed, end in enumerate(("", "-seed-1")):
            course = records.course_of(RESULTS / f"{run}{end}")
            assert data["images"] == course.images.tolist()
            assert data[kind][name][seed] == pytest.approx(course.score.tolist(), abs=6e-4)


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
def test_the_page_computes_the_gaps_of_the_chapter():
    text, data = widget_data()
    maths = text.split("// gap-maths")[1].split("// end of gap-maths")[0]
    script = f"{maths}console.log(JSON.stringify(standing({json.dumps(data)}, 'logistic', 1, 6)))"
    run = subprocess.run(["node", "-e", script], capture_output=True, text=True, check=True)
    found = json.loads(run.stdout)
    one, six, gaussian = (
        records.course_of(RESULTS / f"cifar10-cpu{twin}-seed-1").score[6].item()
        for twin in ("-one-layer", "", "-spatial")
    )
    assert found["gaps"] == pytest.approx([one - six, six - gaussian], abs=2e-3)


def test_step_times_are_the_rates_of_the_record():
    times = full_scale.step_times(RESULTS / "sitting-1.json")
    by_way = {(t.batch, t.recorded, t.together): t.milliseconds for t in times}
    assert by_way[256, True, True] == pytest.approx(1000 * 256 / 5877.5)
    assert by_way[128, False, False] == pytest.approx(1000 * 128 / 421.1)
    assert len(by_way) == len(times) == 9


def test_the_figures_draw_what_they_are_given():
    import matplotlib.pyplot as plt

    runs = [depth.Depth("a", 4, 1, 6.2, 450, 9.0), depth.Depth("b", 4, 2, 6.0, 450, 9.0)]
    left, right = depth_figures.draw_depths(runs).axes
    assert [line.get_xdata()[0] for line in left.lines[:2]] == [4, 4]
    assert [line.get_xdata()[0] for line in right.lines[:2]] == [1, 2]
    spread = left.containers[0].lines[2][0].get_segments()[0][:, 1]
    assert spread.tolist() == pytest.approx([6.15, 6.25])
    layers, codes = depth_figures.draw_layers([0.02] * 32).axes
    assert [patch.get_height() for patch in layers.patches] == [0.02] * 32
    heights = [codes.patches[n].get_height() for n in (0, 8, 16, 24)]
    assert heights == pytest.approx([0.24, 0.96, 3.84, 15.36])
    (axis,) = depth_figures.draw_agreement({"six layers": [0.9, 0.1]}, [1, 8]).axes
    assert axis.lines[0].get_ydata().tolist() == [0.9, 0.1]
    figure = depth_figures.draw_parts({"one": depth.Parts(5.0, 1.0, 4.0)})
    assert [patch.get_width() for patch in figure.axes[0].patches] == [1.0, 4.0]
    bars = full_scale.draw_step_times(full_scale.step_times(RESULTS / "sitting-1.json")).axes[0]
    assert max(patch.get_height() for patch in bars.patches) == pytest.approx(304, abs=0.5)
    scores = full_scale.draw_scores({"paper": 3.94}, {"ours": 4.43}).axes[0]
    assert [label.get_text() for label in scores.get_yticklabels()] == ["ours", "paper"]
    run = full_scale.draw_run([{"seconds": 30, "valid_bits_per_dim": 5.5}], [0.02] * 32)
    assert run.axes[0].lines[0].get_ydata().tolist() == [5.5]
    assert run.axes[2].patches[8].get_height() == pytest.approx(0.96)
    plt.close("all")


def test_a_model_has_one_colour_in_figures_and_in_the_page():
    names = ("one layer, 48 channels", "six layers", "six layers of Gaussians, 48 ch.")
    page = re.search(r'colours = ({ "one layer".*?})', widget_data()[0]).group(1)
    assert list(json.loads(page).values()) == [depth_figures.colour_of(name) for name in names]


@pytest.mark.parametrize(
    ("number", "kept", "shown"),
    [
        ("5.3216", 2, "5.3…"),
        ("0.0234", 2, "0.023…"),
        ("26.41", 2, "26…"),
        ("8.2", 2, "8…"),
        ("0.0064", 2, "0.006…"),
        ("104.7", 2, "104…"),
    ],
)
def test_figures_that_are_not_sure_are_cut(number, kept, shown):
    assert manual.cut(number, kept) == shown


def test_what_another_machine_prints_otherwise_is_left_out():
    text = "step 25 of 7.25\n" + "word " * 30
    found = manual.settled(text, 2, [r"(?<=step )\d+"])
    assert found.splitlines()[0] == "step … of 7.2…"
    assert max(map(len, found.splitlines())) <= manual.WIDTH
    assert manual.settled("7.2512", None) == "7.2512"


def test_a_command_shows_itself_and_its_error(capsys, tmp_path):
    manual.command(f"python -m rrvqlib.evaluate {tmp_path / 'none'}")
    said = capsys.readouterr()
    assert said.out.startswith("$ python -m rrvqlib.evaluate") and "error: " in said.out
    assert said.err == ""


def test_a_run_that_is_stopped_says_so_and_one_that_fails_is_told(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    write_images(tmp_path / "toy.npz", side=32)
    line = (
        "python -m rrvqlib.train --run photos --dataset npz:toy.npz --channels 8 --batch_size 4"
        " --steps 5000 --eval_every 5 --iw_images 2 --iw_k 2 --device cpu --out runs/a"
    )
    manual.stopped(line, Path("runs/a/metrics.jsonl"))
    assert "--resume goes on" in capsys.readouterr().out
    with pytest.raises(UserError, match="did not write"):
        manual.stopped("python -m rrvqlib.train --out runs/b --steps 0", Path("runs/b/none"))
