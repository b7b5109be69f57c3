"""Settings: rules, messages, sizes that follow from them, JSON, the notation of pyramids."""

import json
import math
import subprocess
import sys
from dataclasses import FrozenInstanceError, asdict, fields

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rrvqlib.errors import UserError
from rrvqlib.settings.flat import changed
from rrvqlib.settings.model import ModelSettings, parse_sides
from rrvqlib.settings.run import RunSettings

EXACT = settings(derandomize=True, deadline=None, max_examples=50)
L32 = parse_sides("16*8,8*8,4*8,2*8")


@EXACT
@given(pairs=st.lists(st.tuples(st.integers(1, 64), st.integers(1, 5)), min_size=1, max_size=6))
def test_parse_sides_repeats(pairs):
    text = ", ".join(f"{side}*{times}" if times > 1 else f"{side}" for side, times in pairs)
    assert parse_sides(text) == tuple(side for side, times in pairs for _ in range(times))


def test_parse_sides_by_example():
    assert parse_sides("16*4,8*2,4") == (16, 16, 16, 16, 8, 8, 4)
    assert len(L32) == 32


@pytest.mark.parametrize(
    "text", ["", "16,", "a", "16*", "16*b", "16*0", "16*-1,8", "16x4", "1.5", "16**2"]
)
def test_parse_sides_refuses_what_is_not_whole_numbers(text):
    with pytest.raises(ValueError):
        parse_sides(text)


@pytest.mark.parametrize(
    ("sizes", "variables", "ceiling"),
    [
        ({"pyramid": L32, "codebook_size": (256,)}, 2720, 7.08),
        (
            {
                "image_size": 64,
                "pyramid": parse_sides("32*8,16*8,8*8,4*8"),
                "codebook_size": (256,),
            },
            10_880,
            7.08,
        ),
        ({"pyramid": (16, 8, 4, 2, 1), "codebook_size": (256,)}, 341, 0.888),
        (
            {"image_size": 64, "pyramid": (16, 8, 4, 2, 1), "codebook_size": (128, 64, 32, 16, 8)},
            341,
            0.185,
        ),
        ({"model": "one-layer", "pyramid": (16,), "codebook_size": (16,)}, 256, 0.333),
    ],
)
def test_counts_and_rate_ceilings_of_the_paper(sizes, variables, ceiling):
    config = changed(ModelSettings(), **sizes)
    assert config.latent_variables == variables
    assert config.rate_ceiling == pytest.approx(ceiling, abs=6e-4 if ceiling < 1 else 6e-3)


def test_the_five_celeba_layers_take_2275_bits():
    config = changed(
        ModelSettings(), image_size=64, pyramid=(16, 8, 4, 2, 1), codebook_size=(128, 64, 32, 16, 8)
    )
    pairs = zip(config.pyramid, config.codes_per_layer, strict=True)
    assert sum(side**2 * round(math.log2(K)) for side, K in pairs) == 2275
    assert config.rate_ceiling * config.dims == pytest.approx(2275)


def test_one_number_of_codes_holds_for_all_layers():
    assert changed(ModelSettings(), pyramid=(16, 8), codebook_size=(4,)).codes_per_layer == (4, 4)
    assert changed(ModelSettings(), pyramid=(16, 8), codebook_size=(4, 2)).codes_per_layer == (4, 2)
    assert changed(ModelSettings(), pyramid=(16, 8), codebook_size=4).codes == (4,)
    assert changed(ModelSettings(), image_size=64).dims == 12288
    assert changed(ModelSettings(), pyramid=(16, 16, 2)).layers == 3


BAD = [
    ("model", "vae"),
    ("latent", "discrete"),
    ("network", "transformer"),
    ("decoder_input", "multiply"),
    ("covariance", "full"),
    ("prior", "uniform"),
    ("top_prior", "none"),
    ("sample", "hard"),
    ("codebook_init", "zeros"),
    ("codebook_update", "adam"),
    ("optimizer", "sgd"),
    ("schedule", "linear"),
    ("temperature_schedule", "cosine"),
    ("free_nats_group", "channel"),
    ("device", "tpu"),
    ("precision", "fp16"),
    ("pyramid", ()),
    ("pyramid", (16, 0)),
    ("pyramid", (-16,)),
    ("pyramid", (32,)),
    ("pyramid", (64,)),
    ("pyramid", (16, 6)),
    ("pyramid", (8, 16)),
    ("pyramid", (12,)),
    ("codes", ()),
    ("codes", (0,)),
    ("codes", (4, 4)),
    ("codes", (4, 4, -4, 4)),
    ("embedding_dim", 0),
    ("channels", 0),
    ("blocks", 0),
    ("ladder_blocks", -1),
    ("init_scale", 0.0),
    ("commitment", -0.1),
    ("codebook_decay", 0.0),
    ("codebook_decay", 1.0),
    ("dead_code_threshold", -1.0),
    ("seed", -1),
    ("seed", 2**24),
    ("steps", 0),
    ("batch_size", 0),
    ("eval_every", 0),
    ("save_every", 0),
    ("grad_accumulation", 0),
    ("plateau_patience", 0),
    ("max_skipped", 0),
    ("lr", 0.0),
    ("lr", math.nan),
    ("lr", math.inf),
    ("codebook_lr_factor", 0.0),
    ("lr_warmup", -1),
    ("lr_min", -1e-5),
    ("lr_min", 1.0),
    ("max_grad_norm", -1.0),
    ("max_grad_norm", math.inf),
    ("grad_skip_factor", -1.0),
    ("temperature", 0.0),
    ("temperature_end", 0.0),
    ("temperature_end", 2.0),
    ("temperature_fraction", 1.1),
    ("kl_warmup", -0.1),
    ("kl_warmup", math.nan),
    ("free_nats", -0.1),
    ("ema", 1.0),
    ("ema", -0.1),
    ("eval_images", -1),
    ("iw_k", -1),
    ("iw_images", -1),
]


@pytest.mark.parametrize(("name", "value"), BAD)
def test_a_bad_value_is_refused_by_its_flag(name, value):
    shown = ",".join(map(str, value)) if isinstance(value, tuple) else value
    with pytest.raises(UserError) as error:
        changed(RunSettings(), **{name: value})
    assert str(error.value).startswith(f"--{name} {shown}: must be ")
    if name in {f.name for f in fields(ModelSettings)}:
        with pytest.raises(UserError):
            changed(ModelSettings(), **{name: value})


@pytest.mark.parametrize(
    ("values", "flag"),
    [
        ({"model": "one-layer", "latent": "nearest", "pyramid": (16, 8)}, "pyramid"),
        (
            {"model": "one-layer", "latent": "nearest", "pyramid": (16,), "latent": "gaussian"},
            "latent",
        ),
        ({"network": "mlp"}, "network"),
        ({"image_size": 1, "pyramid": (1,)}, "pyramid"),
        ({"batch_size": 30, "grad_accumulation": 4}, "batch_size"),
        ({"cuda_graphs": "yes"}, "cuda_graphs"),
        ({"cuda_graphs": "true", "grad_accumulation": 2}, "cuda_graphs"),
        ({"free_nats": 1.0, "grad_accumulation": 2}, "grad_accumulation"),
        ({"latent": "nearest", "grad_accumulation": 2}, "grad_accumulation"),
        ({"lr": 1e-6}, "lr_min"),
        ({"temperature": 0.1}, "temperature_end"),
    ],
)
def test_values_that_do_not_go_together_are_refused(values, flag):
    with pytest.raises(UserError, match=f"--{flag} "):
        changed(RunSettings(), **values)


def test_every_number_has_a_rule():
    """An absurd value of any numeric setting is refused."""
    for f in fields(RunSettings):
        if f.type in ("int", "float"):
            with pytest.raises(UserError, match=f"--{f.name} |--pyramid "):
                changed(RunSettings(), **{f.name: -(10**9)})


@pytest.mark.parametrize(
    "config",
    [
        ModelSettings(),
        changed(
            ModelSettings(), pyramid=L32, codes=tuple(range(2, 34)), likelihood="logistic-edge"
        ),
        changed(
            RunSettings(), dataset="npz:x", lr=1e-4, lr_min=0.0, compile=True, cuda_graphs="true"
        ),
    ],
)
def test_json_gives_back_the_same_settings(config):
    values = json.loads(json.dumps(asdict(config)))
    again = type(config)(**values)
    assert again == config and isinstance(again.pyramid, tuple)


def test_the_model_s_part_of_a_run():
    run = changed(RunSettings(), pyramid=(8, 4), covariance="diagonal", lr=1e-3)
    model = run.model
    assert type(model) is ModelSettings and model == changed(
        ModelSettings(), pyramid=(8, 4), covariance="diagonal"
    )


def test_settings_are_frozen_and_replaced():
    config = RunSettings()
    with pytest.raises(FrozenInstanceError):
        config.lr = 1.0
    assert changed(config, lr=1e-3).lr == 1e-3
    with pytest.raises(UserError):
        changed(config, lr=-1.0)


def test_every_setting_has_help_and_a_default_among_its_choices():
    for f in fields(RunSettings):
        assert len(f.metadata["help"]) > 5
        assert f.metadata["choices"] is None or f.default in f.metadata["choices"]
        assert f.type in ("int", "float", "bool", "str", "Sides")


def test_settings_can_be_read_without_torch():
    code = "import sys, rrvqlib.settings.configs, rrvqlib.runs; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
