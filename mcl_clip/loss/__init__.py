"""Contrastive losses in which an anchor's negatives share its pseudo-label."""

from mcl_clip.loss.by_label import loss_by_label
from mcl_clip.loss.clip import MCLClipLoss
from mcl_clip.loss.distil import MCLDistillLoss
from mcl_clip.loss.moco import MCLMoCoLoss
from mcl_clip.loss.ntxent import MCLNTXentLoss
from mcl_clip.loss.siglip import MCLSigLipLoss

__all__ = ["MCLClipLoss", "MCLDistillLoss", "MCLMoCoLoss", "MCLNTXentLoss", "MCLSigLipLoss", "loss_by_label"]
