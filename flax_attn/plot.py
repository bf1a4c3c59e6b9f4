"""Pictures of attention, with matplotlib."""

from typing import Any

import numpy as np
from jax.typing import ArrayLike


def plot_criss_cross(
    image: ArrayLike,
    row: ArrayLike,
    column: ArrayLike,
    position: tuple[int, int],
    ax: Any = None,
) -> Any:
    """Draw what one position gives to its row and column over the image, and mark the position.

    Args:
        image: (H, W) or (H, W, 3), of any size; the h x w positions are stretched over it.
        row, column: (w,) and (h,): what ``criss_cross_attention`` gives as ``row[n, y, x]`` and ``column[n, y, x]``.
        position: (y, x), below (h, w).
        ax: matplotlib axes; the current ones when None.

    Returns:
        The axes.

    Raises:
        ValueError: if ``position`` lies outside of row and column.
    """
    from matplotlib import pyplot as plt

    row, column = np.asarray(row), np.asarray(column)
    h, w = len(column), len(row)
    y, x = position
    if not (0 <= y < h and 0 <= x < w):
        raise ValueError(f"plot_criss_cross: expected a position within {(h, w)}, got {position}")
    ax = plt.gca() if ax is None else ax
    cross = np.full((h, w), np.nan)
    cross[:, x] = column
    cross[y] = row
    extent = (-0.5, w - 0.5, h - 0.5, -0.5)
    ax.imshow(image, cmap="gray", extent=extent)
    ax.imshow(cross, cmap="inferno", alpha=0.75, extent=extent)
    ax.plot(x, y, "x", color="cyan", markersize=10, markeredgewidth=2)
    ax.set_axis_off()
    return ax
