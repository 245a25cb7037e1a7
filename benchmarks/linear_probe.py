"""A linear probe at seven strengths of its penalty: ours on a device, and scikit-learn's, on the same unit vectors."""

import argparse
import json
import statistics
import time
import warnings
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from tqdm import tqdm

from eval.tasks.linear_probe import STRENGTHS, probe
from mcl_clip import seeds

LATENT, NOISE = 64, 2.5


def main(arguments: list[str] | None = None) -> int:
    """Probe by turns; accuracies are of the strength that the probe chose."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--test-samples", type=int, default=10_000)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--skip-peer", action="store_true", help="scikit-learn is impractical at ImageNet's size")
    options = parser.parse_args(arguments)
    values, labels = _data(options)
    train, test = values[: options.samples], values[options.samples :]
    truth = labels[options.samples :]
    known = labels[: options.samples]
    on_device = [torch.from_numpy(part).to(options.device) for part in (train, test)]
    times: dict[str, list[float]] = {"ours": [], "scikit_learn": []}
    for _ in tqdm(range(options.rounds), "probes", leave=False, disable=None):
        begun = time.perf_counter()
        predicted, strength = probe(on_device[0], known, on_device[1])
        times["ours"].append(time.perf_counter() - begun)
        if not options.skip_peer:
            begun = time.perf_counter()
            peer = _peer(train, known, strength)
            times["scikit_learn"].append(time.perf_counter() - begun)
    result: dict[str, Any] = {"seconds": round(statistics.median(times["ours"]), 3), "strength": strength}
    result["accuracy"] = round(100 * float((predicted == truth).mean()), 3)
    if not options.skip_peer:
        result["scikit_learn_seconds"] = round(statistics.median(times["scikit_learn"]), 3)
        result["times_as_fast"] = round(result["scikit_learn_seconds"] / result["seconds"], 3)
        result["scikit_learn_accuracy"] = round(100 * float(peer.score(test, truth)), 3)
    result |= {name: value for name, value in vars(options).items() if name != "json"}
    result |= {"threads": torch.get_num_threads(), "torch": torch.__version__}
    print(json.dumps(result) if options.json else json.dumps(result, indent=2))
    return 0


def _peer(train: np.ndarray, labels: np.ndarray, strength: float) -> LogisticRegression:
    """The same work: every strength on four fifths, then one on all."""
    kept = slice(len(train) // 5, None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for each in STRENGTHS:
            LogisticRegression(C=each, max_iter=1000).fit(train[kept], labels[kept])
        return LogisticRegression(C=strength, max_iter=1000).fit(train, labels)


def _data(options: argparse.Namespace) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors around a centre a class in few dimensions, with a little noise in all, and their classes."""
    random = seeds.generator(0, options.samples)
    count = options.samples + options.test_samples
    latent = min(LATENT, options.width)
    centres = random.standard_normal((options.classes, latent))
    lift = np.linalg.qr(random.standard_normal((options.width, latent)))[0].T
    labels = random.integers(0, options.classes, count)
    values = (centres[labels] + NOISE * random.standard_normal((count, latent))) @ lift + 6 * lift[0]
    values += 0.3 * random.standard_normal(values.shape)
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32), labels


if __name__ == "__main__":
    raise SystemExit(main())
