"""End-to-End Object Detection with Transformers - Carion et al. 2020, https://arxiv.org/abs/2005.12872"""

from torch.nn import functional


def pad_masks(targets: list[dict]) -> list[dict]:
    """The targets with all masks padded at the bottom and at the right to the size of the largest."""
    h, w = (max(target["masks"].shape[axis] for target in targets) for axis in (1, 2))
    pads = [(0, w - target["masks"].shape[2], 0, h - target["masks"].shape[1]) for target in targets]
    return [{**t, "masks": functional.pad(t["masks"], pad)} for t, pad in zip(targets, pads, strict=True)]
