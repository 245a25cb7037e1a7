"""MMVP-VLM as published (Tong et al., arXiv 2401.06209): Questions.csv and images in folders by Type."""

import csv
from dataclasses import dataclass
from pathlib import Path

from eval.data.hub import said_once
from mcl_clip.errors import UserError

REPOSITORY = "MMVP/MMVP_VLM"
REVISION = "211372d5357398f914d806d07dc305aea1f257d2"
COLUMNS = ("Question ID", "Type", "Statement")
FOLDERS = ("MLLM_VLM Images", "MMVP_VLM_Images", "MLLM_VLM_Images", "MMVP_VLM Images")
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")


@dataclass(frozen=True)
class MMVPPair:
    """Two images and two statements; statement i belongs to image i. `type` is written with spaces."""

    type: str
    ids: tuple[int, int]
    statements: tuple[str, str]
    images: tuple[Path, Path]


def read_pairs(directory: str | Path) -> list[MMVPPair]:
    """Pairs (odd id, even id) in order of their ids; any row order, byte-order mark, blank lines and subsets.

    Raises `UserError` on other columns, half a pair, a pair of two Types, a repeated id or an absent image.
    """
    directory = Path(directory)
    rows = _read_rows(directory / "Questions.csv")
    folder = next((directory / name for name in FOLDERS if (directory / name).is_dir()), None)
    if folder is None:
        raise UserError(f"--data {directory} has no image folder; expected one of {', '.join(FOLDERS[:2])}")
    pairs = []
    for first in sorted(number for number in rows if number % 2):
        second = first + 1
        if second not in rows:
            raise UserError(f"question {first} in {directory / 'Questions.csv'} lacks its partner {second}")
        (kind, statement), (other_kind, other_statement) = rows[first], rows[second]
        if kind != other_kind:
            raise UserError(f"questions {first} and {second} are a pair but of Types {kind} and {other_kind}")
        images = _image(folder, kind, first), _image(folder, kind, second)
        pairs.append(MMVPPair(kind, (first, second), (statement, other_statement), images))
    lonely = sorted(number for number in rows if number % 2 == 0 and number - 1 not in rows)
    if lonely:
        raise UserError(f"question {lonely[0]} in {directory / 'Questions.csv'} lacks its partner {lonely[0] - 1}")
    if not pairs:
        raise UserError(f"{directory / 'Questions.csv'} holds no questions")
    return pairs


def download() -> Path:
    """Fetch the pinned revision from the Hugging Face hub; `UserError` when there is no network."""
    from huggingface_hub import snapshot_download

    try:
        with said_once():
            return Path(snapshot_download(REPOSITORY, repo_type="dataset", revision=REVISION))
    except Exception as error:
        raise UserError(
            f"{REPOSITORY} at {REVISION[:8]} cannot be fetched ({type(error).__name__}); "
            "check the network, or fetch it elsewhere and name its folder with --data"
        ) from None


def _read_rows(path: Path) -> dict[int, tuple[str, str]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = "does not exist" if isinstance(error, FileNotFoundError) else f"cannot be read ({error})"
        raise UserError(f"{path} {reason}; --data names the folder that holds Questions.csv") from None
    lines = [row for row in csv.reader(text.splitlines()) if any(cell.strip() for cell in row)]
    header = [cell.strip() for cell in lines[0]] if lines else []
    if not set(COLUMNS) <= set(header):
        raise UserError(f"{path} has the columns {', '.join(header) or 'none'}; MMVP-VLM has {', '.join(COLUMNS)}")
    places = [header.index(column) for column in COLUMNS]
    rows: dict[int, tuple[str, str]] = {}
    for row in lines[1:]:
        if len(row) <= max(places):
            raise UserError(f"{path}: the row {','.join(row)[:60]!r} has too few columns")
        number, kind, statement = (row[place].strip() for place in places)
        if not number.isascii() or not number.isdigit():
            raise UserError(f"{path}: the Question ID {number[:20]!r} is not a number")
        if int(number) in rows:
            raise UserError(f"{path}: question {number} occurs twice")
        rows[int(number)] = (" ".join(kind.replace("_", " ").split()), statement)
    return rows


def _image(folder: Path, kind: str, number: int) -> Path:
    """The image of a question; only names of real entries are compared, so a Type cannot leave the folder."""
    directory = next(
        (each for each in sorted(folder.iterdir()) if each.is_dir() and each.name.replace("_", " ") == kind), None
    )
    if directory is None:
        raise UserError(f"{folder} has no folder for the Type {kind}")
    for suffix in SUFFIXES:
        path = directory / f"{number}{suffix}"
        if path.is_file():
            return path
    raise UserError(f"{directory} has no image of question {number} ({number}.jpg)")
