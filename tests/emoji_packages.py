"""Tiny npm packages of icons in iconify's shape, for the emoji study's tests."""

import csv
import io
import json
import tarfile

from PIL import Image

from benchmarks.emoji.names import spelling
from benchmarks.emoji.packages import Package
from mcl_clip.artifacts import sha256_file

COLORS = {"red": "#f00", "orange": "#f80", "green": "#0a0", "blue": "#00f", "black": "#000"}
TONES = ("light", "medium-light", "medium", "medium-dark", "dark")


def pack(directory, npm, files):
    """An npm tarball, and its pinned `Package`."""
    package = Package(npm, "1.0.0", "", "MIT", "nobody")
    directory.mkdir(exist_ok=True)
    with tarfile.open(directory / package.tarball, "w:gz") as tar:
        for name, content in files.items():
            data = content.encode()
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return Package(npm, "1.0.0", sha256_file(directory / package.tarball), "MIT", "nobody")


def png(pixels):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def body(color, x=8, radius=6):
    return f'<circle cx="{x}" cy="8" r="{radius}" fill="{color}"/>'


def world():
    """(rows of openmoji.csv, {icon: body}): circles of five colours, people in all tones, a left-hand square."""
    names = [f"{color} circle" for color in COLORS]
    bodies = [body(color) for color in COLORS.values()]
    for role in range(20):
        for tone, grey in zip(TONES, range(40, 240, 40), strict=True):
            names.append(f"role{role}: {tone} skin tone")
            bodies.append(body(f"rgb({grey},{grey},{10 * role})") + body("#111", role % 16, 1 + role // 16))
    names.append("left square")
    bodies.append('<rect width="8" height="16" fill="#000"/>')
    rows = [
        {
            "emoji": "x",
            "hexcode": f"1F{place:03X}-FE0F",
            "group": "people-body" if "role" in name else "symbols",
            "subgroups": "sub",
            "annotation": name,
            "tags": "a, b",
            "openmoji_tags": "b",
            "order": str(place),
        }
        for place, name in enumerate(names)
    ]
    return rows, {spelling(name): body for name, body in zip(names, bodies, strict=True)}


def packages(tarballs):
    """Two drawn packages (one with codes, one with names alone) and the table of names."""
    rows, bodies = world()
    table = io.StringIO()
    writer = csv.DictWriter(table, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    icons = {icon: {"body": each} for icon, each in bodies.items()}
    outside = {"same-again": icons["red-circle"], "file": {"body": '<image href="/etc/passwd"/>'}}
    coded = {f"1f{place:03x}": icon for place, icon in enumerate(icons)}
    drawn = [
        pack(
            tarballs,
            "@iconify-json/twemoji",
            {
                "icons.json": json.dumps({"width": 16, "height": 16, "icons": icons | outside}),
                "chars.json": json.dumps(coded),
            },
        ),
        pack(
            tarballs,
            "@iconify-json/noto",
            {"icons.json": json.dumps({"width": 16, "height": 16, "icons": icons}), "chars.json": "{}"},
        ),
    ]
    return drawn, pack(tarballs, "openmoji", {"data/openmoji.csv": table.getvalue()})
