"""Every pair of an MMVP run as a table of numbers."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from eval.data.mmvp import MMVPPair
from eval.tasks.pair_similarities import PairSimilarities
from mcl_clip.artifacts import atomic_path


def write_csv(path: str | Path, pairs: Sequence[MMVPPair], scores: Mapping[str, PairSimilarities]) -> None:
    """One line a row of the model and pair: ids, statements, similarities, choices, whether the pair counts."""
    header = ["model", "type", "id_1", "id_2", "statement_1", "statement_2"]
    header += ["sim_text1_image1", "sim_text1_image2", "sim_text2_image1", "sim_text2_image2"]
    header += ["choice_1", "choice_2", "correct"]
    with atomic_path(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        for name, each in scores.items():
            for index, pair in enumerate(pairs):
                similarities = [f"{value:.6f}" for value in each.text_image[index].ravel()]
                choices = [pair.ids[choice] for choice in each.choices[index]]
                correct = int(each.correct[index].all())
                writer.writerow([name, pair.type, *pair.ids, *pair.statements, *similarities, *choices, correct])
