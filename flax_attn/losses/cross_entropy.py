"""The cross-entropy of classes: PyTorch's ``cross_entropy`` and ``nll_loss``, with the axis of the classes last.

Follows: ``torch.nn.functional``, and timm ``loss/cross_entropy.py`` for soft targets.
"""

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from flax_attn.layers import log_softmax, require
from flax_attn.losses.common import check_reduction, class_indices, class_weights, reduced, same_shape, wide


def nll_loss(
    log_probs: Float[Array, "*n k"],
    labels: ArrayLike,
    weight: ArrayLike | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Float[Array, "*m"]:
    """-weight[y] * log_probs[y] for each label y.

    The mean is weighted: it is the sum of the losses, divided by the sum of weight[y]. Labels equal to
    ``ignore_index`` count in neither. When all labels are ignored the mean is NaN, as in PyTorch.

    Args:
        log_probs: logarithms of probabilities; the last axis is that of the k classes.
        labels: integers (*n,). Out of range they are refused in a numpy array, and give NaN on a device.
        weight: (k,); 1 for each class when None.
        reduction: "mean", "sum" or "none".

    Raises:
        ValueError: for labels or weights of a wrong shape or range, or an unknown reduction.
    """
    log_probs = wide("nll_loss", log_probs)
    check_reduction("nll_loss", reduction)
    losses, weights, _ = _picked("nll_loss", log_probs, labels, weight, ignore_index)
    return losses.sum() / weights.sum() if reduction == "mean" else reduced(losses, reduction)


def _picked(
    who: str, log_probs: Array, labels: ArrayLike, weight: ArrayLike | None, ignore_index: int
) -> tuple[Array, Array, Array]:
    """The weighted loss of each label, its weight, and whether it counts."""
    k = log_probs.shape[-1]
    index = class_indices(who, labels, log_probs.shape[:-1], k, ignore_index)
    weights = class_weights(who, weight, k, log_probs.dtype)
    counts, inside = index != ignore_index, (index >= 0) & (index < k)
    safe = jnp.where(counts & inside, index, 0)
    each = jnp.ones(index.shape, log_probs.dtype) if weights is None else weights[safe]
    each = jnp.where(counts, jnp.where(inside, each, jnp.nan), 0)
    picked = jnp.take_along_axis(log_probs, safe[..., None], -1)[..., 0]
    return jnp.where(counts, -each * picked, 0), each, counts


def cross_entropy(
    logits: Float[Array, "*n k"],
    labels: ArrayLike,
    weight: ArrayLike | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Float[Array, "*m"]:
    """The cross-entropy of softmax(logits) and the labels.

    With p = softmax(logits), e = ``label_smoothing`` and a class y as label, the loss is
    -(1 - e) * weight[y] * log p[y] - e / k * sum_j weight[j] * log p[j]. The mean is divided by the sum of weight[y],
    and ignored labels do not count. When all labels are ignored the mean is NaN, as in PyTorch.

    Labels may also be probabilities t of the shape of ``logits``. Then the loss is -sum_j weight[j] * t'[j] * log p[j],
    with t' = (1 - e) * t + e / k. The mean is divided by the number of samples, whatever the weights are.

    Args:
        logits: scores; the last axis is that of the k classes.
        labels: integers (*n,), or probabilities (*n, k). Integers out of range are refused in a numpy array, and give
            NaN on a device.
        weight: (k,); 1 for each class when None.
        ignore_index: the label that does not count. With probabilities it has to be negative, and does nothing.
        reduction: "mean", "sum" or "none".

    Raises:
        ValueError: for labels or weights of a wrong shape or range, an unknown reduction, a ``label_smoothing`` outside
            [0, 1], or probabilities with an ``ignore_index`` of 0 or more.
    """
    who = "cross_entropy"
    logits = wide(who, logits)
    check_reduction(who, reduction)
    require(0 <= label_smoothing <= 1, f"{who}: expected label_smoothing from 0 to 1, got {label_smoothing}")
    log_probs, k = log_softmax(logits), logits.shape[-1]
    weights = class_weights(who, weight, k, logits.dtype)
    weighted = log_probs if weights is None else log_probs * weights
    if jnp.issubdtype(jnp.asarray(labels).dtype, jnp.floating):
        expected = f"{who}: expected a negative ignore_index with probabilities as labels"
        require(ignore_index < 0, f"{expected}, got {ignore_index}")
        same_shape(who, "probabilities", labels, logits.shape)
        target = wide(who, labels) * (1 - label_smoothing) + label_smoothing / k
        return reduced(-(weighted * target).sum(-1), reduction)
    losses, each, counts = _picked(who, log_probs, labels, weight, ignore_index)
    if label_smoothing:
        smooth = jnp.where(counts, -weighted.sum(-1), 0)
        losses = (1 - label_smoothing) * losses + label_smoothing / k * smooth
    return losses.sum() / each.sum() if reduction == "mean" else reduced(losses, reduction)


def soft_target_cross_entropy(logits: Float[Array, "*n k"], targets: Float[Array, "*n k"]) -> Float[Array, ""]:
    """The mean over all samples of -sum_j targets[j] * log softmax(logits)[j]: timm's ``SoftTargetCrossEntropy``.

    It is the loss for labels that mixup and cutmix have mixed. The targets need not sum to 1. Raises ValueError for
    targets that have not the shape of ``logits``.
    """
    logits = wide("soft_target_cross_entropy", logits)
    same_shape("soft_target_cross_entropy", "targets", targets, logits.shape)
    return -(wide("soft_target_cross_entropy", targets) * log_softmax(logits)).sum(-1).mean()


def auxiliary_cross_entropy(
    logits: Float[Array, "*n k"],
    aux_logits: Float[Array, "*n k"],
    labels: ArrayLike,
    aux_weight: float = 0.4,
    label_smoothing: float = 0.0,
) -> Float[Array, ""]:
    """cross_entropy(logits) + ``aux_weight`` * cross_entropy(aux_logits), for networks like SE-Inception v3.

    0.4 is the weight in PyTorch's training of Inception v3. Raises ValueError as ``cross_entropy`` does.
    """
    main, auxiliary = (cross_entropy(x, labels, label_smoothing=label_smoothing) for x in (logits, aux_logits))
    return main + aux_weight * auxiliary
