"""Losses between crops of the same images, as DINO and EsViT have them: each crop of a student against each other global
view of a momentum encoder, as a whole (Caron et al., ICCV 2021, arXiv 2104.14294) and region by region (Li et al., ICLR
2022, arXiv 2106.09785). The equations stand in :mod:`seed_hub.training.methods.esvit`.

Legend: B images, V crops, G and L regions of a global and of a local crop, R rows, K prototypes, C region width.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from seed_hub.training.precision import in_full_precision

GLOBAL = 2  # global views, in both papers


@in_full_precision
def view_loss(
    student: Tensor,
    teacher: Tensor,
    center: Tensor,
    *,
    student_temperature: float = 0.1,
    teacher_temperature: float = 0.07,
    n_crops: int,
) -> Tensor:
    """L_V: - sum_k p_t(k) log p_s(k), mean over images and the 2 (V - 1) pairs of a global view and another crop.

    Args:
        student: logits ``[V B, K]``, crop 0 (global) of all images, then crop 1 (global), then the local crops.
        teacher: the momentum encoder's ``[2 B, K]`` of crops 0 and 1, without gradient.
        center: c ``[1, K]``.
        n_crops: V.

    Returns:
        A scalar in float32 (float64 for float64 input), also under autocast.
    """
    s = (student / student_temperature).unflatten(0, (n_crops, -1))  # [V, B, K]
    p_t = _targets(teacher, center, teacher_temperature).unflatten(0, (GLOBAL, -1))  # [2, B, K]
    # sum_k p_t = 1, hence - sum_k p_t log p_s = logsumexp(s) - sum_k p_t s.
    whole = s[:GLOBAL].logsumexp(2) - (p_t.flip(0) * s[:GLOBAL]).sum(2)  # [2, B], each against the other
    local = GLOBAL * s[GLOBAL:].logsumexp(2) - (p_t.sum(0) * s[GLOBAL:]).sum(2)  # [V - 2, B]
    return (whole.sum(0) + local.sum(0)).mean() / (GLOBAL * (n_crops - 1))


@in_full_precision
def region_loss(
    student_region: Tensor,
    teacher_region: Tensor,
    student_feat: Tensor,
    teacher_feat: Tensor,
    center: Tensor,
    *,
    student_temperature: float = 0.1,
    teacher_temperature: float = 0.07,
    n_crops: int,
    regions_global: int,
    regions_local: int,
) -> Tensor:
    """L_R: as L_V between each region of a crop and the region of a global view most similar to it.

    Rows are grouped by crop, then by image, then by region. Mean over the regions of a crop, images, and pairs.

    Args:
        student_region: logits ``[2 B G + (V - 2) B L, K]``.
        teacher_region: the momentum encoder's ``[2 B G, K]``, without gradient.
        student_feat, teacher_feat: features of the same rows ``[..., C]``; their cosines choose the region, without
            gradient.
        center: c of the regions, ``[1, K]``.
        n_crops, regions_global, regions_local: V, G, L.

    Returns:
        A scalar in float32 (float64 for float64 input), also under autocast.
    """
    images = len(teacher_region) // (GLOBAL * regions_global)
    rows = [images * regions_global] * GLOBAL + [images * regions_local] * (n_crops - GLOBAL)
    shape = (GLOBAL, images, regions_global)
    p_t = _targets(teacher_region, center, teacher_temperature).unflatten(0, shape)  # [2, B, G, K]
    f_t = normalize(teacher_feat.detach(), dim=1).unflatten(0, shape)  # [2, B, G, C]
    f_s = normalize(student_feat.detach(), dim=1).split(rows)
    total = p_t.new_zeros(())
    for crop, logits in enumerate(student_region.split(rows)):
        s = (logits / student_temperature).unflatten(0, (images, -1))  # [B, T, K]
        f = f_s[crop].unflatten(0, (images, -1))  # [B, T, C]
        others = [t for t in range(GLOBAL) if t != crop]
        # The targets are summed before the product: half the memory of a product for each pair.
        p = sum(_chosen(p_t[t], (f @ f_t[t].mT).argmax(2)) for t in others)  # [B, T, K]
        total = total + (len(others) * s.logsumexp(2) - (p * s).sum(2)).mean()
    return total / (GLOBAL * (n_crops - 1))


def moved_center(center: Tensor, teacher: Tensor, momentum: float = 0.9) -> Tensor:
    """m_c c + (1 - m_c) mean of the momentum encoder's logits ``[R, K]`` -> ``[1, K]``."""
    return momentum * center + (1 - momentum) * teacher.mean(0, keepdim=True)


@torch.no_grad()
def _targets(logits: Tensor, center: Tensor, temperature: float) -> Tensor:
    """p_t, without gradient."""
    return ((logits - center) / temperature).softmax(1)


def _chosen(p: Tensor, j: Tensor) -> Tensor:
    """``p[b, j[b, i]]``: ``[B, G, K]`` and ``[B, T]`` -> ``[B, T, K]``."""
    return p[torch.arange(len(p), device=p.device)[:, None], j]
