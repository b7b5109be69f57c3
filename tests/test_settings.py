"""Settings: types, rules, messages, sizes that follow from them, JSON, flat names, pyramids."""

import json
import math
import re
from dataclasses import FrozenInstanceError, asdict, dataclass

import pytest
from hypothesis import given
from hypothesis import settings as example_settings
from hypothesis import strategies as st

from rrvqlib import cli, train
from rrvqlib.runs import RUNS
from rrvqlib.settings import (
    GaussianSettings,
    ModelSettings,
    OptimisationSettings,
    RunSettings,
    SettingError,
    changed,
    flattened,
    from_json,
    parse_sides,
)
from rrvqlib.settings.fields import Settings, part, setting
from rrvqlib.settings.flat import places, takes

EXACT = example_settings(derandomize=True, deadline=None, max_examples=50)
L32 = parse_sides("16*8,8*8,4*8,2*8")
ONE_LAYER = {"model": "one-layer", "pyramid": (16,)}
GREEDY = {
    "model": "one-layer",
    "pyramid": (16, 8),
    "second_stage": "greedy",
    "start_from": "runs/first",
}
PLACES = places(RunSettings)
every_run = pytest.mark.parametrize("name", RUNS)


def with_setting(name):
    """Settings among which one of this name is: some kinds of latents and others have their own."""
    choices = (
        {},
        {"latent": "nearest"},
        {"latent": "scalar"},
        {"latent": "residual"},
        {"likelihood": "mixture"},
        {**ONE_LAYER, "objective": "vimco"},
        {**ONE_LAYER, "second_stage": "pixelcnn", "start_from": "runs/first"},
    )
    found = (changed(RunSettings(), **choice) for choice in choices)
    return next(settings for settings in found if name in flattened(settings))


# Pyramids.


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


L5 = {"pyramid": (16, 8, 4, 2, 1)}
CELEBA_L5 = {**L5, "image_size": 64, "codebook_size": (128, 64, 32, 16, 8)}


@pytest.mark.parametrize(
    ("sizes", "positions", "ceiling"),
    [
        ({"pyramid": L32}, 2720, 7.08),
        ({"image_size": 64, "pyramid": parse_sides("32*8,16*8,8*8,4*8")}, 10_880, 7.08),
        (L5, 341, 0.888),
        (CELEBA_L5, 341, 0.185),
        ({**ONE_LAYER, "codebook_size": (16,)}, 256, 0.333),
    ],
)
def test_counts_and_rate_ceilings_of_the_paper(sizes, positions, ceiling):
    settings = changed(ModelSettings(), **{"codebook_size": (256,), **sizes})
    assert settings.positions == positions
    assert settings.rate_ceiling == pytest.approx(ceiling, abs=6e-4 if ceiling < 1 else 6e-3)


def test_the_five_celeba_layers_take_2275_bits():
    settings = changed(ModelSettings(), **CELEBA_L5)
    assert settings.alphabets == [(1, 128), (1, 64), (1, 32), (1, 16), (1, 8)]
    pairs = zip(settings.pyramid, settings.alphabets, strict=True)
    assert sum(side**2 * round(math.log2(K)) for side, (_, K) in pairs) == 2275
    assert settings.rate_ceiling * settings.dims == pytest.approx(2275)


def test_one_number_of_codes_holds_for_all_layers():
    two = changed(ModelSettings(), pyramid=(16, 8))
    assert changed(two, codebook_size=(4,)).alphabets == [(1, 4), (1, 4)]
    assert changed(two, codebook_size=(4, 2)).alphabets == [(1, 4), (1, 2)]
    assert changed(two, codebook_size=4).latent.codebook_size == (4,)
    assert changed(ModelSettings(), image_size=64).dims == 12288
    assert changed(ModelSettings(), pyramid=(16, 16, 2)).layers == 3


def test_bits_have_an_alphabet_and_gaussians_none():
    two = changed(ModelSettings(), pyramid=(16, 8))
    bits = changed(two, latent="binary", embedding_dim=6)
    assert bits.alphabets == [(6, 2), (6, 2)]
    assert bits.rate_ceiling == pytest.approx(6 * (256 + 64) / 3072)
    for kind in ("gaussian", "gaussian-mixture"):
        assert changed(two, latent=kind).rate_ceiling is None  # codes are not all that is told
    assert changed(two, latent="gaussian-mixture").alphabets == [(1, 256), (1, 256)]
    residual = changed(two, latent="residual", stages=3)
    assert residual.alphabets == [(3, 256), (3, 256)]
    assert residual.rate_ceiling == pytest.approx(3 * 8 * (256 + 64) / 3072)
    gaussians = changed(two, latent="gaussian")
    assert gaussians.alphabets == [None, None] and gaussians.rate_ceiling is None


# Values out of range, of the wrong type, or not fit for each other.

BAD = [
    ("model", "vae"),
    ("latent", "discrete"),
    ("network", "transformer"),
    ("decoder_input", "multiply"),
    ("covariance", "full"),
    ("prior", "flat"),
    ("top_prior", "none"),
    ("relaxation", "hard"),
    ("objective", "reinforce"),
    ("second_stage", "transformer"),
    ("likelihood", "normal"),
    ("codebook_init", "zeros"),
    ("codebook_update", "adam"),
    ("optimizer", "sgd"),
    ("schedule", "linear"),
    ("temperature_schedule", "cosine"),
    ("free_nats_group", "channel"),
    ("select_on", "train"),
    ("device", "tpu"),
    ("precision", "fp16"),
    ("cuda_graphs", "yes"),
    ("weights_dtype", "bfloat16"),
    ("pyramid", ()),
    ("pyramid", (16, 0)),
    ("pyramid", (-16,)),
    ("pyramid", (64,)),
    ("pyramid", (16, 6)),
    ("pyramid", (8, 16)),
    ("pyramid", (12,)),
    ("codebook_size", ()),
    ("codebook_size", (0,)),
    ("codebook_size", (4, 4)),
    ("codebook_size", (4, 4, -4, 4)),
    ("embedding_dim", 0),
    ("channels", 0),
    ("blocks", 0),
    ("ladder_blocks", -1),
    ("init_scale", 0.0),
    ("commitment", -0.1),
    ("codebook_decay", 0.0),
    ("codebook_decay", 1.0),
    ("dead_code_threshold", -1.0),
    ("stages", 0),
    ("levels", ()),
    ("levels", (1,)),
    ("levels", (8, 0)),
    ("levels", (300, 300)),
    ("components", 0),
    ("num_samples", 1),
    ("prior_channels", 0),
    ("prior_blocks", 0),
    ("seed", -1),
    ("seed", 2**24),
    ("steps", 0),
    ("seconds", -1.0),
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
    ("ema_decay", 1.0),
    ("ema_decay", -0.1),
    ("eval_images", -1),
    ("iw_k", -1),
    ("iw_images", -1),
    ("shard_mb", 0),
]


def refused(settings, name, value):
    """The rule that a value breaks."""
    with pytest.raises(SettingError) as error:
        changed(settings, **{name: value})
    assert error.value.name == name
    assert str(error.value) == f"{name}={value!r}: {error.value.rule}"
    return error.value.rule


@pytest.mark.parametrize(("name", "value"), BAD)
def test_a_bad_value_is_refused_by_its_name(name, value):
    settings = with_setting(name)
    assert refused(settings, name, value).startswith("must ")
    if name in places(ModelSettings):
        assert refused(settings.model, name, value).startswith("must ")


WRONG = [
    ("channels", 2.5, "a whole number"),
    ("channels", "64", "a whole number"),
    ("channels", True, "a whole number"),
    ("channels", None, "a whole number"),
    ("seed", True, "a whole number"),
    ("lr", "fast", "a number"),
    ("lr", True, "a number"),
    ("lr", None, "a number"),
    ("lr", (1e-3,), "a number"),
    ("compile", "no", "True or False"),
    ("compile", 1, "True or False"),
    ("scale_per_channel", 1, "True or False"),
    ("scale_per_channel", "no", "True or False"),
    ("dataset", b"photos", "text"),
    ("start_from", None, "text"),
    ("pyramid", "16,8", "whole numbers"),
    ("pyramid", (16, 8.0), "whole numbers"),
    ("pyramid", (16, True), "whole numbers"),
    ("pyramid", 16.0, "whole numbers"),
    ("codebook_size", "256", "whole numbers"),
    ("codebook_size", ((4,),), "whole numbers"),
    ("latent", "relaxed ", "one of relaxed, "),
    ("latent", "Relaxed", "one of relaxed, "),
    ("latent", None, "one of relaxed, "),
    ("latent", ["relaxed"], "one of relaxed, "),
    ("latent", GaussianSettings(), "one of relaxed, "),
    ("model", 1, "one of hierarchy, one-layer"),
    ("covariance", ["fixed"], "one of isotropic, "),
    ("cuda_graphs", True, "one of auto, true, false"),
    ("device", None, "one of auto, cpu, "),
]


@pytest.mark.parametrize(("name", "value", "rule"), WRONG)
def test_a_value_of_the_wrong_type_is_refused_by_its_name(name, value, rule):
    assert refused(RunSettings(), name, value).startswith(f"must be {rule}")


@pytest.mark.parametrize(
    ("made", "name"),
    [
        (lambda: ModelSettings(channels="64"), "channels"),
        (lambda: ModelSettings(latent="gaussian"), "latent"),
        (lambda: ModelSettings(latent=ModelSettings().likelihood), "latent"),
        (lambda: RunSettings(model={}), "model"),
        (lambda: GaussianSettings(kind="relaxed"), "kind"),
    ],
)
def test_settings_made_by_hand_are_checked_too(made, name):
    with pytest.raises(SettingError, match=f"^{name}=.*: must be "):
        made()


def test_a_value_takes_its_type_s_own_form():
    settings = changed(RunSettings(), lr=1, lr_min=0, pyramid=[16, 8], codebook_size=8)
    assert type(settings.schedule.lr) is type(settings.schedule.lr_min) is float
    assert settings.model.pyramid == (16, 8) and settings.model.latent.codebook_size == (8,)


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ({"model": "one-layer", "pyramid": (16, 8)}, "pyramid"),
        ({"model": "one-layer", "latent": "nearest", "pyramid": (16, 8)}, "pyramid"),
        ({"image_size": 1, "pyramid": (1,)}, "image_size"),
        ({"image_size": 2, "pyramid": (4,)}, "pyramid"),
        ({"image_size": 8}, "pyramid"),
        ({"pyramid": L32, "blocks": 1000}, "blocks"),
        ({"objective": "vimco"}, "objective"),
        ({**ONE_LAYER, "latent": "nearest", "objective": "leave-one-out"}, "objective"),
        ({"second_stage": "pixelcnn", "start_from": "runs/first"}, "second_stage"),
        ({**ONE_LAYER, "latent": "gaussian", "second_stage": "pixelcnn"}, "second_stage"),
        ({**ONE_LAYER, "second_stage": "greedy", "start_from": "runs/first"}, "pyramid"),
        ({**GREEDY, "latent": "scalar"}, "second_stage"),
        ({**GREEDY, "latent": "gaussian-mixture"}, "second_stage"),
        ({**GREEDY, "latent": "residual", "stages": 1}, "second_stage"),
        (
            {
                **ONE_LAYER,
                "latent": "gaussian-mixture",
                "second_stage": "pixelcnn",
                "start_from": "runs/first",
            },
            "second_stage",
        ),
        ({"latent": "gaussian-mixture", "grad_accumulation": 2}, "grad_accumulation"),
        ({**ONE_LAYER, "latent": "binary", "second_stage": "pixelcnn"}, "second_stage"),
        ({**ONE_LAYER, "second_stage": "pixelcnn"}, "start_from"),
        ({"batch_size": 30, "grad_accumulation": 4}, "batch_size"),
        ({"cuda_graphs": "true", "grad_accumulation": 2}, "cuda_graphs"),
        ({"free_nats": 1.0, "grad_accumulation": 2}, "grad_accumulation"),
        ({"latent": "nearest", "grad_accumulation": 2}, "grad_accumulation"),
        ({**GREEDY, "grad_accumulation": 2}, "grad_accumulation"),
        ({"lr": 1e-6}, "lr_min"),
        ({"temperature": 0.1}, "temperature_end"),
    ],
)
def test_values_that_do_not_go_together_are_refused(values, name):
    with pytest.raises(SettingError, match=f"^{name}=.*: must "):
        changed(RunSettings(), **values)


NUMBERS = [name for name, place in PLACES.items() if place.type in (int, float)]


@pytest.mark.parametrize("name", NUMBERS)
def test_every_number_has_a_rule(name):
    """An absurd value of any numeric setting is refused."""
    with pytest.raises(SettingError, match=f"^{name}="):
        changed(with_setting(name), **{name: -(10**9)})


@pytest.mark.parametrize(("name", "near"), [("latents", "latent?"), ("x", "is no setting")])
def test_an_unknown_name_is_refused_with_one_that_is_near(name, near):
    assert refused(RunSettings(), name, 3).endswith(near)


# What plays no part.

IDLE = [
    ({"latent": "gaussian"}, {"codebook_size": (4,)}, "latent gaussian"),
    ({"latent": "binary"}, {"prior": "direct"}, "latent binary"),
    ({"latent": "stochastic"}, {"covariance": "fixed"}, "latent stochastic"),
    ({}, {"commitment": 0.1}, "latent relaxed"),
    ({"latent": "nearest"}, {"relaxation": "soft"}, "latent nearest"),
    ({"latent": "nearest"}, {"temperature": 0.7}, "latents nearest"),
    ({"latent": "nearest"}, {"top_prior": "uniform"}, "latents nearest"),
    ({"prior": "uniform"}, {"top_prior": "uniform"}, "whose priors are all uniform"),
    ({"latent": "gaussian"}, {"temperature_end": 0.1}, "latents gaussian"),
    ({"latent": "scalar"}, {"embedding_dim": 3}, "latents scalar"),
    ({"latent": "scalar"}, {"temperature": 0.7}, "latents scalar"),
    ({}, {"levels": (8, 8)}, "latent relaxed"),
    ({"latent": "gaussian-mixture"}, {"prior": "uniform"}, "latent gaussian-mixture"),
    ({"latent": "residual"}, {"groups": 2}, "latent residual"),
    ({"latent": "residual"}, {"top_prior": "uniform"}, "latents residual"),
    ({"latent": "gaussian-mixture"}, {"top_prior": "uniform"}, "latents gaussian-mixture"),
    ({}, {"network": "mlp"}, "in a hierarchy"),
    (ONE_LAYER, {"ladder_blocks": 1}, "model of one layer"),
    (ONE_LAYER, {"decoder_input": "concat"}, "model of one layer"),
    (ONE_LAYER, {"prior": "direct"}, "model of one layer"),
    ({**ONE_LAYER, "latent": "stochastic"}, {"prior": "uniform"}, "model of one layer"),
    ({**ONE_LAYER, "objective": "vimco"}, {"relaxation": "soft"}, "objective vimco"),
    ({**ONE_LAYER, "objective": "vimco"}, {"temperature": 0.7}, "objective vimco"),
    ({}, {"num_samples": 4}, "objective elbo"),
    ({}, {"prior_blocks": 2}, "second_stage none"),
    ({}, {"components": 3}, "likelihood logistic"),
    ({"likelihood": "mixture"}, {"scale_per_channel": False}, "likelihood mixture"),
    ({}, {"plateau_patience": 3}, "schedule cosine"),
    ({}, {"plateau_patience": 20}, "schedule cosine"),  # given, even if it is the default
    ({"schedule": "plateau"}, {"lr_warmup": 10}, "schedule plateau"),
    ({"schedule": "constant"}, {"lr_min": 1e-6}, "schedule constant"),
    ({"temperature_schedule": "constant"}, {"temperature_end": 0.1}, "temperature_schedule"),
    ({}, {"free_nats_group": "position"}, "without free_nats"),
]


@pytest.mark.parametrize(("chosen", "given", "why"), IDLE)
def test_what_plays_no_part_is_refused_when_given(chosen, given, why):
    ((name, value),) = given.items()
    for settings, values in (
        (RunSettings(), {**chosen, **given}),
        (changed(RunSettings(), **chosen), given),
    ):
        with pytest.raises(SettingError) as error:
            changed(settings, **values)
        assert (error.value.name, error.value.value) == (name, value)
        assert error.value.rule.startswith("plays no part ") and why in error.value.rule


@pytest.mark.parametrize(
    ("base", "chosen"),
    [
        ({"codebook_size": 8, "prior": "direct", "temperature": 0.7}, {"latent": "gaussian"}),
        ({"latent": "nearest", "commitment": 0.1}, {"latent": "relaxed"}),
        ({"ladder_blocks": 1, "decoder_input": "concat", "top_prior": "uniform"}, ONE_LAYER),
        ({**ONE_LAYER, "network": "mlp"}, {"model": "hierarchy"}),
        ({"likelihood": "mixture", "components": 3}, {"likelihood": "logistic"}),
        ({"schedule": "plateau", "plateau_patience": 3}, {"schedule": "cosine"}),
        ({"free_nats": 1.0, "free_nats_group": "position"}, {"free_nats": 0.0}),
    ],
)
def test_what_plays_no_part_is_dropped_when_the_base_brought_it(base, chosen):
    settings = changed(changed(RunSettings(), **base), **chosen)
    stay = {name: value for name, value in base.items() if name in ("model", "pyramid")}
    assert settings == changed(RunSettings(), **{**stay, **chosen})


def with_flags(name, *flags):
    args = train.make_parser().parse_args(["--run", name, *flags])
    return changed(RUNS[args.run].settings, **cli.read_settings(args, RunSettings))


@every_run
def test_every_named_run_has_a_gaussian_twin_where_that_is_possible(name):
    model = RUNS[name].settings.model
    needs_codes = {
        "objective": model.objective.kind != "elbo",
        "second_stage": model.second_stage.kind != "none",
    }
    for what in (what for what, needs in needs_codes.items() if needs):
        with pytest.raises(SettingError, match=f"^{what}="):
            with_flags(name, "--latent", "gaussian")
        return
    settings = with_flags(name, "--latent", "gaussian")
    assert settings.model.latent.kind == "gaussian"
    assert not {"codebook_size", "prior", "relaxation"} & flattened(settings).keys()
    assert settings.schedule.temperature == RunSettings().schedule.temperature


# JSON, copies.


@pytest.mark.parametrize(
    "settings",
    [
        ModelSettings(),
        changed(
            ModelSettings(),
            pyramid=L32,
            codebook_size=tuple(range(2, 34)),
            likelihood="logistic-edge",
        ),
        changed(
            RunSettings(), dataset="npz:x", lr=1e-4, lr_min=0.0, compile=True, cuda_graphs="true"
        ),
        *(run.settings for run in RUNS.values()),
    ],
)
def test_json_gives_back_the_same_settings(settings):
    again = from_json(type(settings), json.loads(json.dumps(asdict(settings))))
    assert again == settings
    assert isinstance(flattened(again)["pyramid"], tuple)


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ([], "RunSettings"),
        (None, "RunSettings"),
        ({"chanels": 4}, "chanels"),
        ({"channels": 4}, "channels"),  # it is the model's
        ({"model": 3}, "ModelSettings"),
        ({"model": {"latent": "relaxed"}}, "RelaxedSettings"),
        ({"model": {"latent": {}}}, "latent"),
        ({"model": {"latent": {"kind": "vq"}}}, "latent"),
        ({"model": {"latent": {"kind": ["relaxed"]}}}, "latent"),
        ({"model": {"latent": {"kind": "gaussian", "codebook_size": [4]}}}, "codebook_size"),
        ({"model": {"channels": "4"}}, "channels"),
        ({"schedule": {"lr": None}}, "lr"),
    ],
)
def test_json_of_something_else_is_refused_by_name(values, name):
    with pytest.raises(SettingError) as error:
        from_json(RunSettings, values)
    assert error.value.name == name


def test_json_older_than_a_setting_has_its_default():
    values = asdict(changed(RunSettings(), channels=8))
    del values["model"]["init_scale"], values["machine"], values["model"]["latent"]["prior"]
    assert from_json(RunSettings, values) == changed(RunSettings(), channels=8)


@every_run
def test_no_change_changes_nothing(name):
    settings = RUNS[name].settings
    assert changed(settings) == settings
    assert changed(settings.model) == settings.model


def test_the_model_s_part_of_a_run():
    run = changed(RunSettings(), pyramid=(8, 4), covariance="diagonal", lr=1e-3)
    assert type(run.model) is ModelSettings
    assert run.model == changed(ModelSettings(), pyramid=(8, 4), covariance="diagonal")


def test_settings_are_frozen_and_replaced():
    settings = RunSettings()
    with pytest.raises(FrozenInstanceError):
        settings.schedule.lr = 1.0
    assert changed(settings, lr=1e-3).schedule.lr == 1e-3
    with pytest.raises(SettingError):
        changed(settings, lr=-1.0)


# Flat names.


@pytest.mark.parametrize("name", PLACES)
def test_every_setting_has_help_and_a_default_among_its_choices(name):
    place = PLACES[name]
    assert len(place.help) > 5
    assert not place.choices or place.default in place.choices
    assert place.choices or place.type in cli.PARSERS


@dataclass(frozen=True, kw_only=True)
class Clashing(Settings):
    seed: int = setting(0, "of another thing")
    optimisation: OptimisationSettings = part(OptimisationSettings, "optimisation")


def test_two_settings_of_one_name_are_refused():
    with pytest.raises(ValueError, match="two settings are called seed"):
        places(Clashing)


def test_every_name_lives_in_one_of_the_kinds():
    assert set(PLACES) == {name for name in PLACES if name in flattened(with_setting(name))}
    for name, run in RUNS.items():
        assert flattened(run.settings).keys() <= PLACES.keys(), name


def parts_with_kinds(kind):
    """Every registry in the settings: the classes of its kinds."""
    for f in kind.__dataclass_fields__.values():
        kinds = f.metadata.get("kinds", {})
        if len(kinds) > 1:
            yield f.name, list(kinds.values())
        for of_part in kinds.values():
            yield from parts_with_kinds(of_part)


@pytest.mark.parametrize(("part_name", "kinds"), list(parts_with_kinds(RunSettings)))
def test_a_name_of_several_kinds_means_one_thing(part_name, kinds):
    """`--help` shows one text and one default."""
    found = {}
    for kind in kinds:
        for name, place in places(kind).items():
            assert found.setdefault(name, place) == place


def test_every_flag_of_help_belongs_to_one_of_the_groups():
    texts = re.split(r"^([a-z][a-z ]*):$", train.make_parser().format_help(), flags=re.M)
    sections = {
        title: re.findall(r"^  --(\w+) ", text, re.M)
        for title, text in zip(texts[1::2], texts[2::2], strict=True)
    }
    for group in cli.GROUPS:
        assert sections[group] == [n for n, place in PLACES.items() if place.group == group]
    assert sum(len(sections[group]) for group in cli.GROUPS) == len(PLACES)


@pytest.mark.parametrize(
    ("chosen", "name", "value", "does"),
    [
        ({}, "codebook_size", None, True),
        ({"latent": "binary"}, "codebook_size", None, False),  # absent
        ({"schedule": "plateau"}, "lr_warmup", None, False),  # idle
        ({}, "free_nats", 1.0, True),
        ({"grad_accumulation": 2}, "free_nats", 1.0, False),  # refused beside another
        ({"grad_accumulation": 2}, "free_nats", None, True),  # the 0 that it has
        (GREEDY, "model", "hierarchy", False),
    ],
)
def test_settings_take_what_changed_accepts(chosen, name, value, does):
    assert takes(changed(RunSettings(), **chosen), name, value) is does
