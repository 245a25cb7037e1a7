"""Matrix products whose results are fp32 (fp64 for fp64 features) whatever the precision of the towers."""

import torch

_HALVES = (torch.float16, torch.bfloat16)
# Half-precision operands with an fp32 result: NVIDIA's CUDA only, since torch 2.8.
_FP32_RESULT = torch.version.cuda is not None and tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 8)


def operand_dtype(*features: torch.Tensor) -> torch.dtype:
    """The precision in which features are multiplied.

    On CUDA, half-precision features and features under autocast stay on the half-precision units, which
    accumulate in fp32. Elsewhere everything below fp64 is multiplied in fp32. Read this inside the
    caller's autocast.
    """
    dtype = features[0].dtype
    for other in features[1:]:
        dtype = torch.promote_types(dtype, other.dtype)
    if features[0].is_cuda and _FP32_RESULT:
        if torch.is_autocast_enabled("cuda") and dtype == torch.float32:
            return torch.get_autocast_dtype("cuda")
        return dtype
    return torch.promote_types(dtype, torch.float32)


def product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Batched product [k, m, d] @ [k, d, n] of operands of one dtype, in fp32 or fp64."""
    if right.dtype in _HALVES:
        return torch.bmm(left.to(right.dtype), right, out_dtype=torch.float32)
    return torch.bmm(left, right)
