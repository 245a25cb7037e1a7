"""Which of open_clip's flags are supported, frozen against the installed open_clip; the rest is refused by name."""

import pytest

from mcl_clip.errors import UserError
from mcl_clip.openclip.flags import parse_args as parse_open_clip
from training import flags
from training.resolve import resolve

SUPPORTED = [
    "accum_freq",
    "aug_cfg",
    "batch_size",
    "beta1",
    "beta2",
    "cache_dir",
    "csv_caption_key",
    "csv_img_key",
    "csv_separator",
    "dataset_type",
    "ddp_static_graph",
    "debug",
    "delete_previous_checkpoint",
    "device",
    "dist_backend",
    "dist_url",
    "epochs",
    "epochs_cooldown",
    "eps",
    "force_context_length",
    "force_custom_text",
    "force_image_size",
    "force_patch_dropout",
    "force_quick_gelu",
    "gather_with_grad",
    "grad_checkpointing",
    "grad_clip_norm",
    "image_interpolation",
    "image_mean",
    "image_resize_mode",
    "image_std",
    "imagenet_val",
    "local_loss",
    "lock_image",
    "lock_image_freeze_bn_stats",
    "lock_image_unlocked_groups",
    "lock_text",
    "lock_text_freeze_layer_norm",
    "lock_text_unlocked_layers",
    "log_every_n_steps",
    "log_local",
    "logs",
    "lr",
    "lr_cooldown_end",
    "lr_cooldown_power",
    "lr_scheduler",
    "model",
    "momentum",
    "name",
    "no_set_device_rank",
    "opt",
    "precision",
    "pretrained",
    "pretrained_image",
    "report_to",
    "resume",
    "save_frequency",
    "save_most_recent",
    "seed",
    "siglip",
    "skip_scheduler",
    "torchcompile",
    "train_data",
    "train_num_samples",
    "use_bn_sync",
    "val_data",
    "val_frequency",
    "val_num_samples",
    "wandb_notes",
    "wandb_project_name",
    "warmup",
    "wd",
    "workers",
    "zeroshot_frequency",
]
REFUSED = [
    "coca_caption_loss_weight",
    "coca_contrastive_loss_weight",
    "copy_codebase",
    "dataset_resampled",
    "distill_model",
    "distill_pretrained",
    "horovod",
    "imagenet_v2",
    "loss_dist_impl",
    "remote_sync",
    "remote_sync_frequency",
    "remote_sync_protocol",
    "torchscript",
    "trace",
    "train_data_upsampling_factors",
    "use_bnb_linear",
]
VALUES = {
    "remote_sync_protocol": "fsspec",
    "remote_sync_frequency": "7",
    "coca_caption_loss_weight": "3",
    "coca_contrastive_loss_weight": "3",
}


def test_every_flag_of_open_clip_is_supported_or_refused():
    assert sorted(vars(parse_open_clip([]))) == sorted(SUPPORTED + REFUSED)
    assert sorted(flags.REFUSED) == sorted(REFUSED)


@pytest.mark.parametrize("name", REFUSED)
def test_a_refused_flag_is_named_with_a_reason(name):
    is_switch = getattr(parse_open_clip([]), name) is False
    arguments = [flags.flag(name)] if is_switch else [flags.flag(name), VALUES.get(name, "x")]
    with pytest.raises(UserError, match=flags.flag(name) + " is not supported: "):
        flags.parse(arguments)


@pytest.mark.parametrize(
    "arguments", [["--coca-caption-loss-weight=2.0"], ["--horo"], ["--distill-mod", "x"]], ids=" ".join
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
    assert {name: getattr(ours, name) for name in vars(theirs)} == vars(theirs)
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


@pytest.mark.parametrize("name", sorted(set(SUPPORTED) - OF_THE_JOB - ONE_VALUE))
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
    assert recipe(flags.flag(name), *value) != recipe()


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


def test_help_shows_both_parsers(capsys):
    with pytest.raises(SystemExit) as ended:
        flags.parse(["--help"])
    shown = capsys.readouterr().out
    assert ended.value.code == 0
    assert "--mcl-stages" in shown and "--lock-image-unlocked-groups" in shown and "torchrun" in shown
