"""The exported directory under transformers, in a process that has no mcl_clip: the same probabilities as ours."""

import ast
import copy
import json
import os
import subprocess
import sys

import open_clip
import pytest
import torch
from PIL import Image

import mcl_clip
import mcl_clip.models  # registers the demo's tower
from mcl_clip.fusion.files import save_fused
from mcl_clip.fusion.fused_model import FusedCLIP
from mcl_clip.fusion.hub_export import sources
from mcl_clip.fusion.stages import Stage
from mcl_clip.openclip.configs import get_model_config
from mcl_clip.openclip.models import create_model
from mcl_clip.openclip.tokenizers import HFTokenizer
from tests.test_fused_model import stage, vit
from tests.test_shared_blocks import changed
from tests.tiny_models import tiny_model, word_tokenizer
from training.export_hf import main

LABELS = ["a cat", "a dog", "a red square", "a circle " * 30]
TEMPLATE = "a photo of {}."

SCRIPT = """
import json, sys
sys.modules["mcl_clip"] = None
import numpy as np
import torch
from transformers import AutoImageProcessor, AutoModel, AutoTokenizer, pipeline
from PIL import Image

labels, template, picture, *directories = json.loads(sys.argv[1])
picture, results = Image.open(picture), {}
for directory in directories:
    options = {"trust_remote_code": True}
    run = pipeline("zero-shot-image-classification", model=directory, device="cpu", **options)
    scores = {row["label"]: row["score"] for row in run(picture, candidate_labels=labels, hypothesis_template=template)}
    model = AutoModel.from_pretrained(directory, **options)
    pixels = AutoImageProcessor.from_pretrained(directory, **options)(picture, return_tensors="pt")
    tokens = AutoTokenizer.from_pretrained(directory, **options)(labels, return_tensors="pt", padding=True)
    with torch.no_grad():
        out = model(**pixels, **tokens)
        image = model.get_image_features(**pixels).pooler_output
    several = run([picture, picture], candidate_labels=labels, hypothesis_template=template, batch_size=2)
    bytes_ = torch.from_numpy(np.asarray(picture).transpose(2, 0, 1).copy())
    processor = AutoImageProcessor.from_pretrained(directory, **options)
    arrays = [processor(array, return_tensors="pt").pixel_values for array in (bytes_, bytes_ / 255, bytes_[None])]
    run.save_pretrained(f"{directory}-again")
    again = pipeline("zero-shot-image-classification", model=f"{directory}-again", device="cpu", **options)
    again = again(picture, candidate_labels=labels, hypothesis_template=template)
    results[directory] = {
        "batch": [[row["score"] for label in labels for row in rows if row["label"] == label] for rows in several],
        "again": [row["score"] for label in labels for row in again if row["label"] == label],
        "arrays": [torch.equal(array, pixels["pixel_values"]) for array in arrays],
        "scores": [scores[label] for label in labels],
        "logits": out.logits_per_image.tolist(),
        "transposed": torch.equal(out.logits_per_image.T, out.logits_per_text),
        "image": image.tolist(),
        "dtype": str(model.dtype),
        "training": model.training,
    }
print(json.dumps(results))
"""


def models(directory):
    """Softmax with shared blocks, fitted weights, sigmoid, collapsed, the demo's tower, a Hugging Face tokenizer."""
    base = vit(1)
    yield "fitted", FusedCLIP([stage(vit(1)), stage(vit(2))], "fitted", [0.002, 0.998])
    yield "vit", FusedCLIP([stage(base), stage(changed(base, "visual.transformer.resblocks.3"))])
    sigmoid = [tiny_model("siglip", seed=seed) for seed in (1, 2)]
    yield "sigmoid", FusedCLIP([stage(model, "siglip") for model in sigmoid], "mean-cosine", [1, 2])
    shared = copy.deepcopy(base)
    yield "collapsed", FusedCLIP([stage(shared), stage(changed(shared, "visual"))]).collapse()
    conv = create_model("mcl-tiny-conv").eval()
    config = {"model_cfg": get_model_config("mcl-tiny-conv"), "preprocess_cfg": conv.visual.preprocess_cfg}
    yield "conv", FusedCLIP([Stage(conv, config, open_clip.get_tokenizer("mcl-tiny-conv"))])
    words = HFTokenizer(str(word_tokenizer(directory / "tokenizer")), context_length=16)
    named = stage(vit(2), tokenizer=words)
    named.config["model_cfg"]["text_cfg"]["hf_tokenizer_name"] = "owner/words"
    yield "words", FusedCLIP([named])


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """Directories by name, and what transformers gave for each, in one process."""
    root = tmp_path_factory.mktemp("export")
    directories = {}
    for name, model in models(root):
        save_fused(model, root / name)
        assert main([str(root / name), "--output", str(root / f"{name}-hf")]) == 0
        directories[name] = root / f"{name}-hf"
    picture = root / "picture.png"
    Image.effect_noise((70, 50), 60).convert("RGB").save(picture)
    job = json.dumps([LABELS, TEMPLATE, str(picture), *map(str, directories.values())])
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(root / "modules")}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, job], capture_output=True, text=True, env=environment, cwd=root
    )
    assert done.returncode == 0, done.stderr
    assert "not supported for" not in done.stderr
    return directories, json.loads(done.stdout.splitlines()[-1]), Image.open(picture)


@pytest.mark.parametrize("name", ["fitted", "vit", "sigmoid", "collapsed", "conv", "words"])
@torch.no_grad()
def test_probabilities_are_ours(ran, name):
    directories, results, picture = ran
    result = results[str(directories[name])]
    model, preprocess, tokenizer = mcl_clip.load(directories[name])
    pixels = preprocess(picture)[None]
    logits, _ = model.get_logits(pixels, tokenizer([TEMPLATE.format(label) for label in LABELS]))
    expected = logits.sigmoid() if name == "sigmoid" else logits.softmax(1)
    assert torch.allclose(torch.tensor([result["scores"]]), expected, atol=1e-5, rtol=0)
    assert torch.allclose(torch.tensor(result["batch"]), expected.expand(2, -1), atol=1e-5, rtol=0)
    assert result["again"] == result["scores"] and result["arrays"] == [True, True, True]
    logits, _ = model.get_logits(pixels, tokenizer(LABELS))
    assert torch.allclose(torch.tensor(result["logits"]), logits, atol=1e-4) and result["transposed"]
    assert torch.allclose(torch.tensor(result["image"]), model.encode_image(pixels), atol=1e-5)
    assert result["dtype"] == "torch.float32" and result["training"] is False


def test_the_code_beside_the_weights_needs_no_mcl_clip():
    files = sources(tiny_conv=True)
    assert all(f"from .{name[:-3]} import" in files["modeling_mcl_clip.py"] for name in files if "__" in name)
    assert {"modeling_mcl_clip.py", "fusion__fused_model.py", "models__tiny_conv.py"} <= files.keys()
    assert "models__tiny_conv.py" not in sources(tiny_conv=False)
    for name, text in files.items():
        nodes = list(ast.walk(ast.parse(text, name)))
        names = [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)]
        names += [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
        assert names and not any(found.startswith("mcl_clip") for found in names)


def test_a_stage_directory_can_be_exported_and_bad_input_is_one_line(ran, tmp_path, capsys):
    directories, _, _ = ran
    from mcl_clip.models.stage_model import save_stage_model
    from tests.tiny_models import TINY

    model = vit(1)
    save_stage_model(model, tmp_path / "s", model_cfg=TINY["vit"], preprocess_cfg=model.visual.preprocess_cfg)
    assert main([str(tmp_path / "s"), "--output", str(tmp_path / "out")]) == 0
    assert mcl_clip.load(tmp_path / "out")[0].num_stages == 1
    card = (directories["vit"] / "README.md").read_text()
    assert "library_name: transformers" in card and "trust_remote_code=True" in card
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit_:
        main([str(tmp_path), "--output", str(tmp_path / "none")])
    error = capsys.readouterr().err
    assert exit_.value.code == 2 and error.count("\n") == 1 and "stage directory" in error
    assert not (tmp_path / "none").exists()
