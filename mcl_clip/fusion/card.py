"""The model card of a fused model: YAML that the hub reads, and a page that people read."""

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

TASKS = {"CLIP": "zero-shot-image-classification", "image model": "image-feature-extraction"}
TAGS = {"CLIP": ["clip", "open_clip"], "image model": ["timm"]}


def card_text(config: Mapping[str, Any], model: Any) -> str:
    """README.md of a fused model. `config` is its `mcl_config.json`, whose `card` may hold

    `name`, `license` (the hub's identifier), `base_model` (a hub name), `recipe` (flags of the training), and
    `scores` (rows {dataset, model, task, metrics}, as the evaluation writes them; they become `model-index`).
    """
    card = config["card"]
    kind = "CLIP" if "text" in model.sharing else "image model"
    name = card.get("name", f"Fused multistage {kind}")
    sources = [stage["source"] for stage in config["stages"]]
    license_name = card.get("license", "other")
    front: dict[str, Any] = {
        "tags": [*TAGS[kind], "mcl", "multistage-contrastive-learning", TASKS[kind]],
        "license": license_name,
        "library_name": "mcl_clip",
    }
    if license_name == "other":
        front["license_name"] = "see-base-model"
    front["pipeline_tag"] = TASKS[kind]
    if base := card.get("base_model"):
        front["base_model"] = base
    if scores := card.get("scores"):
        front["model-index"] = model_index(scores)
    lines = [
        "---",
        yaml.safe_dump(front, sort_keys=False, allow_unicode=True).strip(),
        "---",
        f"# {name}",
        "",
    ]
    lines += [
        f"{model.num_stages} stages of multistage contrastive learning "
        "([arXiv 2402.11816](https://arxiv.org/abs/2402.11816)) as one {kind} "
        f"(fusion: {config['fusion']}{', collapsed' if config['collapsed'] else ''}; "
        f"embedding size {model.visual.output_dim}).",
        "",
        "```python",
        "import mcl_clip",
        "model, preprocess, tokenizer = mcl_clip.load(PATH)",
        "```",
        "",
        f"Base model: {base or sources[0] or 'not stated'}.",
        "",
        "| stage | from | embedding size | weight |",
        "|---|---|---|---|",
    ]
    weights = config["weights"] or [1] * model.num_stages
    for number, (source, dim, weight) in enumerate(zip(sources, model.dims, weights, strict=True)):
        lines.append(f"| {number} | {source or 'not stated'} | {dim} | {weight:g} |")
    if fit := card.get("fit"):
        lines += ["", *_fit_lines(fit)]
    for tower, steps in model.sharing.items():
        lines += [
            "",
            f"{tower.capitalize()} side: {steps['steps']} blocks run for {steps['separate']} of the stages.",
        ]
    if recipe := card.get("recipe"):
        lines += [
            "",
            "## Recipe",
            "",
            "```yaml",
            yaml.safe_dump(dict(recipe), sort_keys=False).strip(),
            "```",
        ]
    if scores:
        lines += [
            "",
            "## Scores",
            "",
            "| model | data set | task | metric | value |",
            "|---|---|---|---|---|",
        ]
        lines += [
            f"| {row['model']} | {row['dataset']} | {row['task']} | {metric} | {value:.4f} |"
            for row in scores
            for metric, value in _numbers(row["metrics"])
        ]
    return "\n".join(lines) + "\n"


def model_index(scores: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The hub's `model-index` of score rows: one entry a model, one result a data set and task."""
    index: dict[str, list] = {}
    for row in scores:
        metrics = [{"type": metric, "value": value} for metric, value in _numbers(row["metrics"])]
        task = {"type": row["task"].replace("zeroshot_classification", "zero-shot-image-classification")}
        dataset = {"name": row["dataset"], "type": row["dataset"]}
        index.setdefault(str(row["model"]), []).append({"task": task, "dataset": dataset, "metrics": metrics})
    return [{"name": name, "results": results} for name, results in index.items()]


def _fit_lines(fit: Mapping[str, Any]) -> list[str]:
    """What the weights were fitted on, and what they gain there."""
    labels, apart = fit["pseudo_labels"], fit["set_apart"]
    negatives = f"of one of {labels} pseudo-labels" if labels > 1 else "from anywhere"
    said = [
        f"Weights fitted on {fit['pairs']} pairs of {fit['on']}, with negatives {negatives}: loss "
        f"{fit['loss_equal_weights']:.4f} with equal weights, {fit['loss_fitted']:.4f} with these, "
        f"{min(fit['loss_alone']):.4f} of stage {fit['best_stage']} alone, the best.",
        "Scores on these pairs would flatter the model.",
    ]
    if apart:
        said.insert(1, f"They are of {apart['samples']} samples set apart from all training: {apart['by']}.")
    if kept := fit.get("stages_kept"):
        numbers = ", ".join(map(str, kept))
        said.append(f"Of the stages fitted, {numbers} are kept here: their weights are renormalised, not fitted anew.")
    if fit["stage_0_pretrained"]:
        said.append("Stage 0 is pretrained: it may have seen them.")
    return [" ".join(said)]


def _numbers(metrics: Mapping[str, Any]) -> list[tuple[str, float]]:
    return [(name, float(value)) for name, value in metrics.items() if isinstance(value, int | float)]
