"""Training on images alone: the same run, from tars to the fused model, with another objective."""

import json
import signal

import pytest
import timm
import torch

import mcl_clip
from eval.knn import main as knn
from eval.linear_probe import main as probe
from eval.report.command import main as report
from eval.scores import read_scores
from mcl_clip.errors import UserError
from mcl_clip.models.checkpoints import latest_checkpoint, load_checkpoint
from mcl_clip.shards.captions import NO_CAPTIONS
from mcl_clip.shards.index import index_sources
from mcl_clip.shards.manifest import Manifest
from tests.image_runs import READS_FOLDERS, WITHOUT_CAPTIONS, image_command
from tests.jobs import count_events, finish, run_job, start, wait_for
from tests.tars import write_shards
from tests.test_linear_probe import class_folders
from tests.tiny_runs import command, fingerprint, losses, metrics
from training import preemption
from training.main import main
from training.resolve import parse_recipe, resolve


@pytest.fixture(scope="module")
def three_stages(tmp_path_factory):
    """A run of SimCLR on two ranks with synchronised BatchNorm; its directory."""
    directory = tmp_path_factory.mktemp("ranks")
    flags = image_command(directory, "simclr", "--mcl-stages", "2", "--use-bn-sync", model="test_resnet")
    flags[flags.index("--batch-size") + 1] = "8"
    assert run_job(flags, directory / "log", 2) == [0, 0], (directory / "log").read_text()
    return directory


def test_every_image_is_trained_on_and_clustered(three_stages):
    run = three_stages / "runs/run"
    source = Manifest.load(run / "source")
    assert (source.num_samples, source.has_captions, source.left_out) == (120, False, {})
    for stage in (1, 2):
        assert Manifest.load(run / f"stage_{stage}/buckets").num_samples == 120
    assert json.loads((run / "stage_0/clusters/clusters.json").read_text())["failed"]["count"] == 0
    row = metrics(three_stages, 1)[0]
    assert "logit_scale" not in row and "identical_caption_share" not in row
    assert {row["segments_mean"] for row in metrics(three_stages, 0)} == {1.0}


@READS_FOLDERS
def test_ranks_with_synchronised_statistics_have_the_losses_of_one(three_stages, tmp_path):
    flags = image_command(three_stages, "simclr", "--mcl-stages", "2", model="test_resnet")
    flags[flags.index("--logs") + 1] = f"{tmp_path}/runs"
    assert main(flags) == 0
    # Later stages' clusters, and so their batches, may differ where a sample lies between two.
    assert losses(three_stages) == pytest.approx(losses(tmp_path), rel=1e-3)
    ours, theirs = (
        timm.create_model(f"local-dir:{folder}/runs/run/stage_0/model", pretrained=True).state_dict()
        for folder in (three_stages, tmp_path)
    )
    assert ours["bn1.num_batches_tracked"] == theirs["bn1.num_batches_tracked"] == 16
    for name in ("bn1.running_mean", "bn1.running_var", "layer4.0.bn1.running_var"):
        torch.testing.assert_close(ours[name], theirs[name], rtol=2e-2, atol=1e-3)


@READS_FOLDERS
def test_a_stage_loads_in_timm_and_all_of_them_as_one_model(three_stages):
    run = three_stages / "runs/run"
    fused, preprocess, tokenizer = mcl_clip.load(run / "fused")
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        backbones = [
            timm.create_model(f"local-dir:{run}/stage_{stage}/model", pretrained=True).eval() for stage in range(3)
        ]
        each = [backbone(images) for backbone in backbones]
        assert tokenizer is None and preprocess is not None
        assert torch.equal(fused(images), torch.cat(each, 1))
        assert all(map(torch.equal, fused.stage_embeddings(images), each))
        assert torch.equal(fused.subset([2, 0])(images), torch.cat([each[2], each[0]], 1))
        stage, _, _ = mcl_clip.load(run / "stage_1")
        assert torch.equal(stage(images), each[1])
    assert backbones[0].pretrained_cfg["input_size"][-1] == 32


def test_the_report_shows_scores_and_clusters(three_stages, tmp_path):
    run = three_stages / "runs/run"
    folders = class_folders(tmp_path / "set")
    for score, name in ((knn, "knn"), (probe, "linear_probe")):
        flags = ["--model", str(run / "fused"), "--dataset", str(folders), "--device", "cpu"]
        assert score([*flags, "--output", str(run / f"scores/{name}.json")]) == 0
    rows = read_scores(run / "scores/knn.json")
    assert [row["model"] for row in rows] == ["stage_0", "stage_1", "stage_2", "fused_0-1", "fused"]
    assert report([str(run)]) == 0
    page = (run / "report.html").read_text()
    assert "objective: simclr" in page and "knn20_acc1" in page and "lp_acc1" in page
    assert page.count("data:image/") > 4  # the losses, and images of every cluster


@pytest.mark.parametrize("objective", ["simclr", "moco"])
def test_a_run_that_was_ended_goes_on_with_the_same_bits(tmp_path, objective):
    whole, log = tmp_path / "whole", tmp_path / "log"
    more = ("--mcl-queue", "50") if objective == "moco" else ()
    flags = image_command(whole, objective, "--mcl-stages", "1", "--accum-freq", "2", "--save-frequency", "0", *more)
    flags[flags.index("--batch-size") + 1] = "8"
    assert run_job(flags, log) == [0], log.read_text()
    stopped = tmp_path / "stopped"
    flags[flags.index("--logs") + 1] = f"{stopped}/runs"
    for stage in (0, 1):  # as often as there are stages
        rows = stopped / f"runs/run/stage_{stage}/metrics.jsonl"
        job = start(flags, log)
        wait_for(lambda rows=rows: rows.exists() and rows.read_text().count("\n") >= 5)
        job.terminate()
        assert finish(job) == preemption.STATUS, log.read_text()
        if objective == "moco":
            newest = latest_checkpoint(rows.parent / "checkpoints")
            state = load_checkpoint(newest)["objective"]
            assert sum(state["queue"]["_extra_state"]["taken"]) == 16 * load_checkpoint(newest)["step"]
            assert state["queue"]["keys"].shape[0] <= 50 and "visual.trunk.blocks.0.0.weight" in state["slow"]
    assert run_job(flags, log) == [0], log.read_text()
    assert fingerprint(stopped) == fingerprint(whole)
    assert [losses(stopped, stage) for stage in (0, 1)] == [losses(whole, stage) for stage in (0, 1)]


@pytest.mark.parametrize("objective", ["simclr", "moco"])
def test_killed_anywhere_a_run_ends_with_the_same_bits(tmp_path, objective):
    whole, killed, log = tmp_path / "whole", tmp_path / "killed", tmp_path / "log"
    more = ("--mcl-queue", "50") if objective == "moco" else ()
    saving = ("--mcl-save-steps", "3", "--mcl-keep-checkpoints", "1")
    flags = image_command(whole, objective, "--mcl-stages", "1", *saving, *more)
    events = count_events(flags, log)
    assert events > 100
    flags[flags.index("--logs") + 1] = f"{killed}/runs"
    for event in (events // 5, events // 4, events // 3):  # together fewer than a run has
        assert finish(start(flags, log, die_at=event)) == -signal.SIGKILL, log.read_text()
    rows = killed / "runs/run/stage_1/metrics.jsonl"
    job = start(flags, log)
    wait_for(lambda: (rows.exists() and rows.read_text().count("\n") >= 5) or not job.is_alive())
    job.kill()
    assert finish(job) == -signal.SIGKILL, log.read_text()
    assert run_job(flags, log) == [0], log.read_text()
    assert fingerprint(killed) == fingerprint(whole)
    assert [losses(killed, stage) for stage in (0, 1)] == [losses(whole, stage) for stage in (0, 1)]
    assert not list(killed.rglob(".*.tmp"))


def test_ordinary_negatives_are_mixed_into_segments_of_views(tmp_path):
    flags = image_command(tmp_path, "simclr", "--mcl-stages", "1", "--mcl-ordinary", "1", "--epochs", "1")
    assert main(flags) == 0
    # All shards are ordinary, so a segment is a whole batch, though there are two clusters.
    found = {(row["segments_mean"], row["negatives_mean"]) for row in metrics(tmp_path, 1)}
    assert found == {(1.0, 15.0)} and len(losses(tmp_path, 1)) == len(losses(tmp_path, 0))


def test_projections_are_clustered_and_fused_where_asked_for(tmp_path):
    flags = image_command(
        tmp_path, "simclr", "--mcl-stages", "1", "--epochs", "1", "--mcl-cluster-on", "projection",
        "--mcl-fuse-on", "projection", "--mcl-fusion", "mean-cosine",
    )  # fmt: skip
    assert main(flags) == 0
    fused, _, _ = mcl_clip.load(tmp_path / "runs/run/fused")
    assert fused.dims == [16, 16] and fused.visual.output_dim == 32
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        stage, _, _ = mcl_clip.load(tmp_path / "runs/run/stage_1")
        assert torch.equal(fused.stage_embeddings(images)[1], stage.project(images))
        assert stage(images).shape == (2, 2048)


def test_an_index_says_what_it_takes(tmp_path, capsys):
    tars = write_shards(tmp_path / "tars", 3, 20, size=24, no_caption=WITHOUT_CAPTIONS)
    images = index_sources(tars, tmp_path / "images", caption_key=NO_CAPTIONS)
    flags = command(tmp_path)
    flags[flags.index("--train-data") + 1] = str(images.directory)
    assert main(flags) == 2
    assert "was indexed for its images alone" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--mcl-objective", "simclr", "--siglip"], "--siglip has no effect with --mcl-objective simclr"),
        (["--mcl-objective", "moco", "--lock-text"], "--lock-text has no effect"),
        (
            ["--mcl-objective", "moco", "--mcl-stages", "1", "--mcl-ordinary", "0.5"],
            "--mcl-ordinary needs pseudo-labels",
        ),
        (["--mcl-objective", "moco", "--mcl-fusion", "fitted", "--val-data", "x"], "--val-data has no effect"),
        (["--mcl-objective", "simclr", "--mcl-cluster-on", "text"], "needs texts"),
        (["--mcl-objective", "simclr", "--mcl-queue", "9"], "--mcl-queue needs --mcl-objective moco"),
        (["--mcl-temperature", "0.1"], "--mcl-temperature needs --mcl-objective simclr or moco"),
        (["--mcl-cluster-on", "projection"], "needs --mcl-objective simclr or moco"),
        (["--mcl-objective", "simclr", "--mcl-gray", "1.5"], "--mcl-gray is a probability"),
        (["--mcl-objective", "simclr", "--mcl-crop-scale", "0", "1"], "--mcl-crop-scale is a range"),
        (["--mcl-objective", "simclr", "--lock-image"], "would keep a backbone as it is drawn"),
    ],
)
def test_flags_that_would_change_nothing_are_refused(arguments, why):
    with pytest.raises(UserError, match=why):
        resolve(*parse_recipe(["--train-data", "d", "--model", "timm/resnet18", *arguments]), name="n", world_size=1)


def test_defaults_are_those_of_the_objective():
    def recipe(*arguments):
        flags = ["--train-data", "d", "--model", "timm/resnet18", "--mcl-objective", *arguments]
        return resolve(*parse_recipe(flags), name="n", world_size=1).objective

    simclr, moco = recipe("simclr"), recipe("moco", "--mcl-temperature", "0.07", "--mcl-flip", "0")
    assert (simclr.temperature, simclr.queue, simclr.crop_scale, simclr.blur) == (0.5, None, [0.08, 1.0], None)
    assert (moco.temperature, moco.queue, moco.key_momentum, moco.flip) == (0.07, 65536, 0.999, 0)
    assert moco.jitter_strengths == [0.4, 0.4, 0.4, 0.1]


def test_a_backbone_is_one_of_timms(tmp_path, capsys):
    flags = image_command(tmp_path, "simclr", "--model", "ViT-B-32")
    assert main(flags) == 2
    assert "a backbone of timm, as timm/resnet18" in capsys.readouterr().err
