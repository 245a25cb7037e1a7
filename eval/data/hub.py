"""The Hugging Face hub as a scorer meets it: what commit a name stands for, and what a person is told."""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

from mcl_clip.errors import UserError


def hub_commit(name: str, revision: str | None = None) -> str:
    """The commit that `revision` (a branch, tag or commit) of a data set stands for now; empty without a network."""
    from huggingface_hub import HfApi

    if revision and re.fullmatch("[0-9a-f]{40}", revision):
        return revision
    try:
        return HfApi().dataset_info(name, revision=revision, timeout=30).sha or ""
    except Exception:  # the load tells what is wrong, or finds a copy on disk where there is no network
        return ""


def fetch_split(name: str, split: str, revision: str | None = None) -> tuple[Path, str]:
    """(folder, commit) of one of CLIP_benchmark's WebDataset sets on the hub, clip-benchmark/wds_NAME.

    Raises `UserError` with the mend when it cannot be fetched.
    """
    from huggingface_hub import snapshot_download

    try:
        with said_once():
            folder = snapshot_download(
                name, repo_type="dataset", revision=revision, allow_patterns=["*.txt", f"{split}/*"]
            )
    except Exception as error:
        raise UserError(
            f"--dataset {name} cannot be fetched ({type(error).__name__}); check the name, --revision and the network, "
            "or fetch it elsewhere and give its folder"
        ) from None
    return Path(folder), Path(folder).name


@contextlib.contextmanager
def said_once() -> Iterator[None]:
    """The hub's client warns before each of its retries; a failure is told once, by us."""
    from huggingface_hub.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def gated(name: str) -> str:
    """The steps to a data set that its owners give out on request."""
    return (
        f"is gated: accept its terms at https://huggingface.co/datasets/{name}, make a token at "
        "https://huggingface.co/settings/tokens, run `hf auth login` with it, and run this command again"
    )
