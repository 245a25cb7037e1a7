"""mcl-fuse: stages in, one model out."""

import argparse
import json
import sys
import tempfile
from pathlib import Path

import yaml

from mcl_clip.artifacts import check_place, read_json
from mcl_clip.clustering.clusters import Clusters
from mcl_clip.errors import UserError, exit_on_user_error
from mcl_clip.fusion.combine import FUSIONS
from mcl_clip.fusion.files import extract_stage, public, save_fused
from mcl_clip.fusion.fit_pairs import fit_fusion, told
from mcl_clip.fusion.fused_images import FusedImages
from mcl_clip.fusion.fused_model import FusedCLIP
from mcl_clip.fusion.load import fuse
from mcl_clip.fusion.output import check_output
from mcl_clip.help_text import with_examples
from mcl_clip.launch import one_process
from mcl_clip.models.image_model import OUTPUTS
from mcl_clip.models.stage_model import is_stage, model_hash
from training.arrows.source import open_or_index
from training.ranks import Ranks
from training.run_directory import began_anew


@exit_on_user_error
@one_process
def main(arguments: list[str] | None = None) -> int:
    """Fuse stages, or take a fused model apart."""
    options = _parser().parse_args(arguments)
    if options.split:
        check_place("--output", options.output, directory=True)
    else:
        check_output(options.output)
    _check_fit(options)
    card = _card(options)
    model = fuse(
        options.stages,
        "concat" if options.fusion == "fitted" else options.fusion,
        options.weights,
        card,
        pretrained=options.pretrained,
        architecture=options.model,
        quick_gelu=options.force_quick_gelu,
        output=options.on,
    )
    if options.select is not None:
        model = model.subset(options.select)
    if options.split:
        folders = [Path(options.output) / f"stage_{number}" / "model" for number in range(model.num_stages)]
        if existing := next((folder for folder in folders if folder.exists()), None):
            raise UserError(f"{existing} exists: name another --output, nothing is written over")
        for number, folder in enumerate(folders):
            extract_stage(model, number, folder)
        print(f"{options.output}: {model.num_stages} stages for open_clip, stage_N/model each")
        return 0
    if options.fusion == "fitted":
        model = _fitted(_with_texts(model, "--fusion fitted"), options)
    if options.collapse:
        model = _with_texts(model, "--collapse").collapse()
    save_fused(model, options.output)
    blocks = (f"{each['steps']} of {each['separate']} for {tower}s" for tower, each in model.sharing.items())
    print(
        f"{options.output}: {model.num_stages} stages, embedding size {model.visual.output_dim}; "
        f"blocks that run: {', '.join(blocks)}"
    )
    return 0


def _with_texts(model: FusedImages, flag: str) -> FusedCLIP:
    if not isinstance(model, FusedCLIP):
        raise UserError(f"{flag} is for stages with a text tower; these embed images alone")
    return model


def _check_fit(options: argparse.Namespace) -> None:
    if options.fusion != "fitted" and options.fit_on:
        raise UserError("--fit-on belongs to --fusion fitted")
    if options.fusion == "fitted":
        if not options.fit_on:
            raise UserError("--fusion fitted needs --fit-on: pairs that no stage was trained on")
        if options.weights:
            raise UserError("--weights belong to --fusion mean-cosine; --fusion fitted finds its own")
        if options.split:
            raise UserError("--fusion fitted fuses, --split takes apart: leave one out")
        if options.fit_pairs < 1:
            raise UserError(f"--fit-pairs {options.fit_pairs} is not above 0")
        if options.workers < 0:
            raise UserError(f"--workers is {options.workers}; give 0 or more decoding processes")


def _fitted(model: FusedCLIP, options: argparse.Namespace) -> FusedCLIP:
    """The model under weights fitted on --fit-on, which is indexed for that where it is tars."""
    with tempfile.TemporaryDirectory() as index:
        data = open_or_index(
            options.fit_on,
            Path(index) / "source",
            Ranks(),
            caption_key=options.mcl_caption_key,
            workers=options.workers,
            flag="--fit-on",
        )
        fitted = fit_fusion(
            model,
            data,
            Path(index) / "fit",
            named=public(options.fit_on),
            clusters=_clusters(options),
            pretrained=not _began_anew(options),
            pairs=options.fit_pairs,
            seed=options.seed,
            workers=options.workers,
            progress=sys.stderr.isatty(),
        )
    print(told(fitted))
    return fitted


def _began_anew(options: argparse.Namespace) -> bool:
    first = Path(options.stages[0])
    return any(began_anew(folder) for folder in (first / "model", first) if is_stage(folder))


def _clusters(options: argparse.Namespace) -> list[Clusters | None]:
    """The clusters that stand beside each stage's model, as a run leaves them; none where sources are not just stages.

    `UserError` when they were made from another model.
    """
    found: list[Clusters | None] = []
    for source in map(Path, options.stages):
        models = [folder for folder in (source / "model", source) if is_stage(folder)]
        if not models:
            return []
        place = models[0].parent / "clusters"
        clusters = Clusters.load(place) if (place / "clusters.json").is_file() else None
        if clusters and clusters.model_hash != model_hash(models[0]):
            raise UserError(f"{place} was made from another model than {models[0]}; delete it, or cluster again")
        found.append(clusters)
    return found if options.select is None else [found[stage] for stage in options.select]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mcl-fuse",
        description=with_examples(
            (
                "mcl-fuse runs/demo/stage_0 runs/demo/stage_1 --output runs/demo-fused",
                "mcl-fuse runs/demo/stage_0 runs/demo/stage_2 --fusion mean-cosine --output runs/demo-mean",
            ),
            "Fuse the stages of multistage contrastive learning into one CLIP. Blocks that stages share run once and "
            "are stored once.",
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "stages",
        nargs="+",
        metavar="STAGE",
        help="in order: a stage directory, a fused directory (all its stages), hf-hub:OWNER/NAME, "
        "an open_clip name (with --pretrained) or a checkpoint file (with --model)",
    )
    add("--output", required=True, help="directory of the fused model")
    add(
        "--mcl-fusion",
        "--fusion",
        dest="fusion",
        choices=FUSIONS,
        default="concat",
        help="concat: raw embeddings side by side, as published (default); "
        "mean-cosine: the cosine is the mean of the stages' cosines; "
        "fitted: their weighted mean, by weights fitted on --fit-on",
    )
    add(
        "--fit-on",
        metavar="DATA",
        help="for fitted: pairs that no stage was trained on and that nothing is scored on; tars (a path, brace "
        "pattern, glob or directory) or a directory with a manifest.json, of which those that it sets apart, if any "
        "(runs/NAME/source)",
    )
    add("--fit-pairs", type=int, default=8192, help="for fitted: most pairs to take, by hash of their keys (8192)")
    add("--mcl-caption-key", "--caption-key", help="for fitted: captions from this key of .json, not from .txt")
    add("--workers", type=int, default=0, help="for fitted: decoding processes (default 0)")
    add("--seed", type=int, default=0, help="for fitted: which pairs, and their clusters (default 0)")
    add("--weights", type=float, nargs="+", help="one a stage, for mean-cosine")
    add("--select", type=int, nargs="+", help="fuse only these stages, in this order, counted from 0")
    add("--on", choices=OUTPUTS, help="of stages of images alone: fuse the backbone's features, or the projections")
    add("--collapse", action="store_true", help="one stage's embedding size; needs a shared text tower")
    add("--split", action="store_true", help="instead write each stage as OUTPUT/stage_N/model for open_clip")
    add("--model", help="open_clip's name of the architecture of checkpoint files")
    add("--pretrained", help="tag or checkpoint of open_clip names, one for all or one a name by comma")
    add("--force-quick-gelu", action="store_true", help="for checkpoints that began as OpenAI's models")
    add("--name", help="model card: title")
    add("--license", help="model card: the hub's identifier of a license")
    add("--base-model", help="model card: the base model's name on the hub")
    add("--recipe", help="model card: a YAML file, for example runs/NAME/recipe.yaml")
    add("--scores", nargs="+", default=[], help="model card: files of mcl-zero-shot and mcl-mmvp")
    return parser


def _card(options: argparse.Namespace) -> dict:
    card = {"name": options.name, "license": options.license, "base_model": options.base_model}
    card = {key: value for key, value in card.items() if value}
    if options.recipe:
        try:
            card["recipe"] = yaml.safe_load(Path(options.recipe).read_text())
        except (OSError, yaml.YAMLError) as error:
            raise UserError(f"--recipe {options.recipe} cannot be read ({str(error).splitlines()[0]})") from None
        if not isinstance(card["recipe"], dict):
            raise UserError(f"--recipe {options.recipe} holds no names with values")
    rows = [row for path in options.scores for row in _rows(path)]
    try:
        return json.loads(json.dumps(card | ({"scores": rows} if rows else {}), default=str, allow_nan=False))
    except ValueError:
        raise UserError("--scores or --recipe hold a number that is not finite, which JSON has no word for") from None


def _rows(path: str) -> list[dict]:
    rows = read_json(path)
    rows = rows if isinstance(rows, list) else [rows]
    if not rows or not all(map(_is_row, rows)):
        raise UserError(f"--scores {path} holds no rows of {{dataset, model, task, metrics}}")
    return rows


def _is_row(row: object) -> bool:
    return (
        isinstance(row, dict)
        and {"dataset", "model", "task", "metrics"} <= row.keys()
        and isinstance(row["metrics"], dict)
        and isinstance(row["task"], str)
    )


if __name__ == "__main__":
    raise SystemExit(main())
