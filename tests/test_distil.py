"""Students: of a run at its end, of a run or a fused model by command, on several ranks, killed and gone on."""

import io
import json
import shutil
import tarfile
from pathlib import Path

import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import mcl_clip
from tests.image_runs import image_command
from tests.jobs import finish, run_job, start, wait_for
from tests.tiny_runs import command, model_directory
from training import distil
from training.fuse import main as fuse
from training.main import main
from training.resolve import parse_recipe

STAGES = ("--mcl-stages", "1", "--gather-with-grad", "--mcl-save-steps", "3")


def losses(run):
    return [json.loads(row)["loss"] for row in (run / "stage_0/metrics.jsonl").read_text().splitlines()]


def weights(run):
    return (run / "stage_0/model/open_clip_model.safetensors").read_bytes()


def divergence(run, student):
    """Mean KL divergence of a student's softmax from the fused model's, over the images of a run's first tar."""
    logits = []
    for directory in (run / "fused", student):
        model, preprocess, tokenizer = mcl_clip.load(directory)
        with tarfile.open(run.parents[1] / "tars/00000.tar") as tar:
            files = {member.name: tar.extractfile(member).read() for member in tar if member.isfile()}
        pictures = [Image.open(io.BytesIO(files[name])).convert("RGB") for name in files if name.endswith("jpg")]
        texts = tokenizer([files[name].decode() for name in files if name.endswith("txt")])
        with torch.no_grad():
            images = model.encode_image(torch.stack([preprocess(picture) for picture in pictures]), normalize=True)
            logits.append(model.logit_scale.exp() * images @ model.encode_text(texts, normalize=True).T)
    return sum(
        torch.nn.functional.kl_div(q.log_softmax(1), p.softmax(1), reduction="batchmean").item()
        for p, q in (logits, [each.T for each in logits])
    )


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    """A run of two stages with a student at its end."""
    directory = tmp_path_factory.mktemp("taught")
    assert main(command(directory, *STAGES, "--mcl-distill", "--mcl-distill-epochs", "3")) == 0
    return directory


def test_a_student_at_the_end_of_a_run_is_a_stage_that_open_clip_loads(taught):
    run = taught / "runs/run"
    model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{run}/student/stage_0/model")
    last = load_file(run / "stage_1/model/open_clip_model.safetensors")
    state = model.state_dict()
    assert set(state) == set(last) and not torch.equal(state["visual.proj"], last["visual.proj"])
    assert len(losses(run / "student")) == 24
    assert divergence(run, run / "student/stage_0") < 0.9 * divergence(run, run / "stage_1")
    record = json.loads((run / "student/stage_0/model/open_clip_config.json").read_text())["mcl_clip"]["made_from"]
    assert record["data"] == json.loads((run / "stage_1/buckets/manifest.json").read_text())["hash"]
    assert set(record) == {"data", "weights", "teacher", "teaching"}
    assert mcl_clip.load(run / "student/stage_0")[0].visual.output_dim == 16


def test_the_same_command_finds_it_finished_and_another_teaching_is_refused(taught, capsys):
    arguments = command(taught, *STAGES, "--mcl-distill", "--mcl-distill-epochs", "3")
    before = weights(taught / "runs/run/student")
    assert main(arguments) == 0 and weights(taught / "runs/run/student") == before
    assert main([*arguments, "--mcl-distill-contrastive", "2"]) == 2
    assert "was made from another teaching" in capsys.readouterr().err


def test_ranks_and_accumulation_do_not_change_the_losses_and_a_killed_job_ends_with_the_same_bits(taught, tmp_path):
    log = tmp_path / "log"
    teaching = ("--mcl-distill-ordinary", "0.5", "--mcl-distill-contrastive", "0.5", "--epochs", "3")

    def arguments(name, batch_size, *flags):
        output = ("--output", f"{tmp_path}/{name}", "--batch-size", str(batch_size))
        return [str(taught / "runs/run"), *output, *teaching, *flags, "--save-frequency", "0"]

    assert distil.main(arguments("one", 16)) == 0
    two = arguments("two", 4, "--accum-freq", "2")
    assert run_job(two, log, 2, module="training.distil") == [0, 0], log.read_text()
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-4)
    killed = arguments("killed", 16, "--mcl-save-steps", "3")
    process = start(killed, log, module="training.distil")
    rows = tmp_path / "killed/stage_0/metrics.jsonl"
    wait_for(lambda: (rows.exists() and rows.read_text().count("\n") >= 5) or not process.is_alive())
    process.kill()
    assert finish(process) < 0, log.read_text()
    assert distil.main(killed) == 0
    assert losses(tmp_path / "killed") == losses(tmp_path / "one")
    assert weights(tmp_path / "killed") == weights(tmp_path / "one")


def test_a_fused_model_without_its_run_teaches_by_ordinary_batches(taught, tmp_path, capsys):
    shutil.copytree(taught / "runs/run/fused", tmp_path / "fused")
    out = ("--output", str(tmp_path / "student"))
    with pytest.raises(SystemExit, match="2"):
        distil.main([str(tmp_path / "fused"), *out])
    assert "--train-data is missing" in capsys.readouterr().err
    flags = command(taught)[6:]
    flags = [flag for flag in flags if flag not in ("--model", f"local-dir:{taught}/architecture")]
    assert distil.main([str(tmp_path / "fused"), *out, "--train-data", f"{taught}/tars", *flags]) == 0
    started = load_file(tmp_path / "student/start/open_clip_model.safetensors")
    last = load_file(taught / "runs/run/stage_1/model/open_clip_model.safetensors")
    assert all(torch.equal(started[name], last[name]) for name in last)
    assert len(losses(tmp_path / "student")) == 16
    with pytest.raises(SystemExit, match="2"):
        distil.main([str(taught / "tars"), *out])
    assert "neither a run" in capsys.readouterr().err


def test_the_directory_that_is_named_is_the_teacher(taught, tmp_path, monkeypatch, capsys):
    """Of a run its own fused model; beside that, what it is, with the run's data, buckets and flags."""
    run = tmp_path / "run"
    shutil.copytree(taught / "runs/run", run)
    assert fuse([str(run / "stage_0"), "--output", str(run / "first")]) == 0
    told = []
    monkeypatch.setattr(distil, "train", lambda flags: told.append(flags) or 0)
    for number, named in enumerate(("", "fused", "first")):
        assert distil.main([str(run / named), "--output", str(tmp_path / f"student{number}")]) == 0
    recipes = [vars(parse_recipe(flags)[0]) for flags in told]
    assert [Path(each["distill_model"]).name for each in recipes] == ["fused", "fused", "first"]
    start = tmp_path / "student2/start"
    assert [each["model"] for each in recipes] == [f"local-dir:{run}/stage_1/model"] * 2 + [f"local-dir:{start}"]
    assert {each["mcl_distill_buckets"] for each in recipes} == {str(run / "stage_1/buckets")}
    assert {(each["train_data"], each["lr"]) for each in recipes} == {(str(run / "source"), 1e-3)}
    ours, first = (load_file(each / "open_clip_model.safetensors") for each in (start, run / "stage_0/model"))
    assert all(torch.equal(ours[name], first[name]) for name in first)
    for named, why in (("stage_1", "neither a run"), ("fused", "no fused model yet")):
        shutil.rmtree(run / "fused", ignore_errors=True)
        with pytest.raises(SystemExit, match="2"):
            distil.main([str(run / named), "--output", str(tmp_path / "refused")])
        assert why in capsys.readouterr().err


def test_a_teacher_of_another_width_and_normalisation_teaches(taught, tmp_path):
    """A student that is normalised otherwise and half as wide, of a teacher whose weights are those of stage 1."""
    student = model_directory(tmp_path / "other", embed_dim=8)
    config = tmp_path / "other/open_clip_config.json"
    config.write_text(
        json.dumps(json.loads(config.read_text()) | {"preprocess_cfg": {"mean": [0.4] * 3, "std": [0.2] * 3}})
    )
    teacher = ("--distill-model", f"{taught}/runs/run/stage_1")
    arguments = command(taught, *teacher, "--name", "narrow", "--model", student)
    assert main(arguments) == 0
    run = taught / "runs"
    assert torch.isfinite(torch.tensor(losses(run / "narrow"))).all()
    assert divergence(run / "run", run / "narrow/stage_0") > 0


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        (
            {"vision_cfg": {"image_size": 24, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8}},
            "16 x 16 pixels",
        ),
        ({"text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}}, "16 tokens"),
    ],
    ids=["size", "tokens"],
)
def test_a_teacher_that_reads_other_inputs_is_refused_by_name(taught, tmp_path, capsys, changed, why):
    student = model_directory(tmp_path / "other", **changed)
    teacher = ("--distill-model", f"{taught}/runs/run/fused")
    assert main(command(taught, *teacher, "--name", "refused", "--model", student)) == 2
    said = capsys.readouterr().err
    assert "--distill-model" in said and why in said


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        (("--mcl-distill",), "--mcl-stages 1 or more"),
        (("--mcl-stages", "1", "--distill-model", "x"), "leave --mcl-stages out"),
        (("--mcl-stages", "1", "--mcl-distill", "--distill-model", "x"), "leave one out"),
        (("--mcl-distill-student", "x"), "needs --mcl-distill"),
        (("--distill-pretrained", "x"), "needs --distill-model"),
        (("--mcl-distill-contrastive", "1"), "needs --mcl-distill or --distill-model"),
        (("--distill-model", "x", "--mcl-distill-ordinary", "0.5"), "needs --mcl-distill-buckets"),
        (("--mcl-stages", "1", "--mcl-distill", "--mcl-distill-ordinary", "2"), "a share from 0 to 1"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_flags_that_cannot_be_are_refused(tmp_path, capsys, flags, why):
    assert main(command(tmp_path, *flags)) == 2
    assert why in capsys.readouterr().err


def test_buckets_of_other_data_are_refused(taught, tmp_path, capsys):
    teacher = (
        "--distill-model",
        f"{taught}/runs/run/fused",
        "--mcl-distill-buckets",
        f"{taught}/runs/run/stage_1/buckets",
    )
    assert main(command(tmp_path, *teacher, samples=20)) == 2
    assert "made from other data" in capsys.readouterr().err


def test_ranks_do_not_wait_for_a_bias_that_only_an_unused_loss_reads(taught, tmp_path):
    """The student's own loss is SigLIP's with weight 0, the default."""
    flags = command(tmp_path, "--siglip", "--distill-model", f"{taught}/runs/run/fused", "--batch-size", "8")
    assert run_job(flags, tmp_path / "log", 2) == [0, 0], (tmp_path / "log").read_text()
    model = load_file(tmp_path / "runs/run/stage_0/model/open_clip_model.safetensors")
    assert model["logit_bias"] == -10
    assert len(losses(tmp_path / "runs/run")) == 16


@pytest.mark.parametrize("objective", ["simclr", "moco"])
def test_stages_of_images_alone_are_distilled_on_features(tmp_path, objective):
    """On two ranks, with a weight and with none, which leaves the projection as it is."""
    weight = ("--mcl-distill-contrastive", "0.5") if objective == "simclr" else ()
    flags = image_command(tmp_path, objective, "--mcl-stages", "1", "--mcl-distill", *weight, "--batch-size", "8")
    assert run_job(flags, tmp_path / "log", 2) == [0, 0], (tmp_path / "log").read_text()
    run = tmp_path / "runs/run"
    assert len(losses(run / "student")) > 10
    student = mcl_clip.load(run / "student/stage_0")[0]
    stage = mcl_clip.load(run / "stage_1")[0]
    assert student.visual.feature_dim == stage.visual.feature_dim
    assert not torch.equal(next(student.parameters()), next(stage.parameters()))
    heads = (next(model.projection.parameters()) for model in (student, stage))
    assert torch.equal(*heads) == (objective == "moco")
