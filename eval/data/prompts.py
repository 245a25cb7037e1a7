"""The texts of a zero-shot classifier: templates filled with class names, from open_clip's metadata or files."""

from collections.abc import Sequence
from pathlib import Path

from mcl_clip.errors import UserError
from mcl_clip.openclip.zero_shot import OPENAI_IMAGENET_TEMPLATES, SIMPLE_IMAGENET_TEMPLATES

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
