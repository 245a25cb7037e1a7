"""The loss of two views (SimCLR): the negatives of a view are the views of other images of its own segment."""

import torch
from torch import Tensor, nn

from mcl_clip.loss.gather import gather_with_gradient
from mcl_clip.loss.pairs import BLOCK_MEMORY, scalar_loss
from mcl_clip.loss.segment_loss import checked_layout
from mcl_clip.loss.softmax import along_rows
from mcl_clip.plan.segments import SegmentLayout


class MCLNTXentLoss(nn.Module):
    """NT-Xent (arXiv 2002.05709) within the segments of the global batch: 2(n - 1) negatives a view, one positive.

    With several ranks a rank's own views are the anchors, and the gradient after DDP's averaging is that of one
    process. rank, world_size, block_memory: as of `SegmentLoss`.
    """

    def __init__(
        self, *, temperature: float = 0.5, rank: int = 0, world_size: int = 1, block_memory: int = BLOCK_MEMORY
    ) -> None:
        super().__init__()
        self.temperature, self.rank, self.world_size, self.block_memory = temperature, rank, world_size, block_memory

    # As of `SegmentLoss`.
    @torch.compiler.disable
    def forward(self, first_views: Tensor, second_views: Tensor, *, segments: SegmentLayout | None = None) -> Tensor:
        """The loss, a scalar in fp32 or fp64.

        first_views, second_views: [G/W, D], unit vectors of two views of this rank's images, in position order.
        segments: layout of the whole global batch of G; None is one segment. Raises `UserError` when features and
        layout do not fit. Differentiable once.
        """
        layout = checked_layout(segments, self.world_size, first_views, second_views, "first and second view")
        views = torch.stack((first_views, second_views), 1).flatten(0, 1)
        everywhere = gather_with_gradient(views, self.world_size) if self.world_size > 1 else None
        return scalar_loss(
            along_rows,
            views,
            everywhere,
            views.new_full((), 1 / self.temperature, dtype=torch.promote_types(views.dtype, torch.float32)),
            None,
            layout=layout.times(2),
            first=self.rank * len(views) if self.world_size > 1 else 0,
            divisor=len(views),
            ids=None,
            block_memory=self.block_memory,
            views=2,
        )
