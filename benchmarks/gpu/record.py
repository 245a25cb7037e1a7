"""docs/results-gpu.json by machine, and the table of it."""

import json
import platform
from pathlib import Path
from typing import Any

import torch

from mcl_clip.artifacts import write_json

Record = dict[str, dict[str, Any]]
"""{machine: {part: {"seconds": s, "result": {...}} or {"seconds": s, "error": line}}}."""


def machine() -> str:
    """Device, torch and CUDA."""
    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}, CUDA {torch.version.cuda}"
    return f"{platform.processor() or platform.machine()}, torch {torch.__version__}, no CUDA"


def read(path: Path) -> Record:
    """What stands in the file; nothing where there is none."""
    return json.loads(path.read_text()) if path.exists() else {}


def write(path: Path, record: Record) -> None:
    """The file, and its table beside it."""
    write_json(path, record)
    path.with_suffix(".md").write_text(table(record))


def table(record: Record) -> str:
    """Markdown: a heading a machine, a row a number."""
    lines = [
        "# Results on GPUs",
        "",
        "`make bench-gpu` writes this page and `results-gpu.json`; a part that failed says why.",
        "",
    ]
    for name, found in record.items():
        lines += [f"## {name}", "", "| part | | measured |", "|---|---|---:|"]
        for part, entry in found.items():
            numbers = flat(entry.get("result", {})) or {"": entry.get("error", "")}
            lines += [
                f"| {part if not row else ''} | {key} | {value} |" for row, (key, value) in enumerate(numbers.items())
            ]
            lines.append(f"| | seconds of the part | {entry['seconds']} |")
        lines.append("")
    return "\n".join(lines)


def flat(result: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Numbers and words of nested results by path."""
    found: dict[str, Any] = {}
    for key, value in result.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{key}: ")
        elif isinstance(value, list):
            found[prefix + key] = ", ".join(map(str, value))
        else:
            found[prefix + key] = f"{value:.4g}" if isinstance(value, float) else value
    return found
