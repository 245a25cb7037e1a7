"""mcl-fuse: stages in, one model out."""

import argparse
import json
from pathlib import Path

import yaml

from mcl_clip.artifacts import read_json
from mcl_clip.errors import UserError, exit_on_user_error
from mcl_clip.fusion.combine import FUSIONS
from mcl_clip.fusion.files import extract_stage, save_fused
from mcl_clip.fusion.load import fuse
from mcl_clip.fusion.output import check_output
from mcl_clip.launch import one_process


@exit_on_user_error
@one_process
def main(arguments: list[str] | None = None) -> int:
    """Fuse stages, or take a fused model apart."""
    options = _parser().parse_args(arguments)
    if not options.split:
        check_output(options.output)
    card = _card(options)
    model = fuse(
        options.stages,
        options.fusion,
        options.weights,
        card,
        pretrained=options.pretrained,
        architecture=options.model,
        quick_gelu=options.force_quick_gelu,
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
    model = model.collapse() if options.collapse else model
    save_fused(model, options.output)
    image, text = model.sharing["image"], model.sharing["text"]
    print(
        f"{options.output}: {model.num_stages} stages, embedding size {model.visual.output_dim}; "
        f"blocks that run: {image['steps']} of {image['separate']} for images, "
        f"{text['steps']} of {text['separate']} for texts"
    )
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mcl-fuse",
        description="Fuse the stages of multistage contrastive learning into one CLIP. "
        "Blocks that stages share run once and are stored once.",
        epilog="example: mcl-fuse runs/NAME/stage_0 runs/NAME/stage_1 --output fused",
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
        "mean-cosine: the cosine is the mean of the stages' cosines",
    )
    add("--weights", type=float, nargs="+", help="one a stage, for mean-cosine")
    add("--select", type=int, nargs="+", help="fuse only these stages, in this order, counted from 0")
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
