"""A fused model behind transformers' classes; `mcl-export-hf` writes this file and those it needs beside the weights.

`from_pretrained` reads the fused model's own files, so the numbers are those of `mcl_clip.load`.
"""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from PIL import Image
from torch import Tensor, nn
from transformers import BatchEncoding, PretrainedConfig, PreTrainedModel, PreTrainedTokenizer
from transformers.feature_extraction_utils import BatchFeature
from transformers.image_processing_utils import BaseImageProcessor
from transformers.image_transforms import to_pil_image
from transformers.image_utils import infer_channel_dimension_format, to_numpy_array
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.auto.modeling_auto import MODEL_FOR_ZERO_SHOT_IMAGE_CLASSIFICATION_MAPPING_NAMES
from transformers.utils import ModelOutput

from mcl_clip.artifacts import atomic_directory
from mcl_clip.fusion.files import load_fused, save_fused
from mcl_clip.fusion.output import MCL_CONFIG_NAME, check_output
from mcl_clip.fusion.stages import vocabulary
from mcl_clip.openclip.tokenizers import get_tokenizer
from mcl_clip.openclip.transforms import PreprocessCfg, image_transform_v2


class MCLClipConfig(PretrainedConfig):
    """Softmax form. What the model is made of stands in mcl_config.json and stages/."""

    model_type = "mcl_clip"


class MCLSiglipConfig(MCLClipConfig):
    """Sigmoid form: the pipeline takes sigmoids where the model type has `siglip` in it."""

    model_type = "mcl_siglip"


@dataclass
class MCLOutput(ModelOutput):
    """Logits [images, texts] and their transpose; embeddings as the fused model normalises them."""

    logits_per_image: Tensor | None = None
    logits_per_text: Tensor | None = None
    image_embeds: Tensor | None = None
    text_embeds: Tensor | None = None


class MCLModel(PreTrainedModel):
    """All stages as one CLIP, for inference."""

    config_class = MCLClipConfig
    main_input_name = "pixel_values"

    def __init__(self, config: PretrainedConfig, fused: Any, directory: Path):
        super().__init__(config)
        self.fused, self.directory = fused, directory

    @classmethod
    def from_pretrained(cls, name: str | os.PathLike, *_: Any, config: Any = None, **kwargs: Any) -> "MCLModel":  # type: ignore[override]
        """Load a directory or a hub repository; `dtype` may be a torch type, `device_map` one device."""
        directory = _directory(name, **kwargs)
        config = cls.config_class.from_pretrained(directory) if config is None else config
        model = cls(config, load_fused(directory), directory)
        dtype, device = kwargs.get("dtype", kwargs.get("torch_dtype")), kwargs.get("device_map")
        if dtype in (None, "auto"):
            dtype = config.dtype  # where some versions of transformers put what was asked for
        if isinstance(dtype, str):
            dtype = getattr(torch, dtype)
        nn.Module.to(model, dtype if isinstance(dtype, torch.dtype) else torch.float32)
        if isinstance(device, str | int | torch.device) and device != "auto":
            nn.Module.to(model, device)
        return model.eval()

    def save_pretrained(self, save_directory: str | os.PathLike, *_: Any, **kwargs: Any) -> None:
        """Write the model as it is now, with processor, tokenizer and code, in the place of an older one."""
        _refuse_upload(kwargs)
        check_output(save_directory)
        with atomic_directory(save_directory) as temporary:
            save_fused(self.fused, temporary)
            _copy_small_files(self.directory, temporary)

    def forward(self, input_ids: Tensor | None = None, pixel_values: Tensor | None = None, **_: Any) -> MCLOutput:
        """Logits of images [B, 3, H, W] and tokens [T, context]; with one of them, its embedding only."""
        image = None if pixel_values is None else self.fused.encode_image(pixel_values, normalize=True)
        text = None if input_ids is None else self.fused.encode_text(input_ids, normalize=True)
        if image is None or text is None:
            return MCLOutput(image_embeds=image, text_embeds=text)
        logits = self.fused.logit_scale.exp() * image @ text.T
        if self.fused.logit_bias is not None:
            logits = logits + self.fused.logit_bias
        return MCLOutput(logits, logits.T, image, text)

    def get_image_features(self, pixel_values: Tensor, **_: Any) -> BaseModelOutputWithPooling:
        """Raw fused image embeddings as `pooler_output`, as transformers 5 gives them."""
        return BaseModelOutputWithPooling(pooler_output=self.fused.encode_image(pixel_values))

    def get_text_features(self, input_ids: Tensor, **_: Any) -> BaseModelOutputWithPooling:
        """Raw fused text embeddings as `pooler_output`."""
        return BaseModelOutputWithPooling(pooler_output=self.fused.encode_text(input_ids))


class MCLSiglipModel(MCLModel):
    """The same in sigmoid form."""

    config_class = MCLSiglipConfig


# The pipeline logs an error about every model whose class is not listed here.
MODEL_FOR_ZERO_SHOT_IMAGE_CLASSIFICATION_MAPPING_NAMES["mcl_clip"] = "MCLModel"
MODEL_FOR_ZERO_SHOT_IMAGE_CLASSIFICATION_MAPPING_NAMES["mcl_siglip"] = "MCLSiglipModel"


class MCLImageProcessor(BaseImageProcessor):
    """Open_clip's evaluation transform, with the settings of the first stage."""

    model_input_names = ["pixel_values"]  # noqa: RUF012  transformers' own declaration

    def __init__(self, preprocess_cfg: dict[str, Any] | None = None, **kwargs: Any):
        super().__init__(**kwargs)
        self.preprocess_cfg = preprocess_cfg or {}

    def __call__(self, images: Any, return_tensors: str | None = None, **_: Any) -> BatchFeature:  # type: ignore[override]
        """Pixel values [B, 3, H, W] of PIL images, or of arrays or tensors [H, W], [H, W, C] or [C, H, W], of bytes or
        of numbers from 0 to 1; a list of them, or one array [B, ...]."""
        several = isinstance(images, list | tuple) or getattr(images, "ndim", 0) == 4
        transform = image_transform_v2(PreprocessCfg(**self.preprocess_cfg), is_train=False)
        pixels = torch.stack([transform(_picture(image)) for image in (images if several else [images])])
        return BatchFeature({"pixel_values": pixels}, tensor_type=return_tensors)

    preprocess = __call__


def _picture(image: Any) -> Image.Image:
    if isinstance(image, Image.Image):
        return image
    array = to_numpy_array(image)
    array = array[None] if array.ndim == 2 else array
    return to_pil_image(array, input_data_format=infer_channel_dimension_format(array, num_channels=(1, 3, 4)))


class MCLTokenizer(PreTrainedTokenizer):
    """The stages' open_clip tokenizer; always pads and cuts to the context length, whatever is asked for."""

    model_input_names = ["input_ids", "attention_mask"]  # noqa: RUF012  transformers' own declaration

    def __init__(self, tokenizer: Any, directory: Path, **kwargs: Any):
        self.open_clip, self._directory = tokenizer, directory
        self._ids = vocabulary(tokenizer)
        self._words = {number: word for word, number in self._ids.items()}
        padding = getattr(getattr(tokenizer, "tokenizer", None), "pad_token_id", None) or 0
        # The pipeline's batches ask for a padding token; open_clip's own tokenizer pads with the token 0.
        super().__init__(model_max_length=tokenizer.context_length, pad_token=self._words[padding], **kwargs)

    @classmethod
    def from_pretrained(cls, name: str | os.PathLike, *_: Any, **kwargs: Any) -> "MCLTokenizer":  # type: ignore[override]
        """Load from a directory or a hub repository."""
        directory = _directory(name, **kwargs)
        return cls(get_tokenizer(f"local-dir:{directory / 'stages' / '0'}"), directory)

    def save_pretrained(self, save_directory: str | os.PathLike, *_: Any, **kwargs: Any) -> tuple[str, ...]:  # type: ignore[override]
        """Write the tokenizer, with the configurations and the code beside it, as they were loaded."""
        _refuse_upload(kwargs)
        return _copy_small_files(self._directory, Path(save_directory))

    def __call__(self, text: str | list[str], return_tensors: str | None = None, **_: Any) -> BatchEncoding:
        """Tokens [B, context], and a mask of those that are not zero."""
        tokens = self.open_clip(text)
        batch = {"input_ids": tokens, "attention_mask": (tokens != 0).long()}
        return BatchEncoding(batch if return_tensors else {name: ids.tolist() for name, ids in batch.items()})

    @property
    def vocab_size(self) -> int:
        """Number of tokens."""
        return len(self._ids)

    def get_vocab(self) -> dict[str, int]:
        """Tokens and their numbers."""
        return dict(self._ids)

    def _convert_token_to_id(self, token: str) -> int | None:
        return self._ids.get(token)

    def _convert_id_to_token(self, index: int) -> str:
        return self._words[index]


def _copy_small_files(source: Path, target: Path) -> tuple[str, ...]:
    """Configurations, tokenizer files and code of an exported directory, into another; those that stand there stay.
    Returns what was written."""
    files = [*source.glob("*.py"), *source.glob("*.json"), *(source / "stages").rglob("*")]
    written = []
    for file in (file for file in files if file.is_file() and file.name != MCL_CONFIG_NAME):
        place = target / file.relative_to(source)
        if not place.exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, place)
            written.append(str(place))
    return tuple(written)


def _refuse_upload(kwargs: dict[str, Any]) -> None:
    if kwargs.get("push_to_hub"):
        raise ValueError("push_to_hub is not offered here: save, then run `hf upload OWNER/NAME DIRECTORY`")


def _directory(name: str | os.PathLike, **kwargs: Any) -> Path:
    if os.path.isdir(name):
        return Path(name)
    options = {key: kwargs[key] for key in ("revision", "token", "cache_dir") if kwargs.get(key) is not None}
    wanted = ["*.py", "*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]
    local = bool(kwargs.get("local_files_only"))
    return Path(snapshot_download(str(name), allow_patterns=wanted, local_files_only=local, **options))
