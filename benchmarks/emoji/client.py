"""Package managers' own clients, which fetch what the study is made of."""

import subprocess
from collections.abc import Sequence
from pathlib import Path

from mcl_clip.errors import UserError


def run_client(command: Sequence[str], shown: str, makes: Path) -> None:
    """Run a client that writes the file `makes`; where it fails, `UserError` with its last line. shown: the command as
    users would call it.
    """
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode or not makes.is_file():
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise UserError(f"`{shown}` failed ({lines[-1]}); check the network and run the command again")
