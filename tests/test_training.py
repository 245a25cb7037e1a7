"""Whole runs in this process: models, stages, flags, bad input."""

import json
import logging
import os
import random
import shutil
import signal
import subprocess
import sys

import numpy as np
import open_clip
import pytest
import torch
import yaml
from safetensors.torch import load_file

import mcl_clip
from mcl_clip.models.stage_model import load_stage_model, model_hash
from mcl_clip.openclip.version import VERSION
from mcl_clip.shards.manifest import Manifest
from tests.host import of_open_clip_3
from tests.tars import image_bytes, write_shards, write_tar
from tests.tiny_models import hugging_face_text, word_tokenizer
from tests.tiny_runs import command, draw_weights, fingerprint, losses, metrics, model_directory
from training import health
from training.main import main


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Directory of a finished run of two stages that no test changes; others over its tars may stand beside it."""
    directory = tmp_path_factory.mktemp("finished")
    assert main(command(directory, "--epochs", "1", "--mcl-stages", "1")) == 0
    return directory


def fails(capfd, arguments) -> str:
    """The one line on stderr of a command that ends with status 2."""
    capfd.readouterr()
    assert main(arguments) == 2
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    return lines[0]


def is_unbegun(directory) -> bool:
    """Whether nothing but an index is left of the run: other flags may begin it."""
    run = directory / "runs/run"
    return not run.exists() or os.listdir(run) == ["source"]


def state(directory, stage):
    return load_stage_model(directory / f"runs/run/stage_{stage}/model")[0].state_dict()


def moved(directory, first, second, part) -> bool:
    """Whether any tensor whose name starts with `part` differs between two stages."""
    a, b = state(directory, first), state(directory, second)
    return any(not torch.equal(a[name], b[name]) for name in a if name.startswith(part))


@pytest.mark.parametrize("kind", ["vit", "resnet", "timm", "hugging-face-text", "siglip"])
def test_two_stages_and_the_fused_model_of_every_kind(tmp_path, kind, monkeypatch):
    flags = ["--siglip"] if kind == "siglip" else []
    vision = kind if kind in ("resnet", "timm") else "vit"
    arguments = command(tmp_path, "--mcl-stages", "1", "--epochs", "1", *flags, kind=vision, samples=24)
    if kind == "hugging-face-text":
        model_directory(tmp_path / "architecture", text_cfg=hugging_face_text(tmp_path / "bert"))
        word_tokenizer(tmp_path / "architecture")  # open_clip looks for it in the model's directory
    assert main(arguments) == 0
    run = tmp_path / "runs/run"
    for stage in (0, 1):
        monkeypatch.chdir(run / f"stage_{stage}/model")  # a text tower beside it, `text`, is found from here alone
        model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{run}/stage_{stage}/model")
        size = model.visual.image_size
        features = model.eval().encode_image(torch.zeros(2, 3, *(size if isinstance(size, tuple) else (size, size))))
        assert features.shape == (2, 16) and torch.isfinite(features).all()
        assert (model.logit_bias is not None) == (kind == "siglip")
    text_tower = "text.transformer." if kind == "hugging-face-text" else "transformer."
    assert moved(tmp_path, 0, 1, "visual.") and moved(tmp_path, 0, 1, text_tower)
    fused, _, tokenizer = mcl_clip.load(run / "fused")
    assert fused.num_stages == 2 and fused.encode_text(tokenizer(["a caption"])).shape == (1, 32)
    rows = metrics(tmp_path, 1)
    assert {"loss", "negatives_mean", "samples_per_s", "data_wait_s", "lr", "logit_scale", "memory_gib"} <= rows[
        0
    ].keys()
    assert all(np.isfinite(row["loss"]) for row in rows)
    # Negatives come from the sample's own bucket: fewer than a whole batch would give wherever buckets share one.
    assert min(row["negatives_mean"] for row in rows) < 15 and rows[0]["negatives_mean"] <= 15


def test_a_vit_stage_loads_and_encodes_where_mcl_clip_is_never_imported(finished):
    script = (
        "import sys, torch, open_clip\n"
        f"model, _, preprocess = open_clip.create_model_and_transforms('local-dir:{finished}/runs/run/stage_0/model')\n"
        "from PIL import Image\n"
        "image = preprocess(Image.new('RGB', (20, 30)))[None]\n"
        "print(tuple(model.encode_image(image).shape), 'mcl_clip' in sys.modules)"
    )
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=finished, check=True)
    assert shown.stdout.strip().endswith("(1, 16) False")


def test_stages_start_from_the_base_the_previous_stage_or_scratch(tmp_path):
    config = tmp_path / "c.yaml"
    config.write_text("stages:\n  1: {init: base, lr: 0}\n  2: {init: previous, lr: 0}\n  3: {init: scratch, lr: 0}\n")
    assert main(command(tmp_path, "--epochs", "1", "--mcl-stages", "3", "--config", str(config), "--wd", "0")) == 0
    assert not moved(tmp_path, 0, 1, "") and not moved(tmp_path, 1, 2, "")
    assert moved(tmp_path, 0, 3, "visual.") and moved(tmp_path, 0, 3, "transformer.")


def test_locks_epochs_and_clusters_by_stage(tmp_path):
    (tmp_path / "c.yaml").write_text(
        "stages:\n  0: {clusters: 3}\n"
        "  1: {epochs: 3, lock_image: true, lock_image_unlocked_groups: 2, lock_text: true,\n"
        "      lock_text_freeze_layer_norm: true}\n"
    )
    assert main(command(tmp_path, "--epochs", "1", "--mcl-stages", "1", "--config", str(tmp_path / "c.yaml"))) == 0
    assert not moved(tmp_path, 0, 1, "transformer.") and not moved(tmp_path, 0, 1, "token_embedding")
    assert not moved(tmp_path, 0, 1, "visual.conv1") and moved(tmp_path, 0, 1, "visual.transformer.resblocks.1")
    assert metrics(tmp_path, 1)[-1]["epoch"] == 2
    assert json.loads((tmp_path / "runs/run/stage_0/clusters/clusters.json").read_text())["k"] == 3
    assert mcl_clip.load(tmp_path / "runs/run/fused")[0].shares_text_tower


def test_stage_0_may_be_pretrained_and_kept(finished):
    base = finished / "runs/run/stage_0/model"
    arguments = command(finished, "--epochs", "1", "--mcl-stages", "1", "--mcl-base", "auto", "--name", "kept")
    arguments[arguments.index("--model") + 1] = f"local-dir:{base}"
    assert main(arguments) == 0
    kept = finished / "runs/kept/stage_0"
    assert not (kept / "metrics.jsonl").exists() and (finished / "runs/kept/stage_1/metrics.jsonl").exists()
    first, second = (load_stage_model(path)[0].state_dict() for path in (base, kept / "model"))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_more_stages_extend_a_run_and_fewer_are_refused(tmp_path, capfd):
    assert main(command(tmp_path, "--epochs", "1")) == 0
    before = fingerprint(tmp_path)
    assert main(command(tmp_path, "--epochs", "1", "--mcl-stages", "1")) == 0
    assert fingerprint(tmp_path).items() >= before.items()
    assert main(command(tmp_path, "--epochs", "1", "--mcl-stages", "2")) == 0
    assert mcl_clip.load(tmp_path / "runs/run/fused")[0].num_stages == 3
    assert "2 stages" in fails(capfd, command(tmp_path, "--epochs", "1"))


def test_index_only_buckets_write_no_tars_and_train_the_same(finished):
    assert main(command(finished, "--epochs", "1", "--mcl-stages", "1", "--mcl-index-only", "--name", "index")) == 0
    assert Manifest.load(finished / "runs/index/stage_1/buckets").kind == "index-only"
    assert not list((finished / "runs/index").rglob("*.tar")) and list((finished / "runs/run").rglob("*.tar"))
    tars, index = (model_hash(finished / f"runs/{name}/stage_1/model") for name in ("run", "index"))
    assert tars == index


def test_resized_buckets_are_trained_on_and_belong_to_the_recipe(finished, capfd):
    arguments = command(finished, "--epochs", "1", "--mcl-stages", "1", "--mcl-resize", "8", "--name", "resized")
    assert main(arguments) == 0
    assert Manifest.load(finished / "runs/resized/stage_1/buckets").made_from["resize"] == {"side": 8, "quality": 90}
    stages = [
        [model_hash(finished / f"runs/{name}/stage_{stage}/model") for stage in (0, 1)] for name in ("run", "resized")
    ]
    assert stages[0][0] == stages[1][0] and stages[0][1] != stages[1][1]
    assert "resize 8 -> 9" in fails(capfd, [*arguments, "--mcl-resize", "9"])
    assert "needs --mcl-resize" in fails(capfd, command(finished, "--mcl-stages", "1", "--mcl-resize-quality", "80"))


def test_ordinary_negatives_among_the_others_belong_to_the_recipe(finished, capfd):
    arguments = command(finished, "--epochs", "1", "--mcl-stages", "1", "--mcl-ordinary", "0.5", "--name", "mixed")
    assert main(arguments) == 0
    plain, mixed = (
        [model_hash(finished / f"runs/{name}/stage_{stage}/model") for stage in (0, 1)] for name in ("run", "mixed")
    )
    assert plain[0] == mixed[0] and plain[1] != mixed[1]
    assert "stages.1.ordinary 0.5 -> 0.2" in fails(capfd, [*arguments, "--mcl-ordinary", "0.2"])


def test_accumulation_gives_the_losses_of_one_large_batch(tmp_path):
    assert main(command(tmp_path, "--epochs", "1", "--mcl-stages", "1")) == 0
    arguments = command(tmp_path, "--epochs", "1", "--mcl-stages", "1", "--accum-freq", "4", "--name", "other")
    arguments[arguments.index("--batch-size") + 1] = "4"
    assert main(arguments) == 0
    for stage in (0, 1):
        other = [json.loads(row)["loss"] for row in (tmp_path / f"runs/other/stage_{stage}/metrics.jsonl").open()]
        assert other == pytest.approx(losses(tmp_path, stage), rel=1e-4)


@pytest.mark.parametrize(
    ("kind", "flags"),
    [
        ("vit", "--force-patch-dropout 0.5"),
        ("resnet", "--opt timm/adamw --beta1 0.9 --precision amp --lr-scheduler const-cooldown --epochs-cooldown 1"),
    ],
    ids=["dropout", "scaler, timm, cooldown, BatchNorm"],
)
def test_resumed_in_the_middle_everything_is_what_it_would_have_been(tmp_path, kind, flags):
    saving = ("--mcl-save-steps", "5", "--mcl-keep-checkpoints", "9")
    arguments = command(tmp_path, *flags.split(), *saving, kind=kind, samples=24)
    assert main(arguments) == 0
    before, seen = fingerprint(tmp_path), losses(tmp_path)
    assert seen[-1] < seen[0]
    checkpoints = sorted((tmp_path / "runs/run/stage_0/checkpoints").iterdir())
    for later in checkpoints[1:]:
        later.unlink()
    for file in (tmp_path / "runs/run/stage_0/model").iterdir():
        file.unlink()
    torch.rand(3)
    assert main(arguments) == 0
    assert fingerprint(tmp_path) == before and losses(tmp_path) == seen


def test_labels_of_the_user_take_the_place_of_clusters(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    arguments = command(tmp_path, "--epochs", "1", "--mcl-stages", "1", "--config", str(tmp_path / "c.yaml"))
    rows = [
        (f"{shard:05d}", f"{shard:05d}{sample:04d}", "even" if sample % 2 else "odd")
        for shard in range(3)
        for sample in range(40)
    ]
    shard, key, label = zip(*rows, strict=True)
    pq.write_table(pa.table({"shard": shard, "key": key, "label": label}), tmp_path / "labels.parquet")
    (tmp_path / "c.yaml").write_text(f"stages: {{1: {{labels: {tmp_path}/labels.parquet}}}}\n")
    assert main(arguments) == 0
    assert Manifest.load(tmp_path / "runs/run/stage_1/buckets").label_paths == ["even", "odd"]
    assert not (tmp_path / "runs/run/stage_0/clusters").exists()


def test_validation_tensorboard_and_checkpoints_by_time(tmp_path):
    flags = ("--val-data", f"{tmp_path}/held-out", "--report-to", "tensorboard", "--val-num-samples", "30")
    saving = ("--save-frequency", "0", "--mcl-save-minutes", "1e-9", "--mcl-keep-checkpoints", "3")
    write_shards(tmp_path / "held-out", 2, 20, seed=9, size=24)
    assert main(command(tmp_path, *flags, *saving)) == 0
    saved = sorted(path.name for path in (tmp_path / "runs/run/stage_0/checkpoints").iterdir())
    assert saved == [f"step_{step:08d}.pt" for step in (13, 14, 15)]
    rows = [json.loads(line) for line in (tmp_path / "runs/run/stage_0/validation.jsonl").open()]
    assert [row["epoch"] for row in rows] == [1, 2]
    assert rows[0]["num_samples"] == 30 and 0 <= rows[0]["image_to_text_R@1"] <= rows[0]["image_to_text_R@10"] <= 1
    assert list((tmp_path / "runs/run/tensorboard/stage_0").iterdir())
    weights = fingerprint(tmp_path)["stage_0/model/open_clip_model.safetensors"]
    assert main(command(tmp_path, "--name", "plain")) == 0
    plain = model_hash(tmp_path / "runs/plain/stage_0/model")
    assert model_hash(tmp_path / "runs/run/stage_0/model") == plain, weights


def test_gradient_checkpointing_and_clipping_do_not_change_the_losses_but_where_they_clip(tmp_path):
    assert main(command(tmp_path, "--epochs", "1")) == 0
    assert main(command(tmp_path, "--epochs", "1", "--grad-checkpointing", "--name", "same")) == 0
    assert main(command(tmp_path, "--epochs", "1", "--grad-clip-norm", "1e-3", "--name", "clipped")) == 0
    same, clipped = (
        [json.loads(row)["loss"] for row in (tmp_path / f"runs/{name}/stage_0/metrics.jsonl").open()]
        for name in ("same", "clipped")
    )
    assert same == pytest.approx(losses(tmp_path), rel=1e-6) and clipped != pytest.approx(losses(tmp_path), rel=1e-6)


def test_a_run_leaves_nothing_behind_in_the_process(tmp_path):
    def global_state():
        handlers = {name: list(logging.getLogger(name).handlers) for name in ("mcl_clip", "mcl_clip.training")}
        states = random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()
        return signal.getsignal(signal.SIGTERM), handlers, *states

    arguments = command(tmp_path, "--epochs", "1", "--mcl-stages", "1")
    before = global_state()
    assert main(arguments) == 0
    first = fingerprint(tmp_path)
    again = tmp_path / "again"
    assert main([*arguments, "--logs", str(again / "runs")]) == 0
    assert global_state() == before and not torch.distributed.is_initialized()
    same = {name: value for name, value in fingerprint(again).items() if not name.startswith("fused/")}
    assert same.items() <= first.items()


def test_a_loss_that_is_no_number_stops_with_the_step_and_the_keys(tmp_path, capfd, monkeypatch):
    from training import step as step_module

    def poisoned(self, batch):
        value = original(self, batch)
        return value * float("nan") if batch.step == 3 else value

    original = step_module.TrainingStep._backward_one
    rare = ("--log-every-n-steps", "100")  # a checkpoint is written between log lines
    arguments = command(tmp_path, "--mcl-save-steps", "1", "--mcl-keep-checkpoints", "9", *rare)
    with monkeypatch.context() as patch:
        patch.setattr(step_module.TrainingStep, "_backward_one", poisoned)
        assert main(arguments) == health.STATUS
    line = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(line) == 1 and "step 3" in line[0] and "loss is nan" in line[0] and "0000" in line[0]
    keys = json.loads((tmp_path / "runs/run/stage_0/non_finite_rank_0.json").read_text())["keys"]
    assert len(keys) == 16 and all(key.split("/")[0] in ("00000", "00001", "00002") for key in keys)
    saved = sorted(path.name for path in (tmp_path / "runs/run/stage_0/checkpoints").iterdir())
    assert saved == [f"step_{step:08d}.pt" for step in (1, 2, 3)]
    assert main(arguments) == 0


def test_broken_weights_are_never_saved(tmp_path, capfd, monkeypatch):
    from training import step as step_module

    def broken(self):
        original(self)
        with torch.no_grad():
            next(self.core.parameters()).fill_(float("inf"))

    original = step_module.TrainingStep._update
    monkeypatch.setattr(step_module.TrainingStep, "_update", broken)
    assert main(command(tmp_path, "--mcl-save-steps", "1")) == health.STATUS
    assert not (tmp_path / "runs/run/stage_0/checkpoints").exists()


def test_recipe_yaml_is_written_and_makes_the_same_run(finished):
    recipe = yaml.safe_load((finished / "runs/run/recipe.yaml").read_text())
    assert recipe["versions"]["open_clip_torch"] == VERSION
    assert recipe["optimization"]["beta2"] == 0.98 and recipe["data"]["global_batch"] == 16
    assert main(["--config", f"{finished}/runs/run/recipe.yaml", "--name", "second", "--device", "cpu"]) == 0
    assert model_hash(finished / "runs/second/stage_1/model") == model_hash(finished / "runs/run/stage_1/model")


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 25 MB, two checkpoints, that really gets full; only root can mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=25m", "tmpfs", str(place)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small file system cannot be mounted here")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_a_full_disk_is_one_line_and_the_last_checkpoint_goes_on(tmp_path, small_disk, capfd):
    arguments = [*command(tmp_path, "--mcl-save-steps", "3"), "--logs", str(small_disk)]
    assert "space" in fails(capfd, [*arguments, "--mcl-keep-checkpoints", "9"])
    run = small_disk / "run/stage_0"
    saved = sorted(run.glob("checkpoints/*"))
    assert saved and not list(small_disk.rglob(".*.tmp")) and not (run / "model").exists()
    for checkpoint in saved:
        torch.load(checkpoint, weights_only=True)
    subprocess.run(["mount", "-o", "remount,size=199m", str(small_disk)], check=True)
    assert main(arguments) == 0
    assert main([*arguments, "--logs", f"{tmp_path}/runs"]) == 0
    assert model_hash(run / "model") == model_hash(tmp_path / "runs/run/stage_0/model")


class TestBadInput:
    def test_no_shards_match(self, tmp_path, capfd):
        line = fails(capfd, command(tmp_path, "--train-data", f"{tmp_path}/nowhere/*.tar"))
        assert "nowhere" in line and "--train-data" in line
        assert not (tmp_path / "runs/run").exists()

    def test_broken_tars_are_listed_where_the_run_would_have_been(self, tmp_path, capfd):
        arguments = command(tmp_path, "--epochs", "1")
        for shard in (0, 2):
            os.truncate(tmp_path / f"tars/0000{shard}.tar", 5000)
        assert "2 of 3" in fails(capfd, arguments)
        assert len((tmp_path / "runs/run/source/broken.jsonl").read_text().splitlines()) == 2
        assert main([*arguments, "--mcl-skip-broken"]) == 0
        assert "2 broken tars (00000, 00002)" in (tmp_path / "runs/run/out.log").read_text()

    @pytest.mark.skipif(os.geteuid() == 0 and not os.path.isdir("/proc/1"), reason="needs a place nobody can write")
    def test_an_unwritable_run_directory(self, tmp_path, capfd):
        assert "--logs" in fails(capfd, command(tmp_path, "--logs", "/proc/1"))

    def test_the_run_directory_is_a_file(self, tmp_path, capfd):
        (tmp_path / "runs").mkdir()
        (tmp_path / "runs/run").write_text("mine")
        assert "--name" in fails(capfd, command(tmp_path))
        assert (tmp_path / "runs/run").read_text() == "mine"

    def test_a_name_that_holds_another_recipe(self, finished, capfd):
        before = fingerprint(finished)
        line = fails(capfd, command(finished, "--epochs", "1", "--mcl-stages", "1", "--wd", "0.1"))
        assert "optimization.wd 0.2 -> 0.1" in line and "--name" in line
        (finished / "runs/other").mkdir()
        (finished / "runs/other/thesis.tex").write_text("mine")
        assert "thesis.tex" in fails(capfd, command(finished, "--name", "other"))
        assert fingerprint(finished) == before

    def test_more_epochs_are_refused_with_advice_that_works(self, tmp_path, capfd):
        arguments = command(tmp_path, "--mcl-stages", "1", "--epochs", "1")
        assert main(arguments) == 0
        line = fails(capfd, [*arguments, "--epochs", "2"])
        advice = f"--mcl-base train --model local-dir:{tmp_path}/runs/run/stage_0/model"
        assert "stages.0.epochs 1 -> 2" in line and advice in line
        assert main([*arguments, *advice.split(), "--mcl-stages", "0", "--name", "on", "--lr", "1e-9"]) == 0
        before, after = (
            load_file(tmp_path / f"runs/{name}/stage_0/model/open_clip_model.safetensors") for name in ("run", "on")
        )
        assert all(torch.allclose(after[name], tensor, atol=1e-6) for name, tensor in before.items())
        (tmp_path / "c.yaml").write_text("stages: {1: {epochs: 2}}")
        longer = [*arguments, "--config", f"{tmp_path}/c.yaml"]
        assert f"delete {tmp_path}/runs/run/stage_1" in fails(capfd, longer)
        shutil.rmtree(tmp_path / "runs/run/stage_1")
        assert main(longer) == 0
        assert len(losses(tmp_path, 1)) == 2 * len(losses(tmp_path, 0))

    def test_more_clusters_than_samples(self, tmp_path, capfd):
        line = fails(capfd, command(tmp_path, "--mcl-stages", "1", "--mcl-clusters", "121"))
        assert "--mcl-clusters 121" in line and "120 samples" in line
        assert is_unbegun(tmp_path)

    def test_fewer_samples_than_a_global_batch(self, tmp_path, capfd):
        assert "--batch-size" in fails(capfd, command(tmp_path, "--batch-size", "128"))
        assert is_unbegun(tmp_path)

    def test_an_index_outlives_mistakes_in_other_flags(self, tmp_path, capfd):
        arguments = command(tmp_path, "--epochs", "1")
        index = tmp_path / "runs/run/source/manifest.json"
        fails(capfd, [*arguments, "--batch-size", "128"])
        begun = index.stat().st_mtime_ns
        fails(capfd, [*arguments, "--model", "No-Such-Model"])
        assert main(arguments) == 0 and index.stat().st_mtime_ns == begun

    def test_changed_data_is_refused(self, tmp_path, capfd):
        assert main(command(tmp_path, "--epochs", "1")) == 0
        write_shards(tmp_path / "tars", 3, 80, size=24)
        assert "00000.tar" in fails(capfd, command(tmp_path, "--epochs", "1", "--mcl-stages", "1"))

    def test_moved_data_goes_on(self, tmp_path):
        arguments = command(tmp_path, "--epochs", "1", "--mcl-index-only", "--mcl-stages", "1")
        assert main(arguments) == 0
        before = fingerprint(tmp_path)
        shutil.move(tmp_path / "tars", tmp_path / "elsewhere")
        arguments[arguments.index("--train-data") + 1] = f"{tmp_path}/elsewhere"
        assert main([*arguments, "--mcl-stages", "2"]) == 0
        after = fingerprint(tmp_path)
        assert {name: after[name] for name in before if not name.startswith("fused/")}.items() <= before.items()
        assert len(losses(tmp_path, 2)) > 0

    def test_a_model_that_was_put_there_is_refused(self, tmp_path, capfd):
        assert main(command(tmp_path, "--epochs", "1", "--mcl-stages", "1")) == 0
        model = tmp_path / "runs/run/stage_0/model/open_clip_config.json"
        config = json.loads(model.read_text())
        config.pop("mcl_clip")
        model.write_text(json.dumps(config))
        assert "stage_0/model" in fails(capfd, command(tmp_path, "--epochs", "1", "--mcl-stages", "1"))

    @pytest.mark.parametrize(
        ("flags", "message"),
        [
            (["--model", "No-Such-Model"], "No-Such-Model"),
            (["--model", "ViT-B-32", "--pretrained", "no-such-tag"], "no-such-tag"),
            (["--model", "coca_ViT-B-32"], "CoCa"),
            (["--lock-text"], "--lock-text would keep a tower as it is drawn"),
            (["--opt", "timm/no-such-optimizer", "--beta1", "0.9"], "--opt timm/no-such-optimizer"),
            (["--imagenet-val", "/nowhere"], "--imagenet-val"),
            (["--val-data", "/nowhere"], "--val-data /nowhere"),
            (["--horovod"], "--horovod"),
            (["--device", "abacus"], "--device abacus"),
            (["--beta1", "2"], "--beta1 2"),
            (["--force-image-size", "-3"], "--force-image-size takes a side"),
            (["--force-image-size", "32", "0"], "--force-image-size takes a side"),
            (["--force-patch-dropout", "1.5"], "open_clip cannot build"),
            (["--mcl-stages", "1", "--mcl-clusters", "7", "--mcl-reservoir", "5"], "raise --mcl-reservoir"),
        ],
    )
    def test_flags_that_cannot_be(self, tmp_path, capfd, flags, message):
        assert message in fails(capfd, command(tmp_path, *flags))
        assert is_unbegun(tmp_path)

    def test_locks_of_later_stages_are_tried_before_the_first_is_trained(self, tmp_path, capfd):
        (tmp_path / "c.yaml").write_text("stages: {1: {lock_text: true}}")
        arguments = command(tmp_path, "--mcl-stages", "1", "--config", f"{tmp_path}/c.yaml")
        draw_weights(tmp_path)
        assert "--lock-text-freeze-layer-norm" in fails(capfd, command(tmp_path, "--lock-text"))
        line = fails(capfd, arguments)
        assert "--lock-text-freeze-layer-norm" in line and is_unbegun(tmp_path)

    def test_clusters_may_be_changed_until_they_are_made(self, tmp_path, capfd):
        files = [(f"{n}.{end}", data) for n in range(48) for end, data in (("jpg", image_bytes(n % 4)), ("txt", b"a"))]
        (tmp_path / "tars").mkdir()
        write_tar(tmp_path / "tars/00000.tar", files)
        arguments = command(tmp_path, "--epochs", "1", "--mcl-stages", "1")
        line = fails(capfd, [*arguments, "--mcl-clusters", "7"])
        assert "only 4 distinct features, too few for 7 clusters" in line and "--mcl-clusters" in line
        before = (tmp_path / "runs/run/stage_0/model/open_clip_model.safetensors").stat().st_mtime_ns
        assert main(arguments) == 0
        assert (tmp_path / "runs/run/stage_0/model/open_clip_model.safetensors").stat().st_mtime_ns == before
        assert "stages.0.clusters 2 -> 3" in fails(capfd, [*arguments, "--mcl-clusters", "3"])

    @of_open_clip_3("it locks a ModifiedResNet by layers")
    def test_a_partial_lock_of_a_resnet(self, tmp_path, capfd):
        arguments = command(tmp_path, "--lock-image", "--lock-image-unlocked-groups", "1", kind="resnet")
        draw_weights(tmp_path)
        assert "--lock-image-unlocked-groups 1" in fails(capfd, arguments)

    def test_weights_of_another_architecture(self, tmp_path, capfd):
        torch.save({"weight": torch.zeros(1)}, tmp_path / "weights.pt")
        arguments = command(tmp_path, "--model", "mcl-tiny-vit", "--pretrained", str(tmp_path / "weights.pt"))
        assert "weights.pt" in fails(capfd, arguments)
