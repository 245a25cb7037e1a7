"""A fused model as a directory that transformers runs: its own files, and the code beside them.

The code needs open_clip_torch, timm and huggingface_hub, not mcl_clip: it is this package's own source, flat.
"""

import ast
import os
from pathlib import Path

from mcl_clip.artifacts import atomic_directory, write_json
from mcl_clip.fusion.files import save_fused
from mcl_clip.fusion.fused_model import FusedCLIP
from mcl_clip.fusion.output import HF_CODE_NAME, check_output

MODULE = HF_CODE_NAME.removesuffix(".py")
PACKAGE = Path(__file__).parents[2]  # what `mcl_clip` is in
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
    """File names and contents: `transformers_model` and every module of mcl_clip that it needs, in one folder.

    Their names are the modules' paths in full, so no two meet. The first file imports all others: older transformers
    fetch no more than what it names.
    """
    first = "mcl_clip.fusion.transformers_model"
    files: dict[str, str] = {}
    queue = [first, "mcl_clip.models.tiny_conv"] if tiny_conv else [first]
    while queue:
        module = queue.pop()
        text = (PACKAGE / f"{module.replace('.', '/')}.py").read_text()
        for imported in _own_imports(text):
            text = text.replace(f"from {imported} import", f"from .{_flat(imported)} import")
            queue += [imported] if _flat(imported) not in files else []
        files[_flat(module)] = text
    entry = files.pop(_flat(first))
    every = "".join(f"from .{name} import __name__ as _  # noqa: E402\n" for name in sorted(files))
    return {f"{name}.py": text for name, text in {MODULE: f"{entry}\n{every}", **files}.items()}


def _own_imports(text: str) -> list[str]:
    """The modules of mcl_clip that a module imports names from."""
    found = [node.module or "" for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ImportFrom)]
    return sorted({module for module in found if module.startswith("mcl_clip.")})


def _flat(module: str) -> str:
    return module.removeprefix("mcl_clip.").replace(".", "__")
