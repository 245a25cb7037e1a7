"""The losses as the equations say, by loops and masks: slow twins, and features to compare on."""

from collections.abc import Sequence

import torch
from open_clip.loss import gather_features
from torch import Tensor
from torch.nn import functional as F


def features(size: int, dim: int, seed: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Unit image and text features [size, dim], correlated, leaves that require grad."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn(size, dim, generator=generator, dtype=torch.float64)
    text = image + torch.randn(size, dim, generator=generator, dtype=torch.float64)
    image, text = (F.normalize(each, dim=1).to(dtype).requires_grad_() for each in (image, text))
    return image, text


def labels_of(lengths: Sequence[int]) -> list[int]:
    """The label of each position of a layout."""
    return [index for index, length in enumerate(lengths) for _ in range(length)]


def clip_by_loops(image, text, scale, labels, captions=None) -> Tensor:
    """METHOD's equation: a sum over anchors of -log of a ratio of exponentials, candidates one by one."""
    size = len(image)
    total = image.new_zeros(())
    for i in range(size):
        candidates = [j for j in range(size) if labels[j] == labels[i]]
        if captions is not None:
            candidates = [j for j in candidates if j == i or captions[j] != captions[i]]
        to_texts = sum(torch.exp(scale * image[i] @ text[j]) for j in candidates)
        to_images = sum(torch.exp(scale * text[i] @ image[j]) for j in candidates)
        positive = torch.exp(scale * image[i] @ text[i])
        total = total + torch.log(positive / to_texts) + torch.log(positive / to_images)
    return -total / (2 * size)


def distil_by_loops(image, text, scale, teacher_image, teacher_text, teacher_scale, labels) -> Tensor:
    """Cross-entropy of the teacher's softmax with the student's over the candidates that share an anchor's label."""
    size = len(image)
    total = image.new_zeros(())
    student, teacher = (image, text, scale), (teacher_image, teacher_text, teacher_scale)
    for anchors, candidates in ((0, 1), (1, 0)):
        for i in range(size):
            own = [j for j in range(size) if labels[j] == labels[i]]
            p, q = ([torch.exp(m[2] * m[anchors][i] @ m[candidates][j]) for j in own] for m in (teacher, student))
            for taught, said in zip(p, q, strict=True):
                total = total - taught / sum(p) * torch.log(said / sum(q))
    return total / (2 * size)


def siglip_by_loops(image, text, scale, bias, labels, captions=None) -> Tensor:
    """SigLIP's equation over the pairs that share a label."""
    size = len(image)
    total = image.new_zeros(())
    for i in range(size):
        for j in range(size):
            if labels[i] != labels[j] or (captions is not None and i != j and captions[i] == captions[j]):
                continue
            sign = 1 if i == j else -1
            total = total - torch.log(torch.sigmoid(sign * (scale * image[i] @ text[j] + bias)))
    return total / size


def ntxent_by_loops(first, second, temperature, labels) -> Tensor:
    """SimCLR's equation 1 over the views whose images share a label, candidates one by one."""
    views = [(view[i], i, labels[i]) for view in (first, second) for i in range(len(first))]
    total = first.new_zeros(())
    for index, (anchor, image, label) in enumerate(views):
        others = [each for number, each in enumerate(views) if number != index and each[2] == label]
        everything = sum(torch.exp(anchor @ other / temperature) for other, _, _ in others)
        (positive,) = (anchor @ other / temperature for other, of, _ in others if of == image)
        total = total - torch.log(torch.exp(positive) / everything)
    return total / len(views)


def masked_clip(image, text, scale, labels: Tensor, **mode) -> Tensor:
    """open_clip's ClipLoss in one of its distributed modes, with the logits across labels masked."""
    rank, local = mode["rank"], mode["local_loss"]
    all_image, all_text = gather_features(image, text, **mode)
    first = rank * len(image) if local else 0
    rows = (image, text) if local else (all_image, all_text)
    targets = torch.arange(first, first + len(rows[0]))
    other = labels[targets][:, None] != labels
    losses = [
        F.cross_entropy((scale * anchors @ candidates.T).masked_fill(other, -torch.inf), targets)
        for anchors, candidates in zip(rows, (all_text, all_image), strict=True)
    ]
    return sum(losses) / 2


def value_and_gradients(loss: Tensor, *inputs: Tensor) -> list[Tensor]:
    """[loss, gradient of each input], detached."""
    return [loss.detach(), *torch.autograd.grad(loss, inputs)]
