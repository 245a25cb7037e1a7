"""Models of open_clip's architectures, small enough to run in milliseconds on a CPU."""

import copy
from dataclasses import asdict
from pathlib import Path

import torch

from mcl_clip.openclip.models import CLIP, CustomTextCLIP, set_model_preprocess_cfg
from mcl_clip.openclip.transforms import PreprocessCfg

TEXT = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 3}
VIT = {"image_size": 32, "layers": 4, "width": 32, "head_width": 16, "patch_size": 16}
SIGLIP_VIT = {"image_size": 160, "timm_model_name": "test_vit2", "timm_pool": "map", "timm_proj": "none"}
TINY = {
    "vit": {"embed_dim": 24, "vision_cfg": VIT, "text_cfg": TEXT},
    "vit-custom-text": {"embed_dim": 24, "vision_cfg": VIT, "text_cfg": TEXT, "custom_text": True},
    "siglip": {
        "embed_dim": 64,
        "init_logit_bias": -10.0,
        "custom_text": True,
        "vision_cfg": {
            "image_size": 160,
            "timm_model_name": "test_vit2",
            "timm_pool": "map",
            "timm_proj": "none",
        },
        "text_cfg": TEXT | {"no_causal_mask": True, "proj_bias": True, "pool_type": "last"},
    },
    "resnet": {
        "embed_dim": 24,
        "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "head_width": 16},
        "text_cfg": TEXT,
    },
    "timm-vit": {
        "embed_dim": 24,
        "vision_cfg": {"image_size": 160, "timm_model_name": "test_vit", "timm_pool": "token"},
        "text_cfg": TEXT,
    },
    "timm-conv": {
        "embed_dim": 24,
        "vision_cfg": {"image_size": 64, "timm_model_name": "test_convnext", "timm_pool": "avg"},
        "text_cfg": TEXT,
    },
}


def tiny_model(kind: str, seed: int, *, image_size: int = 0, context_length: int = 0, **overrides):
    """A randomly initialised open_clip model in eval mode; the same seed gives the same weights."""
    cfg = copy.deepcopy(TINY[kind]) | overrides
    if image_size:
        cfg["vision_cfg"]["image_size"] = image_size
    if context_length:
        cfg["text_cfg"]["context_length"] = context_length
    model_class = CustomTextCLIP if cfg.pop("custom_text", False) else CLIP
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = model_class(**cfg)
        for parameter in model.parameters():
            if parameter.ndim and not parameter.any():
                torch.nn.init.normal_(parameter, std=0.05)
    set_model_preprocess_cfg(model, asdict(PreprocessCfg()) | {"size": model.visual.image_size})
    return model.eval()


def tiny_images(model, count: int, seed: int = 0) -> torch.Tensor:
    """Random normalised images of the size that `model` reads."""
    size = model.visual.image_size
    height, width = (size, size) if isinstance(size, int) else size
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(seed))


def hugging_face_text(directory: Path) -> dict:
    """Open_clip's text_cfg for a BERT of a few thousand parameters in `directory`, with a tokenizer of its own."""
    from transformers import BertConfig, BertModel

    word_tokenizer(directory)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        BertModel(BertConfig(vocab_size=12, max_position_embeddings=32, **sizes)).save_pretrained(directory)
    names = {"hf_model_name": str(directory), "hf_tokenizer_name": str(directory)}
    return names | {"hf_proj_type": "mlp", "hf_pooler_type": "mean_pooler", "context_length": 16}


def word_tokenizer(directory: Path, *more: str) -> Path:
    """A Hugging Face tokenizer over a handful of words and `more`, made on the spot."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["[PAD]", "[UNK]", "a", "the", "red", "blue", "square", "circle", "photo", "of", "cat", "dog", *more]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]")
    fast.save_pretrained(directory)
    return directory
