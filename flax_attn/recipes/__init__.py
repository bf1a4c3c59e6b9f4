"""How the published networks were trained: optimizer, schedule, loss and more, as data, with the sources.

Nothing in here is invented: what no source tells is None, and an assumption says so in the notes of its recipe.
"""

from collections.abc import Mapping

from flax_attn.layers import require
from flax_attn.recipes.classification import CLASSIFICATION
from flax_attn.recipes.detection import DETECTION
from flax_attn.recipes.recipe import Group, Recipe, Schedule
from flax_attn.recipes.segmentation import SEGMENTATION

RECIPES: Mapping[str, Recipe] = {**CLASSIFICATION, **DETECTION, **SEGMENTATION}
"""The recipe of each published network, by the name of its constructor."""

UNKNOWN: Mapping[str, str] = {
    "detr_demo": "the notebook of the demo only reads the trained weights",
    "se_inception_v3": "moskomule/senet.pytorch has no training of it",
    "residual_attention_92_32input": "the published training scripts train other classes",
    "timm_seresnet50": "timm publishes the weights without the command that trained them",
    "legacy_seresnet18": "timm publishes the weights without the command that trained them",
    "legacy_seresnet34": "timm publishes the weights without the command that trained them",
    "legacy_senet154": "the paper tells only in part how it was trained",
}
"""The published networks without a recipe, and the reason."""


def recipe(name: str) -> Recipe:
    """How the published network ``name`` was trained; ``name`` is that of its constructor, such as "detr_resnet50".

    Raises:
        ValueError: for a network that has no recipe, with the reason, and for a name that no network has.
    """
    require(name not in UNKNOWN, f"recipe: no recipe of {name} is known: {UNKNOWN.get(name)}")
    require(name in RECIPES, f"recipe: no published network is called {name!r}; `flax-attn-convert models` lists them")
    return RECIPES[name]
