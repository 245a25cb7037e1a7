"""MMVP-VLM as published (Tong et al., arXiv 2401.06209), and sets like it: Questions.csv and images by Type."""

import csv
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from eval.data.hub import said_once
from mcl_clip.errors import UserError
from mcl_clip.loading.class_folders import visible_folders

REPOSITORY = "MMVP/MMVP_VLM"
REVISION = "211372d5357398f914d806d07dc305aea1f257d2"
COLUMNS = ("Question ID", "Type", "Statement")
IMAGE = "Image"
FOLDERS = ("MLLM_VLM Images", "MMVP_VLM_Images", "MLLM_VLM_Images", "MMVP_VLM Images")
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")


@dataclass(frozen=True)
class Question:
    """A row of Questions.csv; image: what its column Image names, empty without."""

    type: str
    statement: str
    image: str


@dataclass(frozen=True)
class MMVPPair:
    """Two images and two statements; statement i belongs to image i. `type` is written with spaces."""

    type: str
    ids: tuple[int, int]
    statements: tuple[str, str]
    images: tuple[Path, Path]


def read_pairs(directory: str | Path) -> list[MMVPPair]:
    """Pairs (odd id, even id) in order of their ids; any row order, byte-order mark, blank lines, Types and subsets.

    A question's image is the file that its column Image names, from `directory` on; without one ID.jpg, .jpeg, .png or
    .webp in a folder of the Type's name, which stands in `directory` or in a folder there, the published ones first.
    Raises `UserError` on other columns, half a pair, a pair of two Types, a repeated id or an absent image.
    """
    directory = Path(directory)
    rows = _read_rows(directory / "Questions.csv")
    folders = _type_folders(directory)
    pairs = []
    for first in sorted(number for number in rows if number % 2):
        second = first + 1
        if second not in rows:
            raise UserError(f"question {first} in {directory / 'Questions.csv'} lacks its partner {second}")
        one, other = rows[first], rows[second]
        if one.type != other.type:
            raise UserError(f"questions {first} and {second} are a pair but of Types {one.type} and {other.type}")
        images = _image(directory, folders, one, first), _image(directory, folders, other, second)
        pairs.append(MMVPPair(one.type, (first, second), (one.statement, other.statement), images))
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


def _read_rows(path: Path) -> dict[int, Question]:
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
    image = header.index(IMAGE) if IMAGE in header else None
    rows: dict[int, Question] = {}
    for row in lines[1:]:
        if len(row) <= max(places):
            raise UserError(f"{path}: the row {','.join(row)[:60]!r} has too few columns")
        number, kind, statement = (row[place].strip() for place in places)
        if not number.isascii() or not number.isdigit():
            raise UserError(f"{path}: the Question ID {number[:20]!r} is not a number")
        if int(number) in rows:
            raise UserError(f"{path}: question {number} occurs twice")
        named = row[image].strip() if image is not None and len(row) > image else ""
        rows[int(number)] = Question(_with_spaces(kind), statement, named)
    return rows


def _with_spaces(name: str) -> str:
    return " ".join(name.replace("_", " ").split())


def _type_folders(directory: Path) -> dict[str, Path]:
    """Folders by Type. Only names of real entries are compared, so a Type cannot leave the set."""
    published = [directory / name for name in FOLDERS if (directory / name).is_dir()]
    found: dict[str, Path] = {}
    for parent in (*published, directory, *visible_folders(directory)):
        for folder in visible_folders(parent):
            found.setdefault(_with_spaces(folder.name), folder)
    return found


def _image(directory: Path, folders: dict[str, Path], question: Question, number: int) -> Path:
    if question.image:
        if PurePosixPath(question.image).is_absolute() or ".." in PurePosixPath(question.image).parts:
            raise UserError(f"the image {question.image!r} of question {number} leads out of {directory}")
        if not (directory / question.image).is_file():
            raise UserError(f"{directory / question.image}, the image of question {number}, does not exist")
        return directory / question.image
    if question.type not in folders:
        raise UserError(
            f"{directory} has no folder for the Type {question.type}, and no column {IMAGE} names its files"
        )
    folder = folders[question.type]
    for suffix in SUFFIXES:
        path = folder / f"{number}{suffix}"
        if path.is_file():
            return path
    raise UserError(f"{folder} has no image of question {number} ({number}.jpg)")
