"""State-dict keys and shapes are those of the published code, pinned in tests/golden, on both sides."""

import itertools
import json
from pathlib import Path

import jax
import pytest

from convert import plan
from convert.state_dict import dropped
from flax_attn import (
    ConcatenationNonLocalBlock,
    DotProductNonLocalBlock,
    EmbeddedGaussianNonLocalBlock,
    GaussianNonLocalBlock,
    ParallelPolarizedSelfAttention,
    PSA_p,
    PSA_s,
    SequentialPolarizedSelfAttention,
    SpatialGroupEnhance,
)

GOLDEN = Path(__file__).parent / "golden"
FORMS = {
    "concatenation": ConcatenationNonLocalBlock,
    "dot_product": DotProductNonLocalBlock,
    "embedded_gaussian": EmbeddedGaussianNonLocalBlock,
    "gaussian": GaussianNonLocalBlock,
}

CASES = {
    "PSA_p": (PSA_p, dict(inplanes=64, planes=64), (1, 4, 4, 64)),
    "PSA_s": (PSA_s, dict(inplanes=64, planes=64), (1, 4, 4, 64)),
    "ParallelPolarizedSelfAttention": (ParallelPolarizedSelfAttention, dict(channel=64), (1, 4, 4, 64)),
    "SequentialPolarizedSelfAttention": (SequentialPolarizedSelfAttention, dict(channel=64), (1, 4, 4, 64)),
    "SGE_ea": (SpatialGroupEnhance, dict(groups=8, init_bias=0.0), (1, 4, 4, 64)),
}
for form, d, sub_sample, bn_layer in itertools.product(FORMS, (1, 2, 3), (False, True), (False, True)):
    kwargs = dict(in_channels=8, dimension=d, sub_sample=sub_sample, bn_layer=bn_layer)
    CASES[f"NL_{form}_{d}d_ss{sub_sample:d}_bn{bn_layer:d}"] = (FORMS[form], kwargs, (1, *[4] * d, 8))


def golden(name):
    return {key: tuple(shape) for key, shape in json.loads((GOLDEN / f"{name}.json").read_text()).items()}


def test_every_pinned_list_is_held_against_a_class():
    assert {path.stem for path in GOLDEN.glob("*.json")} == CASES.keys()


@pytest.mark.parametrize("name", CASES)
def test_flax_module_maps_onto_the_published_keys(name):
    cls, kwargs, shape = CASES[name]
    rows = plan(cls(**kwargs), jax.ShapeDtypeStruct(shape, "float32")).rows
    assert {row.key: row.torch_shape for row in rows} == {k: v for k, v in golden(name).items() if not dropped(k)}


@pytest.mark.parametrize("name", CASES)
def test_twin_has_the_published_keys(name):
    pytest.importorskip("torch")
    from torch_ref.twins import twin

    cls, kwargs, _ = CASES[name]
    assert {k: tuple(v.shape) for k, v in twin(cls)(**kwargs).state_dict().items()} == golden(name)
