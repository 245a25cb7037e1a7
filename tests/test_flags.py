"""Which of open_clip's flags are honoured, held against its version 4.2 and the one in use; the rest is refused."""

import argparse
from pathlib import Path

import pytest

from mcl_clip.errors import UserError
from mcl_clip.openclip.flags import parse_args as parse_open_clip
from training import flags
from training.open_clip_flags import HONOURED, why_refused
from training.resolve import resolve

OF_THE_HOST = {name for name in vars(parse_open_clip([])) if name not in ("genlip", "genlap", "naflexclap")}
RECORDED = (Path(__file__).parent / "open_clip_4.2_flags.txt").read_text().split()
OURS = set(flags.parser()._option_string_actions)
VALUES = {"remote_sync_protocol": "fsspec"}


@pytest.mark.parametrize("option", RECORDED)
def test_every_flag_of_open_clip_4_is_honoured_or_refused_with_a_reason(option):
    name = option.removeprefix("--").replace("-", "_")
    assert (name in HONOURED) + (option in OURS) + (why_refused(name) is not None) == 1


def test_every_flag_of_the_open_clip_in_use_is_honoured_or_refused():
    spelt = {option for action in flags.parser()._actions for option in action.option_strings}
    ours = {option.lstrip("-").replace("-", "_") for option in spelt} | {"wd_exclude_patterns", "text_pooler_in_head"}
    undecided = OF_THE_HOST - HONOURED - ours
    assert [name for name in undecided if not why_refused(name)] == []
    assert OF_THE_HOST >= HONOURED


@pytest.mark.parametrize("name", ["fsdp", "torchscript", "horovod", "audio_ext", "naflex_seq_lens", "text_key"])
def test_a_flag_of_any_version_is_refused_by_name_and_reason(name):
    with pytest.raises(UserError, match=f"^{flags.flag(name)} is not supported: {why_refused(name)[:20]}"):
        flags.parse([flags.flag(name), "x"])


@pytest.mark.parametrize("name", sorted(name for name in OF_THE_HOST if why_refused(name)))
def test_a_refused_flag_is_named_with_a_reason(name):
    is_switch = getattr(parse_open_clip([]), name) is False
    arguments = [flags.flag(name)] if is_switch else [flags.flag(name), VALUES.get(name, "3")]
    with pytest.raises(UserError, match=flags.flag(name) + " is not supported: "):
        flags.parse(arguments)


def test_a_flag_that_nobody_has_thought_of_is_refused_once_the_host_has_it(monkeypatch):
    def newer(arguments):
        parser = argparse.ArgumentParser()
        parser.add_argument("--sharpness", type=int, default=1, dest="other_name")
        theirs, rest = parser.parse_known_args(arguments)
        return argparse.Namespace(**vars(parse_open_clip(rest)), **vars(theirs))

    monkeypatch.setattr(flags, "parse_open_clip", newer)
    assert flags.parse(["--epochs", "2"]).epochs == 2
    with pytest.raises(UserError, match="--other-name is not supported"):
        flags.parse(["--sharpness", "3"])


def test_a_flag_that_the_host_has_lost_is_no_error(monkeypatch):
    def older(arguments):
        theirs = vars(parse_open_clip(arguments))
        del theirs["resume"], theirs["wandb_notes"]
        return argparse.Namespace(**theirs)

    monkeypatch.setattr(flags, "parse_open_clip", older)
    parsed = flags.parse(["--epochs", "2"])
    assert parsed.epochs == 2 and parsed.wandb_notes is None


@pytest.mark.parametrize(
    "arguments", [["--coca-caption-loss-weight=2.0"], ["--copy-code"], ["--torchscr"]], ids=" ".join
)
def test_a_default_spelt_out_and_an_abbreviation_are_refused_too(arguments):
    with pytest.raises(UserError, match="is not supported"):
        flags.parse(arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dataset-type", "parquet"], "--dataset-type"),
        (["--resume", "epoch_3.pt"], "--resume epoch_3.pt"),
        (["--lr-scheduler", "step"], "--lr-scheduler step"),
        (["--mcl-stage", "2"], "--mcl-stage"),
        (["--no-such-flag"], "--no-such-flag"),
        (["--epochs", "many"], "--epochs"),
        (["--mcl-init", "nothing"], "--mcl-init"),
    ],
)
def test_a_wrong_flag_is_one_line_that_names_it(arguments, message):
    with pytest.raises(UserError, match=message) as raised:
        flags.parse(arguments)
    assert "\n" not in str(raised.value)


def test_open_clips_names_defaults_and_meaning_are_kept():
    ours, theirs = flags.parse(["--model", "ViT-B-32"]), parse_open_clip(["--model", "ViT-B-32"])
    assert {name: getattr(ours, name) for name in HONOURED} == {name: getattr(theirs, name) for name in HONOURED}
    assert flags.parse(["--model", "RN50"]).beta2 == 0.999
    assert ours.beta2 == 0.98
    assert flags.parse(["--resume", "latest", "--dataset-type", "webdataset"]).resume == "latest"


OF_THE_JOB = {"device", "dist_backend", "dist_url", "no_set_device_rank"}  # how ranks find each other: see ranks.join
ONE_VALUE = {"resume"}  # of those that are not refused, each means what happens anyway
COMMON = ["--train-data", "data", "--model", "ViT-B-32", "--name", "run", "--lr", "0.1", "--save-frequency", "5"]
ANOTHER = {
    "aug_cfg": ["scale=[0.5,1.0]"],
    "dataset_type": ["csv"],
    "epochs_cooldown": ["1"],
    "force_image_size": ["64"],
    "image_interpolation": ["bilinear"],
    "image_mean": ["0.1", "0.2", "0.3"],
    "image_resize_mode": ["longest"],
    "image_std": ["0.1", "0.2", "0.3"],
    "lr_scheduler": ["const"],
    "name": ["other"],
    "opt": ["timm/lion"],
    "precision": ["fp32"],
    "report_to": ["tensorboard"],
}


COOLING = ["--lr-scheduler", "const-cooldown", "--epochs-cooldown", "2"]
NEEDED = {
    "lock_image": ["--pretrained", "openai"],
    "lock_text": ["--pretrained", "openai"],
    "lock_image_unlocked_groups": ["--pretrained", "openai", "--lock-image"],
    "lock_image_freeze_bn_stats": ["--pretrained", "openai", "--lock-image"],
    "lock_text_unlocked_layers": ["--pretrained", "openai", "--lock-text"],
    "lock_text_freeze_layer_norm": ["--pretrained", "openai", "--lock-text"],
    "epochs_cooldown": COOLING,
    "lr_cooldown_end": COOLING,
    "lr_cooldown_power": COOLING,
    "distill_pretrained": ["--distill-model", "ViT-B-32"],
    "momentum": ["--opt", "timm/sgdp"],
    "val_num_samples": ["--val-data", "data"],
}


@pytest.mark.parametrize("name", sorted(HONOURED - OF_THE_JOB - ONE_VALUE))
def test_every_supported_flag_reaches_the_recipe(name):
    def recipe(*arguments):
        parsed = flags.parse([*COMMON, *arguments])
        return resolve(parsed, {}, name=parsed.name, world_size=1)

    before = getattr(parse_open_clip(["--model", "ViT-B-32"]), name)
    if before is False:
        value = []
    elif name in ANOTHER:
        value = ANOTHER[name]
    else:
        value = ["3" if before is None or isinstance(before, (int, float)) else "elsewhere"]
    needed = NEEDED.get(name, [])
    assert recipe(*needed, flags.flag(name), *value) != recipe(*needed)


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        (["--mcl-stage", "2"], "--mcl-stages"),
        (["--lock-imag-unlocked-groups", "2"], "--lock-image-unlocked-groups"),
        (["--local_loss"], "--local-loss"),
        (["extra", "--gather-grad"], "--gather-with-grad"),
    ],
)
def test_a_misspelt_flag_is_told_what_it_may_have_meant(arguments, meant):
    with pytest.raises(UserError, match=rf"did you mean {meant}\?"):
        flags.parse(arguments)


@pytest.mark.parametrize(
    ("arguments", "values"),
    [
        (["--opt-kwargs", "amsgrad=True", "name=x=1"], {"opt_kwargs": {"amsgrad": True, "name": "x=1"}}),
        (["--wd-exclude", "*.proj", "visual.*"], {"wd_exclude": ["*.proj", "visual.*"]}),
        (["--visual-layer-decay", "0.5"], {"image_layer_decay": 0.5, "text_layer_decay": None}),
        (
            ["--torchcompile", "--torchcompile-mode", "default"],
            {"torchcompile_mode": "default", "torchcompile_backend": None},
        ),
        (["--opt-kwargs"], {"opt_kwargs": None}),
    ],
)
def test_flags_of_open_clip_4_reach_the_recipe_under_any_version(arguments, values):
    recipe = resolve(flags.parse([*COMMON, *arguments]), {}, name="run", world_size=1)
    assert {name: getattr(recipe.optimization, name) for name in values} == values


def test_help_shows_both_parsers(capsys):
    with pytest.raises(SystemExit) as ended:
        flags.parse(["--help"])
    shown = capsys.readouterr().out
    assert ended.value.code == 0
    assert "--mcl-stages" in shown and "--lock-image-unlocked-groups" in shown and "torchrun" in shown
