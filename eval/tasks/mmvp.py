"""MMVP-VLM: of two images that differ in one visual pattern, does each text pick its own?"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from eval.data.images import Sample, file_sample
from eval.data.mmvp import MMVPPair
from eval.embedding import embed_all_images, embed_texts
from eval.intervals import bootstrap_mean, bootstrap_mean_of_groups, paired_difference, share_interval
from eval.models import ScoredModel
from eval.rows import row_embedding, rows_of
from eval.scores import result
from eval.tasks.pair_choices import as_words
from eval.tasks.pair_similarities import PairSimilarities, mean_of_groups, pair_similarities

TASK = "mmvp_vlm"
PROMPT = "a photo of "
CHANCE = 0.25


def evaluate(
    scored: ScoredModel,
    pairs: Sequence[MMVPPair],
    *,
    dataset: str = "mmvp_vlm",
    revision: str = "",
    prompt: str = PROMPT,
    batch_size: int = 64,
    progress: bool = False,
) -> list[dict[str, Any]]:
    """Score every row of the model on `pairs` (see `read_pairs`), in one pass over the images.

    A pair counts when both texts, each with the prompt before it, pick their own image. Metrics, as fractions:
    pair_accuracy (mean of the Types), pair_accuracy/{Type}, text_accuracy, same_image_rate, image_similarity and
    text_similarity inside pairs, chance, n_pairs; after the first row also gain and gain/{Type} over it (see `gains`).
    Beside them stand the choices on every pair (see `pair_choices`).
    `intervals` holds the 95 % interval of each, of the mean of several Types by bootstrap. `revision` names the
    published data, else they are named by their content.
    """
    scores, content = score_rows(scored, pairs, prompt=prompt, batch_size=batch_size, progress=progress)
    return results(scored, pairs, scores, dataset=dataset, revision=revision or content, prompt=prompt)


def results(
    scored: ScoredModel,
    pairs: Sequence[MMVPPair],
    scores: dict[str, PairSimilarities],
    *,
    dataset: str = "mmvp_vlm",
    revision: str,
    prompt: str = PROMPT,
) -> list[dict[str, Any]]:
    """The scores file's rows from the similarities."""
    record = scored.record() | {"data_revision": revision, "prompt": prompt}
    base = next(iter(scores.values()))
    made = []
    for name, each in scores.items():
        metrics, intervals = pair_metrics(each, pairs)
        if each is not base:
            gained, ends = gains(each, base, pairs)
            metrics, intervals = metrics | gained, intervals | ends
        choices = as_words(pairs, each.choices)
        made.append(
            result(
                scored,
                name,
                dataset=dataset,
                task=TASK,
                metrics=metrics,
                intervals=intervals,
                record=record | choices,
            )
        )
    return made


@torch.inference_mode()
def score_rows(
    scored: ScoredModel,
    pairs: Sequence[MMVPPair],
    *,
    prompt: str = PROMPT,
    batch_size: int = 64,
    progress: bool = False,
) -> tuple[dict[str, PairSimilarities], str]:
    """Similarities of all pairs for every row of the model, and the content hash of the pairs."""
    samples = samples_of(pairs)
    texts = embed_texts(scored, [prompt + statement for pair in pairs for statement in pair.statements])
    stages, _, content = embed_all_images(scored, samples, len(samples), batch_size=batch_size, progress=progress)
    scores = {
        row.name: pair_similarities(row_embedding(scored.model, row, stages), row_embedding(scored.model, row, texts))
        for row in rows_of(scored.model)
    }
    return scores, content


def samples_of(pairs: Sequence[MMVPPair]) -> list[Sample]:
    """The images of all pairs, labelled by Type and statement."""
    return [
        file_sample(path, f"{pair.type}/{statement}")
        for pair in pairs
        for path, statement in zip(pair.images, pair.statements, strict=True)
    ]


def pair_metrics(scores: PairSimilarities, pairs: Sequence[MMVPPair]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(metrics, intervals) of `evaluate` from the similarities, gains aside."""
    types = [pair.type for pair in pairs]
    hits = scores.pair_correct
    by_type = mean_of_groups(hits, types)
    simple = {
        "text_accuracy": (scores.correct.mean(1), bootstrap_mean),
        "same_image_rate": (scores.same_image, share_interval),
        "image_similarity": (scores.images, bootstrap_mean),
        "text_similarity": (scores.texts, bootstrap_mean),
    }
    metrics = {
        "pair_accuracy": float(np.mean(list(by_type.values()))),
        **{name: float(values.mean()) for name, (values, _) in simple.items()},
        "chance": CHANCE,
        "n_pairs": len(pairs),
        **{f"pair_accuracy/{name}": value for name, value in by_type.items()},
    }
    intervals = {
        "pair_accuracy": share_interval(hits) if len(by_type) == 1 else bootstrap_mean_of_groups(hits, types),
        **{name: interval(values) for name, (values, interval) in simple.items()},
        **{f"pair_accuracy/{name}": share_interval(hits[_members(types, name)]) for name in by_type},
    }
    return metrics, intervals


def gains(
    scores: PairSimilarities, base: PairSimilarities, pairs: Sequence[MMVPPair]
) -> tuple[dict[str, float], dict[str, tuple[float, float]]]:
    """(metrics, intervals): gain (mean of the Types) and gain/{Type}, pair accuracy above stage 0's on the same pairs.

    Intervals are paired: see `paired_difference`; of the mean of several Types each pair's difference is redrawn.
    """
    types = [pair.type for pair in pairs]
    before, after = base.pair_correct, scores.pair_correct
    by_type = mean_of_groups(after - before, types)
    metrics = {"gain": float(np.mean(list(by_type.values())))}
    one = len(by_type) == 1
    intervals = {"gain": paired_difference(before, after) if one else bootstrap_mean_of_groups(after - before, types)}
    for name, value in by_type.items():
        members = _members(types, name)
        metrics[f"gain/{name}"] = value
        intervals[f"gain/{name}"] = paired_difference(before[members], after[members])
    return metrics, intervals


def _members(types: Sequence[str], name: str) -> np.ndarray:
    return np.array([each == name for each in types])
