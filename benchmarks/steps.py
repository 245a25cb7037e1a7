"""Time and peak memory of steps that take turns, on a host or a device."""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor


def by_turns(
    steps: Mapping[str, Callable[[], list[Tensor]]], options: argparse.Namespace
) -> tuple[dict[str, float], dict[str, int], dict[str, list[Tensor]]]:
    """Median ms, peak bytes and results of each."""
    device = torch.device(options.device)
    peaks, values = {}, {}
    for name, step in steps.items():  # also the warm-up
        peaks[name], values[name] = peak_memory(step, device)
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(options.repeats):
        for name, step in steps.items():
            times[name].append(milliseconds(step, device))
    return {name: round(statistics.median(each), 3) for name, each in times.items()}, peaks, values


def forward_backward(loss: Callable[..., Tensor], inputs: list[Tensor]) -> list[Tensor]:
    """Value and gradients."""
    value = loss(*inputs)
    return [value.detach(), *torch.autograd.grad(value, inputs)]


def milliseconds(step: Callable[[], object], device: torch.device) -> float:
    """Of one call, up to the device's last kernel."""
    _wait(device)
    begin = time.perf_counter()
    step()
    _wait(device)
    return 1e3 * (time.perf_counter() - begin)


def peak_memory(step: Callable[[], list[Tensor]], device: torch.device) -> tuple[int, list[Tensor]]:
    """Most bytes that the allocator held during a call beyond those it held before; and what the call gave."""
    if device.type == "cuda":
        _wait(device)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        result = step()
        _wait(device)
        return torch.cuda.max_memory_allocated() - before, result
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        result = step()
    with tempfile.TemporaryDirectory() as directory:
        trace = Path(directory) / "trace.json"
        profile.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text())["traceEvents"]
    changes = sorted((event["ts"], event["args"]["Bytes"]) for event in events if event["name"] == "[memory]")
    held = peak = 0
    for _, change in changes:
        held += change
        peak = max(peak, held)
    return peak, result


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()
