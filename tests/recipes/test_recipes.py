"""The recipes: every published network has one or a reason, and the groups are those of the published scripts."""

import inspect

import pytest

import flax_attn.losses as losses
from flax_attn.catalog import PUBLISHED
from flax_attn.recipes import RECIPES, UNKNOWN, Group, Recipe, recipe

torch = pytest.importorskip("torch")

OPTIMIZERS = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
SCHEDULERS = {
    "step_lr": "StepLR",
    "multi_step_lr": "MultiStepLR",
    "polynomial_lr": "PolynomialLR",
    "cosine_annealing_lr": "CosineAnnealingLR",
    "reduce_lr_on_plateau": "ReduceLROnPlateau",
}
NETWORKS = {entry.name: entry for entry in PUBLISHED}


def parameters(name: str) -> dict:
    """The parameters of the network in PyTorch, without their numbers."""
    from torch_ref.twins import build_twin

    with torch.device("meta"):
        return dict(build_twin(NETWORKS[name].cls, {}).named_parameters())


def test_every_published_network_has_a_recipe_or_a_reason():
    assert RECIPES.keys() | UNKNOWN.keys() == NETWORKS.keys()
    assert not RECIPES.keys() & UNKNOWN.keys()
    assert all(len(reason) > 20 for reason in UNKNOWN.values())


def test_names_without_a_recipe_are_refused():
    with pytest.raises(ValueError, match="no recipe of detr_demo is known: the notebook"):
        recipe("detr_demo")
    with pytest.raises(ValueError, match="no published network is called 'resnet51'"):
        recipe("resnet51")
    assert recipe("ccnet_resnet101").loss == "dsn_loss"


@pytest.mark.parametrize("name", RECIPES)
def test_pytorch_takes_the_arguments(name):
    r = recipe(name)
    one = [torch.nn.Parameter(torch.zeros(1)) for _ in r.groups]
    groups = [{"params": [p], **group.arguments} for p, group in zip(one, r.groups, strict=True)]
    optimizer = OPTIMIZERS[r.optimizer](groups, **r.arguments)
    if r.schedule:
        getattr(torch.optim.lr_scheduler, SCHEDULERS[r.schedule.name])(optimizer, **r.schedule.arguments)
        assert r.schedule.unit in ("epoch", "iteration")
        assert r.schedule.every in ("epoch", "iteration")
    assert (r.epochs is None) != (r.iterations is None)
    assert r.precision in ("float32", "mixed", None)
    assert r.source
    assert r.batch_size or name.endswith("panoptic")


@pytest.mark.parametrize("name", RECIPES)
def test_the_loss_exists_and_takes_the_arguments(name):
    from flax_attn.models.detr.criterion import SetCriterion

    r = recipe(name)
    loss = SetCriterion if r.loss == "SetCriterion" else getattr(losses, r.loss)
    assert r.loss_arguments.keys() <= inspect.signature(loss).parameters.keys()


GROUPED = [name for name, r in RECIPES.items() if len(r.groups) > 1 or r.frozen]


@pytest.mark.parametrize("name", [*GROUPED, "ldnet", "resnet18"])
def test_groups_hold_every_parameter_once(name):
    r, names = recipe(name), list(parameters(name))
    groups = r.groups_of(names)
    members = [n for group in groups for n in group]
    assert len(groups) == len(r.groups)
    assert len(set(members)) == len(members)
    assert set(members) <= set(names)
    assert r.frozen or set(members) == set(names)
    for group in groups:
        assert group == [n for n in names if n in set(group)]
    assert all(groups) or name.endswith("panoptic")


@pytest.mark.parametrize("name", [name for name in GROUPED if name.startswith("detr")])
def test_detrs_groups_are_those_of_its_script(name):
    model, trained = parameters(name), {}
    for n in model:
        if name.endswith("panoptic"):
            trained[n] = not n.startswith("detr.")
        else:
            trained[n] = "backbone" not in n or any(layer in n for layer in ("layer2", "layer3", "layer4"))
    first = [n for n in model if "backbone" not in n and trained[n]]
    second = [n for n in model if "backbone" in n and trained[n]]
    assert recipe(name).groups_of(model) == [first, second]
    assert recipe(name).groups[1].arguments == {"lr": 1e-5}


def test_detr_resnet50_has_as_many_parameters_in_its_groups_as_published():
    model = parameters("detr_resnet50")
    groups = recipe("detr_resnet50").groups_of(model)
    assert [len(group) for group in groups] == [193, 42]
    assert sum(model[n].numel() for group in groups for n in group) == 41302368


@pytest.mark.parametrize("name", ["smt_tiny", "smt_small", "smt_base", "smt_large"])
def test_smts_groups_are_those_of_its_script(name):
    model = parameters(name)
    without = [n for n, p in model.items() if p.ndim == 1 or n.endswith(".bias")]
    assert recipe(name).groups_of(model) == [[n for n in model if n not in set(without)], without]


@pytest.mark.parametrize("name", ["danet_resnet50", "danet_resnet101"])
def test_danets_head_has_ten_times_the_rate(name):
    r, model = recipe(name), parameters(name)
    pretrained, head = r.groups_of(model)
    assert pretrained == [n for n in model if n.startswith("pretrained.")]
    assert head == [n for n in model if n.startswith("head.")]
    assert r.groups[1].arguments["lr"] == pytest.approx(10 * r.arguments["lr"])


def test_a_name_in_no_group_or_in_two_is_refused():
    r = Recipe("here", "sgd", {}, loss="mse_loss", groups=(Group("a", "^a"), Group("b", "b$")))
    assert r.groups_of(["b", "a", "a.c"]) == [["a", "a.c"], ["b"]]
    with pytest.raises(ValueError, match="the parameter 'ab' in one group, got a, b"):
        r.groups_of(["ab"])
    with pytest.raises(ValueError, match="the parameter 'c' in one group, got none"):
        r.groups_of(["a", "c"])
