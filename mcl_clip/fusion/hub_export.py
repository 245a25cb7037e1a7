"""A fused model as a directory that transformers runs: its own files, and the code beside them.

The code needs open_clip_torch, timm and huggingface_hub, not mcl_clip: it is this package's own source, flat.
"""

import os
import re
from pathlib import Path

import mcl_clip
from mcl_clip.artifacts import atomic_directory, write_json
from mcl_clip.fusion.files import save_fused
from mcl_clip.fusion.fused_model import FusedCLIP
from mcl_clip.fusion.output import check_output

MODULE = "modeling_mcl_clip"
_IMPORT = re.compile(r"^(\s*)from mcl_clip((?:\.\w+)+) import", re.MULTILINE)
_USAGE = """
## With transformers

```python
from transformers import pipeline

classify = pipeline("zero-shot-image-classification", model=PATH, trust_remote_code=True)
classify("image.jpg", candidate_labels=["a cat", "a dog"])
```

The code beside the weights needs `pip install open_clip_torch`. `mcl_clip.load(PATH)` reads this directory too.
"""


def export_hf(model: FusedCLIP, directory: str | os.PathLike) -> None:
    """Write `model` for `AutoModel.from_pretrained(directory, trust_remote_code=True)`, atomically.

    The directory holds the fused model as `save_fused` writes it, and besides it a configuration, an image
    processor, a tokenizer and the code they name. `load_fused` reads it as well. `UserError` when `directory`
    holds anything but an older fused model.
    """
    check_output(directory)
    stage = model.stage_info[0]
    sigmoid = model.logit_bias is not None
    model_class, config_class = ("MCLSiglipModel", "MCLSiglipConfig") if sigmoid else ("MCLModel", "MCLClipConfig")
    config = {
        "model_type": "mcl_siglip" if sigmoid else "mcl_clip",
        "architectures": [model_class],
        "projection_dim": model.visual.output_dim,
        "dtype": "float32",
        "auto_map": {
            "AutoConfig": f"{MODULE}.{config_class}",
            "AutoModel": f"{MODULE}.{model_class}",
            "AutoModelForZeroShotImageClassification": f"{MODULE}.{model_class}",
        },
    }
    processor = {
        "image_processor_type": "MCLImageProcessor",
        "auto_map": {"AutoImageProcessor": f"{MODULE}.MCLImageProcessor"},
        "preprocess_cfg": stage.preprocess_cfg,
    }
    tokenizer = {
        "tokenizer_class": "MCLTokenizer",
        "auto_map": {"AutoTokenizer": [f"{MODULE}.MCLTokenizer", None]},
        "model_max_length": model.context_length,
    }
    with atomic_directory(directory) as temporary:
        save_fused(model, temporary)
        for name, content in sources(uses_tiny_conv(model)).items():
            (temporary / name).write_text(content)
        write_json(temporary / "config.json", config)
        write_json(temporary / "preprocessor_config.json", processor)
        write_json(temporary / "tokenizer_config.json", tokenizer)
        card = (temporary / "README.md").read_text().replace("library_name: mcl_clip", "library_name: transformers")
        (temporary / "README.md").write_text(card + _USAGE)


def uses_tiny_conv(model: FusedCLIP) -> bool:
    """Whether a stage has the demo's tower, which timm does not know by itself."""
    names = [stage.config["model_cfg"]["vision_cfg"].get("timm_model_name") for stage in model.stage_info]
    return "mcl_tiny_conv" in names


def sources(tiny_conv: bool) -> dict[str, str]:
    """File names and contents: `transformers_model` and every module of mcl_clip that it needs, in one folder."""
    package = Path(mcl_clip.__file__).parent
    first = (package / "fusion" / "transformers_model.py").read_text()
    if tiny_conv:
        first += "\n\nfrom mcl_clip.models.tiny_conv import TinyConv as TinyConv  # noqa: E402  registers the tower\n"
    files, queue = {}, {MODULE: first}
    while queue:
        name, text = queue.popitem()
        files[f"{name}.py"] = _IMPORT.sub(lambda found: f"{found[1]}from .{_last(found[2])} import", text)
        for path in (found[2] for found in _IMPORT.finditer(text)):
            if f"{_last(path)}.py" not in files and _last(path) not in queue:
                queue[_last(path)] = package.joinpath(*path.strip(".").split(".")).with_suffix(".py").read_text()
    return files


def _last(path: str) -> str:
    return path.rpartition(".")[2]
