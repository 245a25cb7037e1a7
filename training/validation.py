"""What --val-data and --imagenet-val ask for: retrieval and zero-shot scores between epochs, on the first rank."""

import os
import re
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from mcl_clip.errors import UserError
from mcl_clip.loading.augment import EvalTransform, eval_transform
from mcl_clip.loading.class_folders import list_images, visible_folders
from mcl_clip.loading.decode import DecodeError, decode_pil
from mcl_clip.loading.normalize import Normalize
from mcl_clip.openclip.precision import get_autocast, get_input_dtype
from mcl_clip.openclip.transforms import PreprocessCfg, image_transform_v2
from mcl_clip.openclip.zero_shot import IMAGENET_CLASSNAMES, OPENAI_IMAGENET_TEMPLATES, build_zero_shot_classifier
from mcl_clip.shards.manifest import Manifest
from mcl_clip.shards.reader import ShardRows
from training.build import BuiltModel
from training.recipe import Recipe
from training.reporting import log


class Validation:
    """Scores a model in training; it leaves the model in evaluation mode."""

    def __init__(self, recipe: Recipe, manifest: Manifest | None, device: torch.device) -> None:
        self._recipe, self._manifest, self._device = recipe, manifest, device
        self._autocast = get_autocast(recipe.optimization.precision, device_type=device.type)
        self._input_dtype = get_input_dtype(recipe.optimization.precision) or torch.float32
        self._imagenet = recipe.reporting.imagenet_val
        if self._imagenet:
            check_imagenet(self._imagenet)

    def is_due(self, completed: int, epochs: int) -> bool:
        """Whether anything is to be scored after so many epochs; after the last always, as in open_clip."""
        return self._retrieval_is_due(completed, epochs) or self._zero_shot_is_due(completed, epochs)

    def _retrieval_is_due(self, completed: int, epochs: int) -> bool:
        every = self._recipe.reporting.val_frequency
        return self._manifest is not None and every > 0 and (completed % every == 0 or completed == epochs)

    def _zero_shot_is_due(self, completed: int, epochs: int) -> bool:
        every = self._recipe.reporting.zeroshot_frequency
        return bool(self._imagenet) and every > 0 and (completed % every == 0 or completed == epochs)

    def run(self, built: BuiltModel, completed: int, epochs: int) -> dict[str, float]:
        """Scores by open_clip's names; fractions, and ranks from 1."""
        built.model.eval()
        scores: dict[str, float] = {}
        with torch.inference_mode():
            if self._zero_shot_is_due(completed, epochs):
                scores |= self._zero_shot(built)
            if self._retrieval_is_due(completed, epochs):
                scores |= self._retrieval(built)
        return scores

    def _zero_shot(self, built: BuiltModel) -> dict[str, float]:
        with self._autocast():
            classifier = build_zero_shot_classifier(
                built.model,
                built.tokenizer,
                IMAGENET_CLASSNAMES,
                OPENAI_IMAGENET_TEMPLATES,
                10,
                self._device,
                use_tqdm=True,
            )
        transform = image_transform_v2(PreprocessCfg(**built.preprocess_cfg), is_train=False)
        hits = np.zeros(2)
        seen, total = 0, 0
        for batch in tqdm(self._images(transform), "imagenet-val", leave=False):
            total += len(batch)
            read = [sample for sample in batch if sample is not None]
            if not read:
                continue
            images, classes = (torch.stack(each) for each in zip(*read, strict=True))
            with self._autocast():
                features = built.model.encode_image(images.to(self._device, self._input_dtype), normalize=True)
                best = (features @ classifier).topk(5).indices.cpu()
            right = best == classes[:, None]
            hits += (right[:, 0].sum().item(), right.any(1).sum().item())
            seen += len(classes)
        if not seen:
            raise UserError(f"--imagenet-val {self._imagenet}: none of {total} images can be read")
        if seen < total:
            log.warning(f"--imagenet-val: {total - seen} of {total} images cannot be read, and are left out")
        return {"imagenet-zeroshot-val-top1": hits[0] / seen, "imagenet-zeroshot-val-top5": hits[1] / seen}

    def _images(self, transform) -> DataLoader:
        assert self._imagenet is not None
        data = self._recipe.data
        folders = _ClassFolders(Path(self._imagenet), transform)
        return DataLoader(folders, batch_size=data.batch_size, num_workers=data.workers, collate_fn=list)

    def _retrieval(self, built: BuiltModel) -> dict[str, float]:
        images, texts, losses = [], [], []
        for image_batch, text_batch in self._pairs(built):
            with self._autocast():
                output = built.model(image_batch, text_batch)
            images.append(output["image_features"].float().cpu())
            texts.append(output["text_features"].float().cpu())
            losses.append(
                (_contrastive_loss(images[-1], texts[-1], output["logit_scale"].float().cpu()), len(texts[-1]))
            )
        count = sum(size for _, size in losses)
        loss = sum(value * size for value, size in losses) / count
        scores = retrieval_scores(torch.cat(images), torch.cat(texts))
        return {**scores, "clip_val_loss": loss, "num_samples": count}

    def _pairs(self, built: BuiltModel) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        assert self._manifest is not None
        data = self._recipe.data
        transform = eval_transform(built.preprocess_cfg)
        normalize = Normalize(transform.mean, transform.std, self._input_dtype).to(self._device)
        pairs = _Pairs(self._manifest, transform, self._recipe.reporting.val_num_samples)
        loader = DataLoader(pairs, batch_size=data.batch_size, num_workers=data.workers, collate_fn=list)
        for samples in tqdm(loader, "val-data", leave=False):
            if error := next((sample for sample in samples if isinstance(sample, UserError)), None):
                raise error
            kept = [sample for sample in samples if sample is not None]
            if kept:
                images, captions = zip(*kept, strict=True)
                texts = built.tokenizer(list(captions)).to(self._device)
                yield normalize(torch.stack(images).to(self._device)), texts


class _ClassFolders(Dataset):
    """Transformed images, and their folders' positions in the order of names; None for one that cannot be read."""

    def __init__(self, root: Path, transform: Callable) -> None:
        folders = enumerate(visible_folders(root))
        self._files = [(file, label) for label, folder in folders for file in list_images(folder).images]
        self._transform = transform

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor] | None:
        file, label = self._files[index]
        try:
            return self._transform(decode_pil(file.read_bytes())), torch.tensor(label)
        except (OSError, DecodeError):
            return None


class _Pairs(Dataset):
    """Image and caption of every sample of a manifest in order; None for one that does not decode.

    A `UserError` is given, not raised: a reader process would wrap it in its own traceback.
    """

    def __init__(self, manifest: Manifest, transform: EvalTransform, limit: int | None) -> None:
        self._manifest, self._transform = manifest, transform
        self._ends = np.cumsum(manifest.shard_size)
        self._count = min(limit or manifest.num_samples, manifest.num_samples)
        self._open: Callable[[int], ShardRows] | None = None

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> tuple[torch.Tensor, str] | UserError | None:
        self._open = self._open or lru_cache(16)(self._manifest.open_shard)
        shard = int(np.searchsorted(self._ends, index, side="right"))
        try:
            rows, row = self._open(shard), int(index - (self._ends[shard - 1] if shard else 0))
            caption = rows.read_caption(row)
            return (self._transform(rows.read_image(row))[0], caption) if caption else None
        except DecodeError:
            return None
        except UserError as error:
            return error


def retrieval_scores(images: torch.Tensor, texts: torch.Tensor, block: int = 4096) -> dict[str, float]:
    """Mean and median rank and recall at 1, 5 and 10 of each pair among all, both ways; [N, D] features.

    Works in blocks of rows, so memory is block x N. A tie counts against the pair.
    """
    scores: dict[str, float] = {}
    for name, queries, gallery in (("image_to_text", images, texts), ("text_to_image", texts, images)):
        ranks = []
        for start in range(0, len(queries), block):
            similarity = queries[start : start + block] @ gallery.T
            own = similarity.diagonal(start)[:, None]
            ranks.append((similarity >= own).sum(1))
        rank = torch.cat(ranks).double()
        scores[f"{name}_mean_rank"] = rank.mean().item()
        scores[f"{name}_median_rank"] = float(np.floor(np.median(rank.numpy())))
        scores |= {f"{name}_R@{k}": (rank <= k).double().mean().item() for k in (1, 5, 10)}
    return scores


def check_imagenet(path: str) -> None:
    """`UserError` unless the folder has ImageNet's 1,000 WordNet ids, whose order is that of open_clip's classes."""
    if not os.path.isdir(path):
        raise UserError(f"--imagenet-val {path} is not a directory")
    names = [folder.name for folder in visible_folders(Path(path))]
    if len(names) != len(IMAGENET_CLASSNAMES):
        raise UserError(f"--imagenet-val {path} has {len(names)} class folders, not {len(IMAGENET_CLASSNAMES)}")
    if other := [name for name in names if not re.fullmatch("n[0-9]+", name)]:
        raise UserError(
            f"--imagenet-val {path}: the folder {other[0]} is no WordNet id (n01440764), so its class is not known; "
            "name the folders by their ids, or score the set with mcl-zero-shot and --classnames"
        )


def _contrastive_loss(images: torch.Tensor, texts: torch.Tensor, logit_scale: torch.Tensor) -> float:
    logits = logit_scale.mean() * images @ texts.T
    labels = torch.arange(len(logits))
    return ((F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2).item()
