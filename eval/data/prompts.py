"""The texts of a zero-shot classifier: class names and templates, from a set, open_clip's metadata or files."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

from mcl_clip.errors import UserError
from mcl_clip.openclip.zero_shot import IMAGENET_CLASSNAMES, OPENAI_IMAGENET_TEMPLATES, SIMPLE_IMAGENET_TEMPLATES

TEMPLATE_FILES = ("zeroshot_classification_templates.txt", "templates.txt")


def read_templates(name: str) -> tuple[str, ...]:
    """`openai` (80), `simple` (7), or the lines of a file; each must hold the class name's place, {} or {c}."""
    if name == "openai":
        return tuple(template("{}") for template in OPENAI_IMAGENET_TEMPLATES)
    if name == "simple":
        return tuple(template("{}") for template in SIMPLE_IMAGENET_TEMPLATES)
    lines = read_lines(name, "--templates")
    for line in lines:
        if "{}" not in line and "{c}" not in line:
            raise UserError(
                f"--templates {name}: the line {line[:60]!r} holds neither {{}} nor {{c}} for the class name"
            )
    return tuple(lines)


def templates_in(directory: Path) -> tuple[str, ...]:
    """The templates a folder brings along, else open_clip's 80."""
    for name in TEMPLATE_FILES:
        if (directory / name).is_file():
            return read_templates(str(directory / name))
    return read_templates("openai")


def readable(names: Sequence[str]) -> tuple[str, ...]:
    """Names as one says them: open_clip's for ImageNet classes, else the set's with spaces for underscores.

    ImageNet, or a part of it, is known by WordNet ids (n01440764); the whole of it also by WordNet's words.
    """
    by_id, words = _imagenet()
    if names and all(name in by_id for name in names):
        return tuple(by_id[name] for name in names)
    agree = sum(name.split(",")[0] == word.split(",")[0] for name, word in zip(names, words, strict=False))
    if len(names) == len(words) and agree > 0.95 * len(words):
        return tuple(by_id.values())
    return tuple(name.replace("_", " ") for name in names)


@cache
def _imagenet() -> tuple[dict[str, str], list[str]]:
    """open_clip's class name by WordNet id, and WordNet's words; both in ImageNet's order."""
    from timm.data import ImageNetInfo

    info = ImageNetInfo("imagenet-1k")
    words = [info.index_to_description(index) for index in range(info.num_classes())]
    return dict(zip(info.label_names(), IMAGENET_CLASSNAMES, strict=True)), words


def fill(template: str, classname: str) -> str:
    """The prompt; nothing else in the template is interpreted."""
    return template.replace("{c}", classname).replace("{}", classname)


def prompts(classnames: Sequence[str], templates: Sequence[str]) -> list[str]:
    """Every template of the first class, then of the second, ..."""
    return [fill(template, name) for name in classnames for template in templates]


def read_lines(path: str | Path, flag: str) -> list[str]:
    """Lines of a text file that are not blank; `UserError` naming `flag` when there are none."""
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{flag} {path} cannot be read ({type(error).__name__})") from None
    lines = [line.strip() for line in lines if line.strip()]
    if not lines:
        raise UserError(f"{flag} {path} is empty")
    return lines
