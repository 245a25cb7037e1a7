"""Recall at 1, 5 and 10 both ways of given embeddings: in tiles and with intervals, or CLIP_benchmark's matrix."""

import argparse
import json
import resource
import subprocess
import sys
import time

import torch
import torch.nn.functional as F

from eval.tasks.retrieval import KS, Captions, metrics_of, retrieve

BATCH = 64  # CLIP_benchmark's default


def main(arguments: list[str] | None = None) -> int:
    """Measure both, each in a process of its own, on the same embeddings; their recalls must agree."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--captions", type=int, default=5, help="of an image")
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--measure", choices=("ours", "peer"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.measure:
        print(json.dumps(measure(options)))
        return 0
    sizes = [word for name in ("images", "captions", "width") for word in (f"--{name}", str(getattr(options, name)))]
    command = [sys.executable, "-m", "benchmarks.retrieval", *sizes, "--measure"]
    said = [subprocess.run([*command, name], check=True, capture_output=True).stdout for name in ("ours", "peer")]
    ours, peer = map(json.loads, said)
    assert all(abs(ours["recalls"][name] - value) < 1e-6 for name, value in peer["recalls"].items())
    result = {
        "images": options.images,
        "texts": options.images * options.captions,
        "width": options.width,
        "ours_seconds": ours["seconds"],
        "ours_mib": ours["mib"],
        "peer_seconds": peer["seconds"],
        "peer_mib": peer["mib"],
        "times_as_fast": peer["seconds"] / ours["seconds"],
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "recalls": ours["recalls"],
    }
    print(json.dumps(result) if options.json else json.dumps(result, indent=2))
    return 0


def measure(options: argparse.Namespace) -> dict:
    """Seconds, recalls, and peak memory in MiB beyond what stood after the imports."""
    if options.measure == "peer":
        from clip_benchmark.metrics import zeroshot_retrieval as peer
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    random = torch.Generator().manual_seed(0)
    owner = torch.arange(options.images).repeat_interleave(options.captions)
    images = F.normalize(torch.randn(options.images, options.width, generator=random), dim=1)
    noise = torch.randn(len(owner), options.width, generator=random)
    texts = F.normalize(images[owner] + 0.35 * noise, dim=1)
    begun = time.perf_counter()
    if options.measure == "ours":
        captions = Captions([""] * len(owner), owner, torch.arange(len(owner)))
        by_image, by_caption = retrieve(images, texts, captions)
        metrics, _ = metrics_of(by_image.numpy(), by_caption.numpy(), owner.numpy())
        recalls = {name: value for name, value in metrics.items() if "recall" in name}
    else:
        scores, recalls = texts @ images.T, {}
        positive = torch.zeros_like(scores, dtype=torch.bool)
        positive[torch.arange(len(owner)), owner] = True
        for k in KS:
            for what, each, own in (("image", scores, positive), ("text", scores.T, positive.T)):
                found = peer.batchify(peer.recall_at_k, each, own, BATCH, "cpu", k=k) > 0
                recalls[f"{what}_retrieval_recall@{k}"] = found.float().mean().item()
    seconds = time.perf_counter() - begun
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"seconds": seconds, "mib": (peak - before) / 1024, "recalls": recalls}


if __name__ == "__main__":
    raise SystemExit(main())
