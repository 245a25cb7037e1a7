"""A file a row for CLIP_benchmark: what tells two models, fusions and passes apart is in the name and in the file."""

import json

import pytest

import mcl_clip
from eval.rows import fusion_of
from eval.zero_shot import main
from mcl_clip.fusion.fused_model import FusedCLIP
from mcl_clip.models.stage_model import save_stage_model
from tests.test_zero_shot import class_folders
from tests.tiny_models import TINY, tiny_model


@pytest.fixture(scope="module")
def stages(tmp_path_factory) -> str:
    root = tmp_path_factory.mktemp("stages")
    for seed in range(2):
        built = tiny_model("vit", seed)
        save_stage_model(built, root / str(seed), model_cfg=TINY["vit"], preprocess_cfg=built.visual.preprocess_cfg)
    return f"{root}/0,{root}/1"


def test_files_of_another_fusion_and_of_some_samples_stand_beside_the_others(tmp_path, stages) -> None:
    folders, directory = class_folders(tmp_path / "set"), tmp_path / "rows"
    flags = ["--model", stages, "--dataset", str(folders), "--device", "cpu", "--clip-benchmark-dir", str(directory)]
    for more in ([], ["--fusion", "mean-cosine"], ["--limit", "2"]):
        assert main([*flags, *more]) == 0
    fused = {path.name: json.loads(path.read_text()) for path in directory.glob("*_fused_*")}
    assert len(fused) == 3 and len(list(directory.glob("*_stage_0_*"))) == 2
    for row in fused.values():
        assert row["fusion"] in ("concat", "mean-cosine") and "weights" not in row
    [few] = [row for name, row in fused.items() if "limit2" in name]
    assert few["limit"] == 2 and sum("mean-cosine" in name for name in fused) == 1
    assert all("fusion" not in json.loads(path.read_text()) for path in directory.glob("*_stage_0_*"))


def test_weights_are_recorded_of_the_stages_that_they_weigh(stages) -> None:
    model, *_ = mcl_clip.load(stages)
    fitted = FusedCLIP(model.stage_info, "fitted", [0.25, 0.75])
    assert fusion_of(fitted, "fused") == {"fusion": "fitted", "weights": [0.25, 0.75]}
    assert fusion_of(fitted, "fused_concat") == {"fusion": "concat"} and fusion_of(fitted, "stage_1") == {}
