"""A fused model on disk: bit-exact, every tensor once, every stage open_clip's, damage refused."""

import copy
import json
import pickle
import shutil

import open_clip
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

import mcl_clip
from mcl_clip.errors import UserError
from mcl_clip.fusion.files import load_fused, read_fused_config, save_fused
from mcl_clip.fusion.fused_model import FusedCLIP
from mcl_clip.models.stage_model import load_stage_model, save_stage_model
from tests.test_fused_model import fused_of, stage, tokens, vit
from tests.test_shared_blocks import changed
from tests.tiny_models import TINY, tiny_images, tiny_model, word_tokenizer
from training.export_hf import main as export
from training.fuse import main


@pytest.fixture(scope="module")
def stages(tmp_path_factory):
    """Directories of a base and two stages that differ from it in the last block."""
    base = vit(1)
    models = [
        base,
        changed(base, "visual.transformer.resblocks.3"),
        changed(base, "visual.transformer.resblocks.3.mlp"),
    ]
    directories = []
    for number, model in enumerate(models):
        directories.append(tmp_path_factory.mktemp("stages") / str(number))
        cfg = {"model_cfg": TINY["vit"], "preprocess_cfg": model.visual.preprocess_cfg}
        save_stage_model(model, directories[-1], **cfg)
    return directories


@pytest.fixture
def fused(stages, tmp_path):
    assert main([*map(str, stages), "--output", str(tmp_path / "fused")]) == 0
    return tmp_path / "fused"


@pytest.mark.parametrize("kind", TINY)
@torch.no_grad()
def test_round_trip_is_bit_exact(tmp_path, kind):
    base = tiny_model(kind, seed=1)
    model = FusedCLIP(
        [stage(base, kind), stage(changed(base, "visual.head" if kind == "timm-conv" else "visual"), kind)],
        fusion="mean-cosine",
        weights=[0.3, 1.1],
    )
    save_fused(model, tmp_path / "fused")
    again = load_fused(tmp_path / "fused")
    assert model.state_dict().keys() == again.state_dict().keys()
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in model.state_dict().items())
    assert (again.fusion, again.weights) == (model.fusion, model.weights) and not again.training
    images = tiny_images(base, 2)
    for ours, theirs in zip(again(images, tokens(2)), model(images, tokens(2)), strict=True):
        assert torch.equal(ours, theirs)
    assert again.sharing == model.sharing


def test_saving_twice_gives_equal_bytes(stages, tmp_path):
    for name in "ab":
        main([*map(str, stages), "--output", str(tmp_path / name)])
    for file in (file.relative_to(tmp_path / "a") for file in (tmp_path / "a").rglob("*.*")):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_equal_tensors_are_stored_once(stages, fused):
    tensors = load_file(fused / "model.safetensors")
    single = load_file(stages[0] / "open_clip_model.safetensors")
    assert {name for name in tensors if name.startswith("0/")} == {f"0/{name}" for name in single}
    later = [name for name in tensors if "/" in name and not name.startswith("0/")]
    assert later and all(name[2:].startswith("visual.transformer.resblocks.3.") for name in later)
    assert all(name[2:].startswith("visual.transformer.resblocks.3.mlp.") for name in later if name[0] == "2")


@torch.no_grad()
def test_every_stage_goes_back_to_open_clip(stages, fused, tmp_path):
    assert main([str(fused), "--split", "--output", str(tmp_path / "split")]) == 0
    model, images = load_fused(fused), tiny_images(vit(1), 2)
    for number, original in enumerate(stages):
        theirs, _, _ = open_clip.create_model_and_transforms(f"local-dir:{tmp_path}/split/stage_{number}/model")
        state = load_stage_model(original)[0].state_dict()
        assert all(torch.equal(tensor, state[name]) for name, tensor in theirs.state_dict().items())
        assert torch.equal(theirs.eval().encode_image(images), model.stages[number].encode_image(images))


def test_a_fused_directory_stands_for_its_stages(stages, fused, tmp_path):
    main([str(fused), str(stages[0]), "--select", "3", "1", "--output", str(tmp_path / "picked")])
    model, _, _ = mcl_clip.load(tmp_path / "picked")
    other, _, _ = mcl_clip.load(f"{stages[0]},{stages[1]}")
    assert model.num_stages == 2
    with torch.no_grad():
        images = tiny_images(vit(1), 2)
        assert torch.equal(model.encode_image(images), other.encode_image(images))


def test_load_gives_a_plain_model_for_a_stage_and_leaves_random_state_alone(stages, fused):
    before = torch.get_rng_state()
    model, preprocess, tokenizer = mcl_clip.load(str(stages[1]))
    assert type(model).__name__ == "CLIP" and tokenizer("a cat").shape == (1, 16) and callable(preprocess)
    mcl_clip.load(fused)
    assert torch.equal(before, torch.get_rng_state())


def test_low_precision_loads(fused):
    model, _, _ = mcl_clip.load(fused, precision="pure_bf16")
    assert model.stages[1].visual.conv1.weight.dtype == torch.bfloat16 and model.sharing["image"]["steps"] == 10
    with torch.no_grad():
        assert model.encode_image(tiny_images(vit(1), 2).bfloat16()).dtype == torch.bfloat16


def test_a_hugging_face_tokenizer_is_stored_with_the_model(tmp_path):
    from mcl_clip.openclip.tokenizers import HFTokenizer

    tokenizer = HFTokenizer(str(word_tokenizer(tmp_path / "words")), context_length=16)
    stages = [stage(vit(seed), tokenizer=tokenizer) for seed in (1, 2)]
    for item in stages:
        item.config["model_cfg"]["text_cfg"]["hf_tokenizer_name"] = "owner/words"
    save_fused(FusedCLIP(stages), tmp_path / "fused")
    _, _, again = mcl_clip.load(tmp_path / "fused")
    assert torch.equal(again(["a red square"]), tokenizer(["a red square"]))


def test_the_card_has_what_the_hub_reads(stages, tmp_path):
    rows = [
        {
            "dataset": "mmvp",
            "model": "fused",
            "task": "mmvp",
            "metrics": {"pair_accuracy": 0.25, "note": "x"},
        },
        {"dataset": "cifar10", "model": "fused", "task": "zeroshot_classification", "metrics": {"acc1": 0.5}},
        {"dataset": "mmvp", "model": "stage_0", "task": "mmvp", "metrics": {"pair_accuracy": 0.2}},
    ]
    (tmp_path / "scores.json").write_text(json.dumps(rows))
    (tmp_path / "recipe.yaml").write_text("mcl_stages: 2\nday: 2024-02-03\n")
    arguments = [
        *map(str, stages),
        "--output",
        str(tmp_path / "fused"),
        "--scores",
        str(tmp_path / "scores.json"),
    ]
    arguments += ["--license", "mit", "--base-model", "owner/base", "--recipe", str(tmp_path / "recipe.yaml")]
    main([*arguments, "--name", "Tiny"])
    text = (tmp_path / "fused" / "README.md").read_text()
    _, front, page = text.split("---\n", 2)
    card = yaml.safe_load(front)
    assert (card["license"], card["base_model"]) == ("mit", "owner/base") and "mcl" in card["tags"]
    index = {entry["name"]: entry["results"] for entry in card["model-index"]}
    assert index["stage_0"][0]["metrics"] == [{"type": "pair_accuracy", "value": 0.2}]
    assert [result["dataset"]["name"] for result in index["fused"]] == ["mmvp", "cifar10"]
    assert "# Tiny" in page and "mcl_stages: 2" in page and "| 2 | " in page
    from huggingface_hub import ModelCard

    loaded = ModelCard.load(tmp_path / "fused" / "README.md").data
    assert loaded.license == "mit" and loaded.base_model == "owner/base"


def tampered(directory, change):
    config = json.loads((directory / "mcl_config.json").read_text())
    change(config)
    (directory / "mcl_config.json").write_text(json.dumps(config))


def test_what_is_not_whole_is_refused_with_the_reason(fused, tmp_path):
    whole = (fused / "model.safetensors").read_bytes()
    flipped = bytearray(whole)
    flipped[-3] ^= 1
    other = load_file(fused / "model.safetensors")
    save_file({name: tensor for name, tensor in other.items() if "1/" not in name}, tmp_path / "fewer")
    weights = {
        "truncated": whole[:-50],
        "SHA-256": bytes(flipped),
        "no safetensors": pickle.dumps({"a": 1}),
    }
    for reason, content in weights.items():
        damaged = shutil.copytree(fused, tmp_path / reason)
        (damaged / "model.safetensors").write_bytes(content)
        with pytest.raises(UserError, match=reason):
            mcl_clip.load(damaged)
    configs = {
        "upgrade": lambda config: config.update(version=2),
        "not a fused model": lambda config: config.update(format="other"),
        "not whole": lambda config: config.pop("sha256"),
        "is not whole": lambda config: config.update(stages=[{"source": "x"}]),
        "do not fit": lambda config: config["stages"][1]["tensors_of"].popitem(),
        "tensors do not fit": lambda config: config["stages"][1]["tensors_of"].update({"visual.proj": 7}),
        "--fusion": lambda config: config.update(fusion="sum"),
        r"json is not whole": lambda config: config.update(card=None),
        r"is not whol.": lambda config: config.update(weights="12"),
    }
    for number, (reason, change) in enumerate(configs.items()):
        damaged = shutil.copytree(fused, tmp_path / f"config {number}")
        tampered(damaged, change)
        with pytest.raises(UserError, match=reason):
            mcl_clip.load(damaged)
    (fused / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"has no model\.safetensors"):
        mcl_clip.load(fused)
    (fused / "mcl_config.json").write_text("{")
    with pytest.raises(UserError, match="not valid JSON"):
        mcl_clip.load(fused)
    with pytest.raises(UserError, match="neither a directory"):
        mcl_clip.load(str(tmp_path / "nowhere"))


def test_a_stage_configuration_that_open_clip_cannot_build_is_refused(fused):
    path = fused / "stages" / "0" / "open_clip_config.json"
    config = json.loads(path.read_text())
    config["model_cfg"]["vision_cfg"] = {"timm_model_name": "no_such_tower", "image_size": 32}
    path.write_text(json.dumps(config))
    with pytest.raises(UserError, match="open_clip can build"):
        load_fused(fused)


def test_the_command_says_what_is_wrong(stages, tmp_path, capsys):
    (tmp_path / "list.yaml").write_text("- 1\n")
    (tmp_path / "nan.json").write_text('[{"dataset": "a", "model": "b", "task": "c", "metrics": {"x": NaN}}]')
    (tmp_path / "rows.json").write_text('[{"dataset": "a", "model": "b", "task": "c", "metrics": 3}]')
    for arguments, reason in [
        ([str(tmp_path)], "not a stage directory"),
        ([str(stages[0]), "--weights", "1"], "mean-cosine"),
        ([str(stages[0]), "--select", "4"], "distinct numbers"),
        ([str(stages[0]), str(stages[1]), "--scores", str(stages[0] / "open_clip_config.json")], "--scores"),
        ([str(stages[0]), "--recipe", str(tmp_path / "none.yaml")], "--recipe"),
        ([str(stages[0]), "--recipe", str(tmp_path / "list.yaml")], "--recipe"),
        ([str(stages[0]), "--scores", str(tmp_path / "rows.json")], "--scores"),
        ([str(stages[0]), "--scores", str(tmp_path / "nan.json")], "not finite"),
    ]:
        with pytest.raises(SystemExit) as exit_:
            main([*arguments, "--output", str(tmp_path / "out")])
        error = capsys.readouterr().err
        assert exit_.value.code == 2 and reason in error and error.count("\n") == 1
        assert not (tmp_path / "out").exists()


def test_what_is_in_memory_and_on_disk_survives_a_copy(fused):
    model = copy.deepcopy(load_fused(fused))
    save_fused(model, fused)
    assert read_fused_config(fused)["stages"][1]["tensors_of"]["visual.conv1.weight"] == 0
    assert fused_of(vit(1)).num_stages == 1


@pytest.mark.parametrize("kind", ["siglip", "timm-conv"])
@torch.no_grad()
def test_one_image_gives_what_the_separately_loaded_stage_gives(tmp_path, kind):
    """With tensors left where the mapped file has them, these differ by 2e-7 from those of open_clip's own loading."""
    base = tiny_model(kind, seed=1)
    models = [base, changed(base, "visual")]
    for number, model in enumerate(models):
        cfg = {"model_cfg": TINY[kind], "preprocess_cfg": model.visual.preprocess_cfg}
        save_stage_model(model, tmp_path / str(number), **cfg)
    save_fused(FusedCLIP([stage(model, kind) for model in models]), tmp_path / "fused")
    fused = load_fused(tmp_path / "fused")
    assert all(tensor.data_ptr() % 64 == 0 for tensor in fused.state_dict().values())
    for number in (0, 1):
        alone, _, _ = load_stage_model(tmp_path / str(number))
        for seed in range(5):
            image = tiny_images(base, 1, seed)
            assert torch.equal(fused.stage_embeddings(image=image)[number], alone.encode_image(image))


@torch.no_grad()
def test_a_changed_logit_scale_is_kept(tmp_path):
    model = FusedCLIP([stage(tiny_model("siglip", seed=seed), "siglip") for seed in (1, 2)])
    model.logit_scale.fill_(3.0)
    model.logit_bias.fill_(-4.0)
    save_fused(model, tmp_path / "fused")
    again = load_fused(tmp_path / "fused")
    assert (again.logit_scale.item(), again.logit_bias.item()) == (3.0, -4.0)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@torch.no_grad()
def test_half_weights_beside_fp32_norms_still_share_and_run(fused, precision):
    model, _, _ = mcl_clip.load(fused, precision=precision)
    assert model.sharing["image"] == {"steps": 10, "separate": 18}
    images = tiny_images(vit(1), 2)
    embedding = model.encode_image(images.to(model.stages[0].visual.conv1.weight.dtype)).float()
    assert torch.allclose(embedding, load_fused(fused).encode_image(images), atol=0.1)


@pytest.mark.parametrize("precision", ["fp32", "amp_bf16", "bf16"])
def test_the_model_says_its_precision(stages, fused, precision):
    for spec in (fused, stages[0], f"{stages[0]},{stages[1]}"):
        model, _, _ = mcl_clip.load(spec, precision=precision)
        assert model.precision == precision
        assert model.visual is not None and copy.deepcopy(model).precision == precision


@torch.no_grad()
def test_half_weights_on_disk_are_read_in_the_precision_asked_for(fused, tmp_path):
    half, _, _ = mcl_clip.load(fused, precision="bf16")
    save_fused(half, tmp_path / "half")
    model, _, _ = mcl_clip.load(tmp_path / "half")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    images = tiny_images(vit(1), 2)
    expected = half.encode_image(images.bfloat16()).float()
    assert torch.allclose(model.encode_image(images), expected, atol=0.1)
    again, _, _ = mcl_clip.load(tmp_path / "half", precision="bf16")
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in half.state_dict().items())


def test_stages_of_two_types_are_refused():
    with pytest.raises(UserError, match=r"stage 1 .* reads bfloat16 on cpu, stage 0 float32 on cpu"):
        fused_of(vit(1), vit(2).bfloat16())


@torch.no_grad()
def test_a_state_dict_and_a_compiled_model_give_the_same(fused, tmp_path):
    model, other = load_fused(fused), load_fused(fused)
    images = tiny_images(vit(1), 3)
    expected = model.encode_image(images)
    torch.save(model.state_dict(), tmp_path / "state.pt")
    assert (tmp_path / "state.pt").stat().st_size < 1.1 * (fused / "model.safetensors").stat().st_size
    for parameter in other.parameters():
        parameter.zero_()
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert torch.equal(other.encode_image(images), expected)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    assert torch.allclose(compiled(images, tokens(3))[0], model(images, tokens(3))[0], atol=1e-6)


def test_where_a_stage_lay_is_not_told(stages, fused):
    assert stages[0].is_absolute()
    for path in (fused / "mcl_config.json", fused / "README.md"):
        assert str(stages[0].parent.parent) not in path.read_text()


def test_nothing_of_someone_elses_is_replaced(stages, fused, tmp_path, capsys):
    """A directory is replaced as a whole, so a run, a checkout or a home directory must not be one's output."""
    (tmp_path / "run" / "stage_0" / "model").mkdir(parents=True)
    shutil.copytree(fused, tmp_path / "hub").joinpath(".git").mkdir()
    (tmp_path / "file").write_text("x")
    for command, first, name, reason in [
        (main, stages[0], "run", "holds stage_0"),
        (main, stages[0], "hub", "holds .git"),
        (main, stages[0], "file", "is a file"),
        (main, stages[0], "file/fused", "not a directory"),
        (export, fused, "run", "holds stage_0"),
        (export, fused, "file/hf", "not a directory"),
    ]:
        with pytest.raises(SystemExit) as exit_:
            command([str(first), "--output", str(tmp_path / name)])
        error = capsys.readouterr().err
        assert exit_.value.code == 2 and reason in error and error.count("\n") == 1
    with pytest.raises(SystemExit):
        main([str(fused), "--split", "--output", str(tmp_path / "run")])
    assert "is written over" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["nowhere", "--split", "--output", str(tmp_path / "file")])
    assert "is a file: name a directory" in capsys.readouterr().err
    assert (tmp_path / "hub" / ".git").is_dir() and (tmp_path / "run" / "stage_0" / "model").is_dir()
    (tmp_path / "empty").mkdir()
    assert main([str(stages[0]), "--output", str(tmp_path / "empty")]) == 0
    assert main([str(stages[1]), "--output", str(tmp_path / "empty")]) == 0


def test_load_says_what_is_wrong(stages, fused):
    for spec, options, reason in [
        (fused, {"precision": "bfloat16"}, "--precision"),
        (fused, {"device": "nonsense"}, "--device"),
        (f"{fused},", {}, "names no model"),
        ("", {}, "names no model"),
        (",".join(["x" * 99] * 5), {}, "neither a directory"),
        ("hf-hub:owner/not-in-the-cache", {}, "cannot be fetched"),
        ("hf-hub:a/b/c", {}, "cannot be fetched"),
    ]:
        with pytest.raises(UserError, match=reason):
            mcl_clip.load(spec, **options)
