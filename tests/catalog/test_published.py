"""The published networks at full size: their constructors, and their numbers on a small image."""

import inspect

import jax.numpy as jnp
import numpy as np
import pytest

from convert import module_of, save
from convert.comparing.case import random_state
from convert.comparing.parity import in_eval_mode
from convert.rules import dropped
from flax_attn.catalog import CATALOG, PUBLISHED, arguments
from tests.helpers.walk import entry_plan, published, walk_published

NORM_RELATIVE = 1e-9
"""Allowed difference in norm, over the norm of the output. The outputs of a deep network with random numbers may be far
above or far below 1, and rounding grows with the depth."""


@walk_published
def test_a_constructor_needs_nothing_and_makes_a_class_of_the_catalog(entry):
    assert all(p.default is not p.empty for p in arguments(entry.cls).values())
    assert type(entry.module()) in {e.cls for e in CATALOG}


@walk_published
def test_a_constructor_has_a_twin_of_the_same_arguments(entry):
    pytest.importorskip("torch")
    from torch_ref.twins import twin, twin_argument

    ours, theirs = arguments(entry.cls), inspect.signature(twin(entry.cls)).parameters
    expected = [(p.name, twin_argument(p.default), p.kind) for p in ours.values()]
    assert [(p.name, p.default, p.kind) for p in theirs.values()] == expected


@walk_published
def test_what_a_checkpoint_tells_is_what_the_constructor_made(entry):
    shapes = {row.key: row.torch_shape for row in entry_plan(entry).rows}
    for name, (key, less) in entry.lengths.items():
        assert shapes[key][0] - less == entry.kwargs.get(name, arguments(entry.cls)[name].default)


@pytest.mark.slow
@published([entry for entry in PUBLISHED if not entry.keys])
def test_a_network_and_its_twin_register_in_one_order(entry):
    """Those with pinned keys are compared with these in ``test_golden.py``."""
    torch = pytest.importorskip("torch")
    from torch_ref.twins import build_twin

    with torch.device("meta"):
        twin = build_twin(entry.cls, entry.kwargs)
    plan = entry_plan(entry)
    assert [key for key in twin.state_dict() if key in plan.shapes or not dropped(key)] == list(plan.shapes)
    assert [name for name, _ in twin.named_parameters()] == list(plan.parameters)


@walk_published
def test_a_converted_file_tells_which_network_it_is_of(entry, tmp_path):
    module = entry.module().clone(dtype=jnp.bfloat16)
    save(tmp_path / "net", {}, module)
    assert module_of(tmp_path / "net") == module


def test_every_network_has_one_entry():
    names = [entry.name for entry in PUBLISHED]
    assert len(names) == len(set(names))


@pytest.mark.slow
@walk_published
def test_full_size_network_gives_the_twins_numbers(entry):
    pytest.importorskip("torch")
    from torch_ref.twins import build_twin

    plan, twin, rng = entry_plan(entry), build_twin(entry.cls, entry.kwargs), np.random.default_rng(0)
    for got, expected in in_eval_mode(entry, entry.module(), plan, twin, random_state(plan, rng), rng):
        assert got.shape == expected.shape
        assert np.linalg.norm(got - expected) <= NORM_RELATIVE * np.linalg.norm(expected)
