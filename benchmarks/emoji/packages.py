"""The npm packages that hold the drawings and their names: pinned, fetched by npm's own client, read in place."""

import shutil
import tarfile
from dataclasses import dataclass
from pathlib import Path

from benchmarks.emoji.client import run_client
from mcl_clip.artifacts import atomic_path, sha256_file
from mcl_clip.errors import UserError


@dataclass(frozen=True)
class Package:
    """One version of an npm package; `licence` (SPDX) and `credit` are those of the drawings in it."""

    npm: str
    version: str
    sha256: str
    licence: str
    credit: str

    @property
    def name(self) -> str:
        """The name without npm's scope."""
        return self.npm.rpartition("/")[2]

    @property
    def tarball(self) -> str:
        """What `npm pack` calls it."""
        return f"{self.npm.removeprefix('@').replace('/', '-')}-{self.version}.tgz"


NAMES = Package(
    "openmoji",
    "17.0.0",
    "55ee7d13485dec86e9f38c1f3a645a13382d33ff97c0cd845ee824b0aef45e68",
    "CC-BY-SA-4.0",
    "OpenMoji, HfG Schwäbisch Gmünd (names, groups and keywords from Unicode CLDR)",
)
_GOOGLE = "Noto Emoji by Google"
_MICROSOFT = "Fluent Emoji by Microsoft Corporation"
DRAWN = (
    Package(
        "@iconify-json/noto",
        "1.2.9",
        "3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad",
        "Apache-2.0",
        _GOOGLE,
    ),
    Package(
        "@iconify-json/noto-v1",
        "1.2.5",
        "2bf62c26c2c2884aa99e90aec942cdaee17a5921f05690694f4978ad4b017c37",
        "Apache-2.0",
        f"{_GOOGLE}, first version",
    ),
    Package(
        "@iconify-json/twemoji",
        "1.2.5",
        "19046dff7d8707ce96212ec86468b36ac5f8e60409629dd13f809265c6d0ebb7",
        "CC-BY-4.0",
        "Twemoji by Twitter and contributors",
    ),
    Package(
        "@iconify-json/openmoji",
        "1.2.29",
        "03181e2c156cab35cf4a62f1f7886bd971d59212e75ac3f189d5a4cae3930fc5",
        "CC-BY-SA-4.0",
        "OpenMoji, HfG Schwäbisch Gmünd",
    ),
    Package(
        "@iconify-json/fluent-emoji",
        "1.2.7",
        "8044210dbf11e016d4de85f15d01a243423bd832457e7e2491df1b751c0e272b",
        "MIT",
        _MICROSOFT,
    ),
    Package(
        "@iconify-json/fluent-emoji-flat",
        "1.2.6",
        "7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175",
        "MIT",
        f"{_MICROSOFT}, flat",
    ),
    Package(
        "@iconify-json/emojione",
        "1.2.3",
        "26a14f44284407e8bcde91799388dca2bfd91dbcd55a97f425524a1c5b73610e",
        "CC-BY-4.0",
        "EmojiOne 2 (EmojiTwo)",
    ),
)
ARTISTS = {
    "noto": ("noto", "noto-v1"),
    "twemoji": ("twemoji",),
    "openmoji": ("openmoji",),
    "fluent": ("fluent-emoji", "fluent-emoji-flat"),
    "emojione": ("emojione",),
}


def fetch(package: Package, directory: Path) -> Path:
    """The package's tarball in `directory`, fetched where it does not stand there yet.

    Raises `UserError` when npm is absent or fails, and when the bytes are not the pinned ones.
    """
    path = directory / package.tarball
    if not path.is_file():
        directory.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary:
            _pack(package, directory, temporary)
    if sha256_file(path) != package.sha256:
        raise UserError(
            f"{path} is not the pinned {package.npm} {package.version}; delete it and run the command again"
        )
    return path


def read_members(path: Path, names: list[str]) -> list[bytes]:
    """Contents of regular files `package/NAME` of an npm tarball; nothing is extracted.

    Raises `UserError` on an absent member and on what is no whole tarball.
    """
    try:
        with tarfile.open(path, "r:gz") as tar:
            found = []
            for name in names:
                file = tar.extractfile(tar.getmember(f"package/{name}"))
                if file is None:
                    raise KeyError(name)
                found.append(file.read())
            return found
    except (KeyError, tarfile.TarError, EOFError, OSError) as error:
        raise UserError(f"{path} cannot be read ({error}); delete it and run the command again") from None


def _pack(package: Package, directory: Path, target: Path) -> None:
    npm = shutil.which("npm")
    wanted = f"{package.npm}@{package.version}"
    if npm is None:
        raise UserError(
            f"npm is needed to fetch the drawings: install Node.js, or run `npm pack {wanted}` elsewhere and put "
            f"{package.tarball} into {directory}"
        )
    aside = target.with_suffix(".npm")
    aside.mkdir()
    try:
        command = [npm, "pack", wanted, "--ignore-scripts", "--silent", "--pack-destination", str(aside)]
        run_client(command, f"npm pack {wanted}", aside / package.tarball)
        shutil.move(aside / package.tarball, target)
    finally:
        shutil.rmtree(aside)
