"""Zero-shot classification: the same numbers as open_clip's own pieces, on every kind of data set."""

import contextlib
import csv
import io
import json
import multiprocessing
import os
import sys
import tarfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import ImageNetInfo

import mcl_clip
from eval.data.class_names import readable
from eval.data.classification import open_set
from eval.data.classification_set import ClassificationSet
from eval.data.prompts import read_templates
from eval.embedding import embed_images
from eval.models import ScoredModel
from eval.rows import rows_of
from eval.tasks.text_classifier import text_classifier
from eval.zero_shot import evaluate, main
from mcl_clip.errors import UserError
from mcl_clip.models.stage_model import save_stage_model
from mcl_clip.openclip.zero_shot import IMAGENET_CLASSNAMES, build_zero_shot_classifier
from tests.distributed import run_ranks
from tests.tiny_models import TINY, tiny_model

CLASSES = ("ant", "bee", "cat", "dog", "elk", "fox")


@pytest.fixture(scope="module")
def stages(tmp_path_factory) -> str:
    directories = []
    for seed in range(2):
        directory = tmp_path_factory.mktemp("stage") / str(seed)
        model = tiny_model("vit", seed)
        save_stage_model(model, directory, model_cfg=TINY["vit"], preprocess_cfg=model.visual.preprocess_cfg)
        directories.append(str(directory))
    return ",".join(directories)


def picture(label: int, number: int) -> Image.Image:
    rng = np.random.default_rng((label, number))
    return Image.fromarray(rng.integers(0, 255, (24, 20, 3), np.uint8))


def encoded(label: int, number: int) -> bytes:
    buffer = io.BytesIO()
    picture(label, number).save(buffer, "PNG")
    return buffer.getvalue()


def class_folders(directory: Path, per_class: int = 3) -> Path:
    for label, name in enumerate(CLASSES):
        (directory / "test" / name).mkdir(parents=True)
        for number in range(per_class):
            (directory / "test" / name / f"{number}.png").write_bytes(encoded(label, number))
    (directory / "templates.txt").write_text("a photo of a {}\nno {c}\n")
    return directory


def write_tar(path: Path, members: list[tuple[str, bytes]]) -> None:
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def webdataset_folder(directory: Path, rows: list[tuple[int, int]]) -> Path:
    folder = directory / "webdataset"
    (folder / "test").mkdir(parents=True)
    (folder / "classnames.txt").write_text("\n".join(CLASSES))
    (folder / "test" / "nshards.txt").write_text("2")
    for shard in range(2):
        members = []
        for row in rows[shard::2]:
            members += [(f"{row[0]}_{row[1]}.png", encoded(*row)), (f"{row[0]}_{row[1]}.cls", str(row[0]).encode())]
        write_tar(folder / "test" / f"{shard}.tar", members)
    return folder


def scored(spec: str) -> ScoredModel:
    return ScoredModel(*mcl_clip.load(spec), name=spec)


def values(results: list[dict]) -> dict[str, dict]:
    return {row["model"]: row["metrics"] for row in results}


def pixels_and_labels(data: ClassificationSet, preprocess) -> tuple[torch.Tensor, torch.Tensor]:
    samples = list(data.samples())
    return torch.stack([preprocess(each.image()) for each in samples]), torch.tensor([each.label for each in samples])


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch) -> Path:
    directory = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("MCL_CLIP_CACHE", str(directory))
    return directory


def test_equals_open_clips_classifier(tmp_path, stages) -> None:
    data = open_set(str(class_folders(tmp_path)))
    results = evaluate(scored(stages), data, batch_size=5, confusion=True)
    found, intervals = values(results), {row["model"]: row["intervals"] for row in results}
    model, preprocess, tokenizer = mcl_clip.load(stages)
    images, labels = pixels_and_labels(data, preprocess)
    templates = [lambda name: f"a photo of a {name}", lambda name: f"no {name}"]
    for row, subset in (("stage_0", [0]), ("stage_1", [1]), ("fused", [0, 1])):
        part = model.subset(subset)
        weights = build_zero_shot_classifier(part, tokenizer, CLASSES, templates, 2)
        with torch.no_grad():
            ranked = (part.encode_image(images, normalize=True) @ weights).argsort(descending=True)
        assert found[row]["acc1"] == pytest.approx((ranked[:, 0] == labels).float().mean().item())
        assert found[row]["acc5"] == pytest.approx((ranked[:, :5] == labels[:, None]).any(1).float().mean().item())
        recalls = [(ranked[labels == c, 0] == c).float().mean().item() for c in range(len(CLASSES))]
        assert found[row]["mean_per_class_recall"] == pytest.approx(np.mean(recalls))
        assert found[row]["per_class_recall"] == pytest.approx(recalls)
        matrix = np.array(found[row]["confusion_matrix"])
        assert matrix.sum() == len(labels) and matrix.trace() / matrix.sum() == pytest.approx(found[row]["acc1"])
        for name in ("acc1", "acc5", "mean_per_class_recall"):
            low, high = intervals[row][name]
            assert 0 <= low <= found[row][name] <= high <= 1
        assert intervals[row]["acc1"][0] < intervals[row]["acc1"][1]
        for (low, high), recall in zip(intervals[row]["per_class_recall"], recalls, strict=True):
            assert low <= recall <= high


def test_acc5_is_null_below_five_classes(tmp_path, stages) -> None:
    data = open_set(str(class_folders(tmp_path)))
    few = ClassificationSet("few", CLASSES[:2], data.templates, 6, lambda: iter(list(data.samples())[:6]))
    assert all(row["acc5"] is None for row in values(evaluate(scored(stages), few)).values())


def test_every_layout_gives_the_same_scores(tmp_path, stages) -> None:
    import datasets

    folders = class_folders(tmp_path / "folders")
    templates = str(folders / "templates.txt")
    wanted = evaluate(scored(stages), open_set(str(folders)))
    assert wanted[0]["data_revision"].startswith("sha256:")

    rows = [(label, number) for label in range(len(CLASSES)) for number in range(3)]
    table = datasets.Dataset.from_dict(
        {"image": [{"bytes": encoded(*row), "path": None} for row in rows], "label": [row[0] for row in rows]},
        features=datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(CLASSES))}),
    )
    table.save_to_disk(tmp_path / "saved")
    (tmp_path / "parquet").mkdir()
    table.to_parquet(tmp_path / "parquet" / "test.parquet")

    webdataset = webdataset_folder(tmp_path, rows)
    (webdataset / "zeroshot_classification_templates.txt").write_text(Path(templates).read_text())

    for name in ("saved", "parquet", "webdataset"):
        data = open_set(str(tmp_path / name), templates=templates)
        assert (data.classnames, data.size) == (CLASSES, len(rows)), name
        found = evaluate(scored(stages), data)
        assert values(found) == values(wanted), name
        assert (found[0]["data_revision"] == wanted[0]["data_revision"]) == (name != "webdataset"), name


def _task(flags: list[str], environment: dict[str, str], log: str) -> None:
    os.environ.update(environment)
    with open(log, "w") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        main(flags)


def test_tasks_of_srun_share_the_images_and_a_script_of_sbatch_is_one_process(tmp_path, stages) -> None:
    folders = class_folders(tmp_path / "set")
    job = {"SLURM_JOB_ID": str(os.getpid()), "SLURM_NTASKS": "2", "SLURM_JOB_NODELIST": "localhost"}
    step = job | {"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "2"}
    tasks = {f"task_{rank}": step | {"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)} for rank in range(2)}
    processes = []
    for name, environment in (tasks | {"script": job | {"SLURM_PROCID": "0", "SLURM_LOCALID": "0"}}).items():
        output = str(tmp_path / f"{name.partition('_')[0]}.json")
        flags = ["--model", stages, "--dataset", str(folders), "--device", "cpu", "--no-cache", "--output", output]
        log = str(tmp_path / f"{name}.log")
        processes.append(multiprocessing.get_context("spawn").Process(target=_task, args=(flags, environment, log)))
        processes[-1].start()
    for process in processes:
        process.join(240)
        process.kill()
    logs = {path.stem: path.read_text() for path in tmp_path.glob("*.log")}
    assert [process.exitcode for process in processes] == [0, 0, 0], logs
    together, alone = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("task", "script"))
    assert together == alone == json.loads(json.dumps(evaluate(scored(stages), open_set(str(folders)))))
    assert "acc1" in logs["task_0"] and logs["task_1"] == ""


def test_command_writes_what_clip_benchmark_reads(tmp_path, stages, capsys, monkeypatch) -> None:
    from clip_benchmark import cli

    folders, output, directory = class_folders(tmp_path / "set"), tmp_path / "scores.json", tmp_path / "rows"
    flags = ["--model", stages, "--dataset", str(folders), "--device", "cpu"]
    assert main([*flags, "--output", str(output), "--clip-benchmark-dir", str(directory), "--markdown"]) == 0
    assert capsys.readouterr().out.startswith("| model | acc1 |")
    results = json.loads(output.read_text())
    assert [row["model"] for row in results] == ["stage_0", "stage_1", "fused"]
    assert all(row["task"] == "zeroshot_classification" and row["model_hash"] for row in results)
    built = tmp_path / "benchmark.csv"
    files = sorted(map(str, directory.iterdir()))
    monkeypatch.setattr(sys, "argv", ["clip_benchmark", "build", *files, "--output", str(built)])
    cli.main()
    lines = built.read_text().splitlines()
    assert len(lines) == 4 and "acc1" in lines[0]
    assert {row["acc1"] for row in csv.DictReader(lines)} == {str(row["metrics"]["acc1"]) for row in results}


def _on_rank(rank: int, world_size: int, spec: str, folders: str, broken: str) -> tuple[list[dict], str]:
    scores = evaluate(scored(spec), open_set(folders), batch_size=4, rank=rank, world_size=world_size)
    try:
        evaluate(scored(spec), open_set(broken), batch_size=4, rank=rank, world_size=world_size)
    except UserError as error:
        return scores, str(error)
    return scores, ""


def test_two_ranks_equal_one_and_tell_of_a_broken_image(tmp_path, stages) -> None:
    whole, broken = str(class_folders(tmp_path / "whole", per_class=5)), class_folders(tmp_path / "broken")
    (broken / "test" / "ant" / "1.png").write_bytes(b"no image")  # the second rank's
    alone = evaluate(scored(stages), open_set(whole), batch_size=4)
    for scores, told in run_ranks(_on_rank, 2, stages, whole, str(broken)):
        assert scores == alone
        assert "1.png" in told


def test_templates_interpret_nothing_else(tmp_path) -> None:
    path = tmp_path / "templates.txt"
    path.write_text("{} and {0.__class__} {missing}\n")
    assert read_templates(str(path)) == ("{} and {0.__class__} {missing}",)
    assert len(read_templates("openai")) == 80 and len(read_templates("simple")) == 7
    path.write_text("no place for the class\n")
    with pytest.raises(UserError, match="--templates"):
        read_templates(str(path))


def test_whole_numbers_are_classes_in_numeric_order(tmp_path) -> None:
    import datasets

    images = [{"bytes": encoded(0, number), "path": None} for number in range(12)]
    table = datasets.Dataset.from_dict(
        {"image": images, "label": list(range(12))},
        features=datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")}),
    )
    table.save_to_disk(tmp_path / "saved")
    data = open_set(str(tmp_path / "saved"))
    assert data.classnames == tuple(map(str, range(12)))
    assert [sample.label for sample in data.share(1, 3)] == [1, 4, 7, 10]


def test_a_broken_model_is_refused(tmp_path, stages) -> None:
    model = scored(stages)
    with torch.no_grad():
        model.model.stages[1].visual.proj.fill_(torch.nan)
    with pytest.raises(UserError, match="NaN"):
        evaluate(model, open_set(str(class_folders(tmp_path))))


@pytest.mark.parametrize("damage", ["image", "class", "split", "column"])
def test_bad_input_is_one_line_and_leaves_nothing(tmp_path, stages, damage, capsys) -> None:
    folders, output = class_folders(tmp_path / "set"), tmp_path / "scores.json"
    name, more = str(folders), []
    if damage == "image":
        (folders / "test" / "cat" / "0.png").write_bytes(b"no image")
    elif damage == "class":
        for file in (folders / "test" / "bee").iterdir():
            file.unlink()
    elif damage == "split":
        name = str(tmp_path / "no-such-set")
    else:
        more = ["--classnames", str(folders / "templates.txt")]
    with pytest.raises(SystemExit) as exit_:
        main(["--model", stages, "--dataset", name, "--device", "cpu", "--output", str(output), *more])
    assert exit_.value.code == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert error[-1].startswith("error: ")
    assert not output.exists()


def test_the_text_classifier_is_kept_by_model_and_prompts(tmp_path, stages, own_cache) -> None:
    model, rows = scored(stages), rows_of(mcl_clip.load(stages)[0])
    calls = []
    counting = replace(model, tokenizer=lambda texts: calls.append(len(texts)) or model.tokenizer(texts))

    def classify(each: ScoredModel, templates: tuple[str, ...] = ("a {}", "no {}")) -> dict[str, torch.Tensor]:
        calls.clear()
        return text_classifier(each, rows, CLASSES, templates, record=each.record(), cache=own_cache)

    first = classify(counting)
    assert sum(calls) == 2 * len(CLASSES) + 2
    again = classify(counting)
    assert sum(calls) == 2, "only the tokens that stand for the tokenizer"
    assert all(torch.equal(first[name], again[name]) for name in first) and len(first) == 3
    classify(counting, ("a {}",))
    assert sum(calls) > 2, "other prompts are embedded anew"
    with torch.no_grad():
        counting.model.stages[0].text_projection.mul_(-1)
    turned = classify(counting)
    assert torch.allclose(turned["stage_0"], -first["stage_0"]), "weights that changed are embedded anew"
    for file in (own_cache / "classifiers").iterdir():
        file.write_bytes(file.read_bytes()[:40])
    assert all(torch.equal(turned[name], each) for name, each in classify(counting).items()), "a torn file is made anew"


def test_imagenets_folders_get_open_clips_names() -> None:
    assert readable(["n02012849", "n03126707"]) == ("crane bird", "construction crane")
    assert readable(["n02012849", "my_class"]) == ("n02012849", "my class")
    info = ImageNetInfo()
    words = [info.index_to_description(index) for index in range(1000)]
    assert readable(words) == tuple(IMAGENET_CLASSNAMES)


def test_a_hub_revision_is_pinned_and_recorded(monkeypatch) -> None:
    import datasets
    import huggingface_hub

    columns = {"img": [{"bytes": encoded(0, 0), "path": None}], "fine_label": [0], "coarse": [1]}
    kinds = {
        "img": datasets.Image(),
        "fine_label": datasets.ClassLabel(names=["ant"]),
        "coarse": datasets.Value("int8"),
    }
    table = datasets.Dataset.from_dict(columns, features=datasets.Features(kinds))

    class Hub:
        def dataset_info(self, name, revision, timeout):
            assert (name, revision) == ("owner/insects", "v1")
            return SimpleNamespace(sha="c" * 40)

    def load_dataset(name, split, revision):
        assert (name, split, revision) == ("owner/insects", "test", "c" * 40)
        return table

    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    data = open_set("owner/insects", revision="v1")
    assert (data.revision, data.classnames, data.size) == ("c" * 40, ("ant",), 1)
    assert next(data.samples()).image().size == picture(0, 0).size


def test_clip_benchmarks_sets_on_the_hub_are_read_in_their_layout(tmp_path, monkeypatch) -> None:
    import huggingface_hub

    folder = webdataset_folder(tmp_path, [(0, 0), (1, 0)]).rename(tmp_path / ("d" * 40))

    def snapshot(name, repo_type, revision, allow_patterns):
        assert (name, repo_type, revision) == ("clip-benchmark/wds_insects", "dataset", None)
        assert allow_patterns == ["*.txt", "test/*"]
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    data = open_set("clip-benchmark/wds_insects")
    assert (data.name, data.revision, data.size) == ("wds_insects", "d" * 40, 2)


def test_numbers_are_no_prompts_and_notes_are_told(tmp_path, stages, capsys) -> None:
    folders = class_folders(tmp_path / "set", 1)
    for label, name in enumerate(CLASSES):
        (folders / "test" / name).rename(folders / "test" / str(label))
    flags = ["--model", stages, "--dataset", str(folders), "--device", "cpu", "--no-cache"]
    with pytest.raises(SystemExit) as exit_:
        main(flags)
    error = capsys.readouterr().err.strip().splitlines()
    assert exit_.value.code == 2 and len(error) == 1 and "0, 1, 2, ..., 5" in error[0] and "--classnames" in error[0]
    (folders / "test" / "0" / ".hidden.png").write_bytes(b"")
    (tmp_path / "names.txt").write_text("\n".join(CLASSES))
    assert main([*flags, "--classnames", str(tmp_path / "names.txt")]) == 0
    assert capsys.readouterr().err.splitlines() == [
        f"note: left out of {folders / 'test'} are hidden entries: 1, first 0/.hidden.png"
    ]


def test_no_network_is_one_line(capsys, stages) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["--model", stages, "--dataset", "nobody/nothing", "--device", "cpu"])
    error = capsys.readouterr().err.strip().splitlines()
    assert exit_.value.code == 2 and len(error) == 1 and "check the name and the network" in error[0]


@pytest.mark.parametrize("precision", ["fp32", "amp_bf16", "bf16"])
def test_a_model_is_scored_in_the_precision_it_was_loaded_with(tmp_path, stages, precision) -> None:
    data = open_set(str(class_folders(tmp_path)))
    loaded = ScoredModel(*mcl_clip.load(stages, precision=precision))
    kinds = set()
    loaded.model.stages[0].visual.conv1.register_forward_hook(lambda _, __, output: kinds.add(output.dtype))
    rows = evaluate(loaded, data)
    assert rows[0]["precision"] == precision and rows[0]["metrics"]["n_images"] == data.size
    assert kinds == {torch.float32 if precision == "fp32" else torch.bfloat16}
    embedded = [
        torch.cat([part[0] for part, _ in embed_images(each, data.samples(), data.size)])
        for each in (loaded, scored(stages))
    ]
    assert (embedded[0] == embedded[1]).all() == (precision == "fp32")
    assert torch.cosine_similarity(*embedded).min() > 0.99


def test_a_model_of_unknown_origin_is_scored_in_its_weights_type(stages) -> None:
    model, preprocess, tokenizer = mcl_clip.load(stages)
    del model.precision
    assert ScoredModel(model, preprocess, tokenizer).precision == "fp32"
    assert ScoredModel(model.to(torch.bfloat16), preprocess, tokenizer).precision == "bf16"
    assert ScoredModel(model, preprocess, tokenizer, precision="amp_bf16").precision == "amp_bf16"


@pytest.mark.parametrize("damage", ["cut", "missing", "shards", "class", "image", "split"])
def test_a_damaged_webdataset_is_named(tmp_path, damage) -> None:
    folder = webdataset_folder(tmp_path, [(label, 0) for label in range(len(CLASSES))])
    tar, wanted = folder / "test" / "1.tar", {"cut": "1.tar is no whole tar", "missing": "1.tar is missing"}
    wanted |= {"shards": "nshards.txt holds 'two'", "class": "has the class 'x'", "image": "lacks an image"}
    if damage == "cut":
        tar.write_bytes(tar.read_bytes()[:2048])
    elif damage == "missing":
        tar.unlink()
    elif damage == "shards":
        (folder / "test" / "nshards.txt").write_text("two")
    elif damage in ("class", "image"):
        write_tar(
            tar, [("a.cls", b"x" if damage == "class" else b"1"), *([("a.png", b"")] if damage == "class" else [])]
        )
    with pytest.raises(UserError, match=wanted.get(damage, "no split val but test")):
        open_set(str(folder), "val" if damage == "split" else "test")


def test_splits_are_never_taken_for_classes(tmp_path) -> None:
    with pytest.raises(UserError, match="no split val but test"):
        open_set(str(class_folders(tmp_path)), "val")
