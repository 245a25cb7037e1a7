"""mcl-compare: two models on the same pairs, from their scores files: what was gained and lost, and how certainly."""

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from eval.command import new_parser
from eval.data.images import content_hash, digest_of, read
from eval.data.mmvp import MMVPPair, read_pairs
from eval.report.pair_page import p_text, signed, write_page
from eval.scores import lay_out, percent, read_scores
from eval.tasks.comparison import Comparison, compare
from eval.tasks.mmvp import samples_of
from eval.tasks.pair_choices import Choices, from_result
from mcl_clip.artifacts import write_json
from mcl_clip.errors import UserError, exit_on_user_error
from mcl_clip.launch import one_process

EXAMPLES = (
    "mcl-compare runs/demo/scores/mmvp.json --rows stage_0 fused --data runs/demo-data/mmvp --html runs/demo-diff.html",
    "mcl-compare runs/demo/scores/mmvp.json runs/demo/scores/mmvp.json --rows stage_1 stage_2 --data "
    "runs/demo-data/mmvp --output runs/demo-diff.json",
)


@exit_on_user_error
@one_process
def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    parser = new_parser(
        "mcl-compare",
        EXAMPLES,
        "Compare two models, or two rows of one, on the pairs of mcl-mmvp: pairs gained and lost, the difference with "
        "Newcombe's paired interval, McNemar's exact test, and a page with the images.",
    )
    parser.add_argument("scores", nargs="+", type=Path, help="one or two files of mcl-mmvp --output or mcl-eval")
    parser.add_argument("--rows", nargs=2, metavar=("A", "B"), help="of each file (default: the last, fused)")
    parser.add_argument("--data", type=Path, required=True, help="folder of the pairs, as for mcl-mmvp")
    parser.add_argument("--output", help="write the comparison as JSON")
    parser.add_argument("--html", help="write a self-contained page: gained and lost, by Type, with the images")
    parser.add_argument("--markdown", action="store_true", help="print the table as markdown")
    args = parser.parse_args(argv)
    first, second = sides = _sides(args.scores, args.rows)
    pairs = _pairs(args.data, sides)
    types = [pair.type for pair in pairs]
    found = compare(first.choices.pair_right, second.choices.pair_right, types)
    names = [side.choices.name for side in sides]
    header = ["Type", "pairs", *names, "gained", "lost", "difference", "95 % interval", "p"]
    print(lay_out(header, [_line(each) for each in found], args.markdown))
    if args.output:
        said = [{"file": str(side.path), "model": side.row, "source": side.source} for side in sides]
        write_json(args.output, {"first": said[0], "second": said[1], "types": [asdict(each) for each in found]})
    if args.html:
        lead = " and ".join(f"{side.choices.name} of {side.source}" for side in sides)
        write_page(args.html, pairs, first.choices, second.choices, f"{lead}.")
    return 0


@dataclass(frozen=True)
class Side:
    """One row of one scores file."""

    path: Path
    row: str
    source: str
    revision: str
    choices: Choices


def _sides(paths: Sequence[Path], rows: Sequence[str] | None) -> tuple[Side, Side]:
    if len(paths) > 2:
        raise UserError(f"{len(paths)} scores files are given; mcl-compare takes one or two")
    if len(paths) == 1 and rows is None:
        raise UserError("one scores file holds both models only by their rows; name two with --rows A B")
    files = {path: read_scores(path) for path in paths}
    first, second = paths[0], paths[-1]
    names = rows or [files[path][-1]["model"] for path in (first, second)]
    marks = ("A: ", "B: ") if names[0] == names[1] else ("", "")
    one, other = (
        _side(path, files[path], row, mark) for path, row, mark in zip((first, second), names, marks, strict=True)
    )
    if one.choices.ids != other.choices.ids or one.revision != other.revision:
        raise UserError(f"{first} and {second} were scored on different pairs; score both models on the same data")
    return one, other


def _side(path: Path, results: Sequence[dict[str, Any]], row: str, mark: str) -> Side:
    found = next((each for each in results if each["model"] == row), None)
    if found is None:
        raise UserError(f"--rows: {path} has no row {row} but {', '.join(each['model'] for each in results)}")
    choices = from_result(found, f"{mark}{row}", str(path))
    return Side(path, row, found.get("source", ""), found.get("data_revision", ""), choices)


def _pairs(directory: Path, sides: Sequence[Side]) -> list[MMVPPair]:
    """The pairs that were scored, in their order; `UserError` where the folder holds others."""
    known = {pair.ids: pair for pair in read_pairs(directory)}
    wanted = sides[0].choices.ids
    if absent := [ids for ids in wanted if ids not in known]:
        raise UserError(f"--data {directory} has no questions {absent[0][0]} and {absent[0][1]}, which were scored")
    pairs = [known[ids] for ids in wanted]
    revision = sides[0].revision
    if revision.startswith("sha256:"):
        content = content_hash([digest_of(sample, read(sample)) for sample in samples_of(pairs)])
        if content != revision:
            raise UserError(f"--data {directory} is not what {sides[0].path} was scored on; its texts or images differ")
    return pairs


def _line(each: Comparison) -> list[str]:
    shares = [percent(count / each.pairs) for count in (each.first, each.second)]
    ends = " to ".join(map(signed, each.interval))
    return [
        each.type,
        str(each.pairs),
        *shares,
        str(each.won),
        str(each.lost),
        signed(each.difference),
        ends,
        p_text(each.p_value),
    ]


if __name__ == "__main__":
    sys.exit(main())
