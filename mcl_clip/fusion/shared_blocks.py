"""Work that several towers have in common is done once: a trie of steps instead of one sequence a tower."""

import dataclasses
import functools
import hashlib
import types
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mcl_clip.fusion.tower_steps import Step

# How images were made, how outputs are packed and how to autocast is said beside the towers; it changes no embedding.
_SAID = {"preprocess_cfg", "image_mean", "image_std", "output_dict", "precision"}
_NOT_COMPUTED = frozenset(vars(nn.Module())) | _SAID


def share_tensors(models: Sequence[nn.Module]) -> None:
    """Let parameters and buffers that stand under one name and are equal bit for bit be one tensor in
    memory."""
    known: dict[str, list[Tensor]] = {}
    for model in models:
        for path, module in model.named_modules():
            for table in (module._parameters, module._buffers):
                for name, tensor in table.items():
                    if tensor is None:
                        continue
                    others = known.setdefault(f"{path}.{name}", [])
                    twin = next((other for other in others if identical(other, tensor)), None)
                    if twin is None:
                        others.append(tensor)
                    else:
                        table[name] = twin


def identical(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors agree in type, shape and every bit."""
    if a is b:
        return True
    if a.dtype != b.dtype or a.shape != b.shape or a.device != b.device:
        return False
    return torch.equal(_bits(a), _bits(b))


def _bits(tensor: Tensor) -> Tensor:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)


@dataclass
class _Node:
    runs: list[Any] = field(default_factory=list)
    towers: list[int] = field(default_factory=list)
    children: list["_Node"] = field(default_factory=list)


class SharedTowers:
    """Several towers that run their common first steps once; the towers' tensors must have been shared
    before.

    Calling it with an input gives the towers' outputs in order, equal to the separate towers bit for bit.
    `steps` is what one call runs, `separate_steps` what the towers would run alone.
    """

    def __init__(self, towers: Sequence[Sequence[Step]]):
        self.size = len(towers)
        keyed = [[(step, step_key(step)) for step in tower] for tower in towers]
        self.separate_steps = sum(map(len, towers))
        self.root = _grow(list(enumerate(keyed)), 0)
        self.steps = _count(self.root)

    def __call__(self, inputs: Tensor) -> list[Tensor]:
        outputs: list[Any] = [None] * self.size
        _visit(self.root, inputs, outputs)
        return outputs

    @property
    def all_equal(self) -> bool:
        """Whether all towers are one."""
        return len(self.root.towers) == self.size


def _grow(towers: list, depth: int) -> _Node:
    """The trie below a common prefix of `depth` steps; a chain of steps without branches is one node."""
    node = _Node()
    while True:
        node.towers = [index for index, steps in towers if len(steps) == depth]
        longer = [(index, steps) for index, steps in towers if len(steps) > depth]
        branches: dict[Hashable, list] = {}
        for index, steps in longer:
            branches.setdefault(steps[depth][1], []).append((index, steps))
        if node.towers or len(branches) != 1:
            break
        node.runs.append(longer[0][1][depth][0].run)
        towers, depth = longer, depth + 1
    for branch in branches.values():
        child = _grow(branch, depth + 1)
        child.runs.insert(0, branch[0][1][depth][0].run)
        node.children.append(child)
    return node


def _visit(node: _Node, state: Any, outputs: list) -> None:
    for run in node.runs:
        state = run(state)
    for tower in node.towers:
        outputs[tower] = state
    for position, child in enumerate(node.children):
        last = position + 1 == len(node.children) and not node.towers
        _visit(child, state if last else _copied(state), outputs)


def _copied(state: Any) -> Any:
    """A branch gets its own activations: many towers have layers that write in place."""
    if isinstance(state, tuple):
        return _copied(state[0]), *state[1:]
    return state.clone()


def _count(node: _Node) -> int:
    return len(node.runs) + sum(map(_count, node.children))


def step_key(step: Step) -> Hashable:
    """Equal for two steps that compute the same: function, tensors (by identity) and configuration."""
    tensors: list[int] = []
    configuration = [_describe(_bound(step.run), 0), _attributes(step.root, 0) if step.root is not None else ""]
    for part in step.parts:
        if isinstance(part, nn.Module):
            for path, module in part.named_modules():
                configuration.append(f"{path}:{_attributes(module, 0)}")
                tensors.extend(0 if tensor is None else id(tensor) for tensor in _tensors(module))
        else:
            tensors.append(0 if part is None else id(part))
    return tuple(tensors), "\n".join(configuration)


def _tensors(module: nn.Module) -> list[Tensor | None]:
    """What a module computes with. BatchNorm's count of batches is none of it: it only serves training, and a
    stage trained with frozen statistics comes back without it."""
    buffers = module._buffers
    if isinstance(module, _BatchNorm):
        buffers = {name: buffer for name, buffer in buffers.items() if name != "num_batches_tracked"}
    return [*module._parameters.values(), *buffers.values()]


def _attributes(module: nn.Module, depth: int) -> str:
    if module._forward_hooks or module._forward_pre_hooks:
        return f"{id(module)}"
    own = {name: value for name, value in vars(module).items() if name not in _NOT_COMPUTED}
    return f"{type(module).__module__}.{type(module).__qualname__}{_describe(own, depth)}"


def _describe(value: Any, depth: int) -> str:
    """Text that is equal for equal configuration; an object that cannot be read is equal to itself only:
    functions and classes are such."""
    if value is None or isinstance(value, bool | int | float | complex | str | bytes | torch.dtype | torch.device):
        return repr(value)
    if depth > 8:
        return f"object {id(value)}"
    if isinstance(value, dict):
        return "{" + ",".join(f"{key!r}:{_describe(item, depth + 1)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple | set | frozenset):
        return f"{type(value).__name__}[" + ",".join(_describe(item, depth + 1) for item in value) + "]"
    if isinstance(value, functools.partial):
        return _describe([value.func, [_bound(item) for item in value.args], value.keywords], depth + 1)
    if isinstance(value, types.MethodType):
        return _describe([value.__func__, _bound(value.__self__)], depth + 1)
    if isinstance(value, Tensor):
        content = hashlib.sha256(_bits(value).cpu().numpy().tobytes()).hexdigest()
        return f"tensor {value.dtype}{tuple(value.shape)}{content}"
    if not isinstance(value, type) and (dataclasses.is_dataclass(value) or hasattr(value, "to_dict")):
        return f"{type(value).__qualname__}{_describe(vars(value), depth + 1)}"
    return f"object {id(value)}"


def _bound(value: Any) -> Any:
    """What a function is bound to; of a module the class, since its tensors and attributes are a step's parts
    and root."""
    return type(value) if isinstance(value, nn.Module) else value
