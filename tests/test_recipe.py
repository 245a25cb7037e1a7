"""A recipe is resolved once, survives its YAML file, and says what differs."""

import dataclasses
import json

import pytest
import yaml

from mcl_clip.errors import UserError
from training.recipe import Recipe
from training.recipe_file import differences, dump
from training.resolve import parse_recipe, resolve

BASE = ["--train-data", "data", "--model", "ViT-B-32", "--name", "run"]


def make(*arguments, world_size=1) -> Recipe:
    flags, overrides = parse_recipe([*BASE, *arguments])
    return resolve(flags, overrides, name="run", world_size=world_size)


def test_recipe_yaml_given_as_config_makes_the_same_recipe(tmp_path):
    recipe = make(
        *("--mcl-stages", "2", "--aug-cfg", "scale=[0.4,1.0]", "--siglip", "--grad-clip-norm", "1.5"),
        *("--lock-image", "--pretrained-image"),
        *("--image-mean", "0.1", "0.2", "0.3", "--mcl-index-only", "--mcl-fusion", "mean-cosine"),
        *("--mcl-min-segment", "7", "--wandb-notes", "two words"),
        world_size=2,
    )
    (tmp_path / "recipe.yaml").write_text(dump(recipe))
    flags, overrides = parse_recipe(["--config", str(tmp_path / "recipe.yaml")])
    assert resolve(flags, overrides, name="run", world_size=2) == recipe
    assert list(differences(yaml.safe_load(dump(recipe)), recipe)) == []
    assert yaml.safe_load(dump(recipe))["versions"]["torch"]


def test_a_run_of_before_a_setting_was_there_goes_on_with_its_default():
    saved = yaml.safe_load(dump(make("--mcl-stages", "1")))
    del saved["objective"], saved["optimization"]["channels_last"]
    del saved["data"]["fit_share"], saved["data"]["fit_group"]
    assert list(differences(saved, make("--mcl-stages", "1"))) == []
    assert list(differences(saved, make("--mcl-stages", "1", "--mcl-channels-last"))) == [
        "optimization.channels_last False -> True"
    ]


def test_a_flag_on_the_command_line_wins_over_the_file(tmp_path):
    (tmp_path / "c.yaml").write_text("model: RN50\nepochs: 3\nmcl-clusters: 4\nlock-text: true\npretrained: openai\n")
    flags, overrides = parse_recipe(["--train-data", "data", "--config", str(tmp_path / "c.yaml"), "--epochs", "5"])
    recipe = resolve(flags, overrides, name="run", world_size=1)
    assert (recipe.model.model, recipe.stages[0].epochs, recipe.stages[0].clusters) == ("RN50", 5, 4)
    assert recipe.stages[0].lock_text and recipe.optimization.beta2 == 0.999


def test_of_a_recipe_yaml_the_command_line_wins_over_the_stages_too(tmp_path):
    file = tmp_path / "recipe.yaml"
    file.write_text(dump(make("--mcl-stages", "2", "--epochs", "2", "--lr", "0.1")))
    flags, overrides = parse_recipe(["--config", str(file), "--epochs=5", "--mcl-clusters", "7", "--mcl-stages", "1"])
    recipe = resolve(flags, overrides, name="run", world_size=1)
    assert [(stage.epochs, stage.clusters, stage.lr) for stage in recipe.stages] == [(5, 7, 0.1)] * 2


def test_stages_override_epochs_learning_rate_locks_and_clusters(tmp_path):
    (tmp_path / "c.yaml").write_text(
        "stages:\n  0: {clusters: 4}\n"
        "  2: {epochs: 7, lr: 1e-5, lock_image: true, lock_image_unlocked_groups: 6, init: base}\n"
    )
    recipe = make("--config", str(tmp_path / "c.yaml"), "--mcl-stages", "2", "--epochs", "2", "--lr", "0.1")
    assert [stage.clusters for stage in recipe.stages] == [4, 10, 10]
    assert [stage.epochs for stage in recipe.stages] == [2, 2, 7]
    assert [stage.lr for stage in recipe.stages] == [0.1, 0.1, 1e-5]
    assert [stage.lock_image for stage in recipe.stages] == [False, False, True]
    assert [stage.init for stage in recipe.stages] == ["previous", "previous", "base"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stages: {1: {speed: 3}}", "speed"),
        ("stages: {1: {epochs: many}}", "many"),
        ("stages: {1: {lock_text: 3}}", "true or false"),
        ("stages: {1: {init: nothing}}", "init"),
        ("stages: {first: {epochs: 3}}", "stage numbers"),
        ("no_such_flag: 3", r"c.yaml has the key 'no_such_flag'"),
        ("mcl_cluster: 3", r"'mcl_cluster', which is no flag; did you mean --mcl-clusters\?"),
        ("model: {model: RN50, siglap: true}", r"did you mean --siglip\?"),
        ("stages: {3: {epochs: 3}}", "sets stage 3, but --mcl-stages is 2"),
        ("stages: {1: {lr: .nan}}", "stage 1: lr must be at least 0, got nan"),
        ("stages: {1: {warmup: -1}}", "stage 1: warmup must be at least 0"),
        ("stages: 3", "stage numbers"),
        ("stages: {1: {epochs: 1.5}}", "1.5 is not a whole number"),
        ("stages: {1: {lr: null}}", "None is not a number"),
        ("stages: {0: {labels: mine.parquet}}", "stage 0 has no buckets"),
        ("config: other.yaml", "'config', which is no flag"),
        ("3: 4", "'3', which is no flag"),
        ("horovod: true", "--horovod"),
        ("- a\n- b", "mapping"),
        ("a: [", "YAML"),
    ],
)
def test_a_wrong_config_is_one_line(tmp_path, text, message):
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(UserError, match=message) as raised:
        make("--config", str(tmp_path / "c.yaml"), "--mcl-stages", "2")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("arguments", "difference"),
    [
        (["--wd", "0.3"], "optimization.wd 0.2 -> 0.3"),
        (["--seed", "1"], "seed 0 -> 1"),
        (["--mcl-clusters", "3"], "stages.0.clusters 10 -> 3"),
        (["--batch-size", "32"], "data.global_batch 64 -> 32"),
        (["--pretrained", "openai", "--mcl-base", "train"], "model.pretrained"),
        (["--mcl-leftovers", "drop"], "data.leftovers pack -> drop"),
    ],
)
def test_what_changes_results_is_a_difference(arguments, difference):
    found = list(differences(yaml.safe_load(dump(make())), make(*arguments)))
    assert any(entry.startswith(difference) for entry in found)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--workers", "1"],
        ["--logs", "elsewhere"],
        ["--mcl-stages", "3"],
        ["--batch-size", "32", "--accum-freq", "2"],
        ["--mcl-save-steps", "10", "--save-frequency", "3", "--mcl-keep-checkpoints", "9"],
        ["--log-every-n-steps", "1", "--report-to", "tensorboard"],
        ["--torchcompile", "--grad-checkpointing"],
    ],
    ids=" ".join,
)
def test_what_does_not_change_results_resumes(arguments):
    assert list(differences(yaml.safe_load(dump(make())), make(*arguments))) == []


def test_the_number_of_ranks_matters_only_where_the_gradient_depends_on_it():
    def changed(*arguments):
        one = make(*arguments, "--batch-size", "64")
        return list(differences(yaml.safe_load(dump(one)), make(*arguments, "--batch-size", "32", world_size=2)))

    assert changed() == ["optimization.diverging_ranks 1 -> 2"]
    assert changed("--gather-with-grad") == changed("--siglip") == []


def test_stage_0_is_kept_when_weights_and_stages_are_asked_for():
    assert make("--pretrained", "openai").base == "train"
    assert make("--pretrained", "openai", "--mcl-stages", "1").base == "keep"
    assert make("--pretrained", "openai", "--mcl-stages", "1", "--mcl-base", "train").base == "train"
    assert make("--mcl-stages", "1").base == "train"
    with pytest.raises(UserError, match="--mcl-base keep"):
        make("--mcl-base", "keep")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--batch-size", "0"], "--batch-size"),
        (["--mcl-clusters", "0"], "--mcl-clusters"),
        (["--logs", "None"], "--logs"),
        (["--opt", "sgd"], "--opt sgd"),
        (["--opt", "timm/lion"], "--lr"),
        (["--opt", "timm/lion", "--lr", "1", "--beta1", "0.9"], "--beta1"),
        (["--lr-scheduler", "const-cooldown"], "--epochs-cooldown"),
        (["--mcl-min-segment", "0"], "min_segment"),
        (["--mcl-ordinary", "0.5"], "--mcl-ordinary needs buckets"),
        (["--mcl-ordinary", "1.5", "--mcl-stages", "1"], "--mcl-ordinary is a share from 0 to 1, got 1.5"),
        (
            ["--mcl-ordinary", "0.5", "--mcl-stages", "1", "--mcl-leftovers", "drop"],
            "--mcl-ordinary needs --mcl-leftovers pack",
        ),
        (["--train-data", ""], "--train-data"),
        (["--image-mean", "0.1", "0.2"], "--image-mean takes three values"),
        (["--aug-cfg", "colour=1"], "--aug-cfg colour is not known"),
        (["--aug-cfg", "scale=2"], "--aug-cfg scale=2 is not a range"),
        (["--mcl-text-clusters", "3"], "--mcl-cluster-on image-text"),
        (["--model", "local-dir:x", "--pretrained", "openai"], "--pretrained openai is not supported"),
        (["--seed", "-1"], "--seed must be at least 0"),
        (["--lr", "nan"], "--lr must be at least 0"),
        (["--mcl-reservoir", "0"], "--mcl-reservoir must be at least 1"),
        (["--train-num-samples", "0"], "--train-num-samples must be at least 1"),
        (["--report-to", "tensorbord"], "--report-to tensorbord"),
        (["--aug-cfg", "scale"], "--aug-cfg takes KEY=VALUE"),
        (["--image-layer-decay", "0"], "--image-layer-decay must be above 0 and at most 1, got 0"),
        (["--lock-image-unlocked-groups", "2"], "--lock-image-unlocked-groups needs --lock-image"),
        (["--lock-image-freeze-bn-stats"], "--lock-image-freeze-bn-stats needs --lock-image"),
        (["--lock-text-freeze-layer-norm", "--lock-image"], "--lock-text-freeze-layer-norm needs --lock-text"),
        (["--momentum", "0.9"], "--momentum needs an optimizer of timm"),
        (["--epochs-cooldown", "1"], "--epochs-cooldown needs --lr-scheduler const-cooldown"),
        (["--lr-cooldown-end", "0.1", "--lr-scheduler", "const"], "--lr-cooldown-end needs"),
        (
            ["--epochs", "2", "--lr-scheduler", "const-cooldown", "--epochs-cooldown", "3"],
            "--epochs-cooldown 3 is longer than the 2 epochs of stage 0",
        ),
        (["--skip-scheduler", "--warmup", "3"], "--warmup has no effect with --skip-scheduler"),
        (["--skip-scheduler", "--lr-scheduler", "const"], "--lr-scheduler has no effect with --skip-scheduler"),
        (["--siglip", "--local-loss"], "--local-loss has no effect with --siglip"),
        (["--pretrained-image", "--pretrained", "openai"], "--pretrained-image has no effect with --pretrained"),
        (["--torchcompile-mode", "default"], "--torchcompile-mode needs --torchcompile"),
        (["--val-num-samples", "3"], "--val-num-samples needs --val-data"),
        (["--mcl-stages", "1", "--mcl-init", "scratch", "--lock-image"], "--mcl-init scratch: --lock-image"),
        (["--mcl-stages", "2", "--mcl-init", "scratch", "--lock-text"], "--mcl-init scratch: --lock-text"),
        (["--lock-image"], "--lock-image would keep a tower as it is drawn"),
        (["--lock-text", "--pretrained-image"], "--lock-text would keep a tower as it is drawn"),
        (["--aug-cfg", "re_prob=0.2"], "re_prob=0.2 has no effect so; add use_timm=True"),
        (["--aug-cfg", "ratio=(0.5,2)"], r"ratio=\(0.5, 2\) has no effect so; add use_timm=True"),
        (["--aug-cfg", "use_timm=True", "gray_scale_prob=0.2"], "gray_scale_prob=0.2 has no effect so"),
        (["--aug-cfg", "color_jitter=0.4"], "color_jitter has no effect without color_jitter_prob"),
    ],
)
def test_values_that_cannot_be_trained_with_are_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        make(*arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--pretrained", "openai", "--lock-image", "--lock-image-unlocked-groups", "2"],
        ["--opt", "timm/sgdp", "--momentum", "0.9", "--lr", "1"],
        ["--epochs", "2", "--lr-scheduler", "const-cooldown", "--epochs-cooldown", "2", "--lr-cooldown-end", "0.1"],
        ["--siglip", "--gather-with-grad"],
        ["--mcl-init", "scratch", "--lock-image", "--pretrained-image"],
        ["--model", "roberta-ViT-B-32", "--lock-text"],
        ["--aug-cfg", "use_timm=True", "re_prob=0.2", "ratio=(0.5,2)", "color_jitter=0.4"],
    ],
)
def test_what_has_an_effect_is_taken(arguments):
    make(*arguments)


def test_a_folder_with_a_configuration_alone_has_no_weights_to_keep_or_to_lock(tmp_path):
    config = {"model_cfg": {"vision_cfg": {}, "text_cfg": {}}, "preprocess_cfg": {}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    model = ["--model", f"local-dir:{tmp_path}", "--mcl-stages", "1"]
    assert make(*model).base == "train"
    for arguments, message in (
        (["--mcl-base", "keep"], "--mcl-base keep needs the weights"),
        (["--lock-image"], "--lock-image would keep a tower as it is drawn"),
        (["--lock-text"], "--lock-text would keep a tower as it is drawn"),
    ):
        with pytest.raises(UserError, match=message):
            make(*model, *arguments)
    (tmp_path / "weights.bin").touch()
    assert make(*model, "--lock-image").base == "keep"


def test_ordinary_negatives_are_mixed_into_stages_with_buckets(tmp_path):
    (tmp_path / "c.yaml").write_text("stages: {2: {ordinary: 0.25}}\n")
    recipe = make("--mcl-stages", "2", "--mcl-ordinary", "0.5", "--config", f"{tmp_path}/c.yaml")
    assert [recipe.policy(stage).ordinary for stage in range(3)] == [0.0, 0.5, 0.25]
    assert make("--mcl-stages", "1").policy(1).ordinary == 0.0
    with pytest.raises(UserError, match="--train-data-upsampling-factors"):
        make("--mcl-stages", "1", "--mcl-ordinary", "0.5", "--train-data", "a.tar::b.tar",
             "--train-data-upsampling-factors", "2::1")  # fmt: skip


def test_one_stage_that_locks_is_enough(tmp_path):
    (tmp_path / "c.yaml").write_text("stages: {1: {lock_image: true}}\nlock_image_unlocked_groups: 2\n")
    assert make("--mcl-stages", "1", "--config", f"{tmp_path}/c.yaml").stages[1].lock_image_unlocked_groups == 2


def test_a_recipe_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        make().seed = 3
