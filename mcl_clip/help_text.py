"""How every command's --help begins: with examples that run as they stand after `make demo`."""

import textwrap
from collections.abc import Sequence


def with_examples(examples: Sequence[str], description: str) -> str:
    """The description of a command, its examples before it, for a formatter that leaves lines as they are."""
    listed = "".join(f"  {example}\n" for example in examples)
    return f"examples:\n{listed}\n{textwrap.fill(description, 100)}"
