"""A fused model takes nothing from the host while it runs: it can be captured in a CUDA graph, and compiled whole."""

import copy

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mcl_clip.fusion.files import load_fused, save_fused
from mcl_clip.fusion.fused_model import FusedCLIP
from tests.test_fused_model import stage, tokens, vit
from tests.tiny_models import tiny_images

FROM_HOST = {"lift_fresh", "lift_fresh_copy", "scalar_tensor", "_local_scalar_dense", "nonzero", "from_file"}
OTHERS = {"mean": (0.5, 0.4, 0.3), "std": (0.5, 0.25, 0.2)}
FUSIONS = [("concat", None), ("fitted", [0.2, 0.3, 0.5])]


def three_stages():
    """The second and the third read images otherwise than the first, both alike, and differ in their last layer."""
    models = [vit(1), vit(2)]
    models.append(copy.deepcopy(models[1]))
    models[2].visual.proj.data.mul_(1.1)
    for model in models[1:]:
        model.visual.preprocess_cfg |= OTHERS
    return [stage(model) for model in models]


class Seen(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.add(function.overloadpacket.__name__)
        return function(*args, **(kwargs or {}))


@torch.inference_mode()
@pytest.mark.parametrize(("fusion", "weights"), FUSIONS)
def test_no_tensor_is_made_of_host_data_in_a_call(fusion, weights):
    stages = three_stages()
    fused = FusedCLIP(stages, fusion, weights)
    images = tiny_images(stages[0].model, 2)
    with Seen() as seen:
        fused(images, tokens(2))
        fused.visual(images)
    assert {"cat", "mul"} <= seen.names
    assert not seen.names & FROM_HOST
    with Seen() as control:
        images.new_tensor([1.0, 2.0])
    assert control.names & FROM_HOST


@torch.inference_mode()
def test_constants_move_with_the_model_and_are_not_saved(tmp_path):
    stages = three_stages()
    images = tiny_images(stages[0].model, 2)
    fused = FusedCLIP(stages)
    buffers = [name for name, _ in fused.named_buffers() if name.startswith("_renormalise")]
    assert len(buffers) == 2 and not [name for name in fused.state_dict() if name.startswith("_renormalise")]
    expected = []
    for each in stages:
        first, own = stages[0].preprocess_cfg, each.preprocess_cfg
        as_read = [
            (channel * first["std"][c] + first["mean"][c] - own["mean"][c]) / own["std"][c]
            for c, channel in enumerate(images.unbind(1))
        ]
        expected.append(each.model.encode_image(torch.stack(as_read, 1)))
    assert torch.allclose(fused.encode_image(images), torch.cat(expected, 1), atol=1e-5)
    save_fused(fused, tmp_path / "fused")
    assert torch.equal(load_fused(tmp_path / "fused").encode_image(images), fused.encode_image(images))
    wide = copy.deepcopy(fused).double()
    assert wide.encode_image(images.double()).dtype == torch.float64
    assert torch.allclose(wide.encode_image(images.double()).float(), fused.encode_image(images), atol=1e-5)


@torch.inference_mode()
@pytest.mark.parametrize(("fusion", "weights"), FUSIONS)
def test_it_compiles_without_a_break(fusion, weights):
    stages = three_stages()
    fused, images = FusedCLIP(stages, fusion, weights), tiny_images(stages[0].model, 2)
    torch.compiler.reset()
    compiled = torch.compile(lambda images, texts: fused(images, texts), fullgraph=True, backend="eager")
    for ours, twin in zip(compiled(images, tokens(2)), fused(images, tokens(2)), strict=True):
        assert torch.allclose(ours, twin, atol=1e-6)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@torch.inference_mode()
@pytest.mark.parametrize(("fusion", "weights"), FUSIONS)
def test_it_is_captured_in_a_cuda_graph(fusion, weights):
    stages = three_stages()
    fused = FusedCLIP(stages, fusion, weights).to("cuda")
    images, texts = tiny_images(stages[0].model, 2).to("cuda"), tokens(2).to("cuda")
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            fused(images, texts)
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = fused(images, texts)
    images.mul_(-1)
    graph.replay()
    torch.cuda.synchronize()
    for ours, twin in zip(outputs, fused(images, texts), strict=True):
        assert torch.allclose(ours, twin, atol=1e-4)
