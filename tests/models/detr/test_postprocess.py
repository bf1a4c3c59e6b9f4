"""DETR's post-processing on both sides, and its quirks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from flax_attn.models.detr import postprocess as ours
from tests.helpers.tolerances import assert_close
from torch_ref.models.detr import postprocess as theirs

THINGS = {0: True, 1: False, 2: False}


def outputs(n=2, q=6, classes=3, h=7, w=9, seed=0):
    rng = np.random.default_rng(seed)
    shapes = dict(pred_logits=(n, q, classes + 1), pred_boxes=(n, q, 4), pred_masks=(n, q, h, w))
    return {name: 3 * rng.normal(size=shape) for name, shape in shapes.items()}


def tensors(arrays):
    return {name: torch.tensor(x) for name, x in arrays.items()}


def both(name, arguments, out, *sizes):
    """Results on both sides, for outputs and sizes."""
    got = getattr(ours, name)(*arguments)({k: jnp.asarray(v) for k, v in out.items()}, *map(np.asarray, sizes))
    return got, getattr(theirs, name)(*arguments)(tensors(out), *map(torch.tensor, sizes))


def test_boxes_are_scaled_by_width_and_height():
    out = dict(pred_logits=np.asarray([[[0.0, 2, 9], [3, 1, 0]]]), pred_boxes=np.asarray([[[0.5, 0.25, 0.2, 0.1]] * 2]))
    (got,), (expected,) = both("PostProcess", (), out, [[100, 200]])
    assert_close(got["boxes"], [[80, 20, 120, 30]] * 2)
    np.testing.assert_array_equal(got["labels"], [1, 0])
    odds = np.exp([2, 3]) / [1 + np.exp(2) + np.exp(9), 1 + np.exp(1) + np.exp(3)]
    assert_close(got["scores"], odds)
    for name in got:
        assert_close(got[name], expected[name])


def test_detections_are_the_twins_and_compile():
    out, sizes = outputs(), [[480, 640], [333, 500]]
    got, expected = both("PostProcess", (), out, sizes)
    compiled = jax.jit(ours.PostProcess())(out, jnp.asarray(sizes))
    for a, b, c in zip(got, expected, compiled, strict=True):
        for name in a:
            assert_close(a[name], b[name])
            assert_close(c[name], b[name])


def test_boxes_in_half_precision_are_given_in_float32():
    out = {name: jnp.asarray(x, jnp.bfloat16) for name, x in outputs().items()}
    (got, _) = ours.PostProcess()(out, np.asarray([[480, 640]] * 2))
    assert got["boxes"].dtype == got["scores"].dtype == jnp.float32


def test_post_process_wants_a_size_for_each_image():
    with pytest.raises(ValueError, match=r"expected target_sizes of shape \(2, 2\), got \(1, 2\)"):
        ours.PostProcess()(outputs(), np.asarray([[4, 5]]))


@pytest.mark.parametrize("threshold", [0.5, 0.9])
def test_masks_are_the_twins(threshold):
    out, originals, padded = outputs(), [[31, 20], [17, 44]], [[28, 30], [22, 36]]
    results = [{"scores": np.zeros(6)}] * 2
    got = ours.PostProcessSegm(threshold)(results, out, np.asarray(originals), np.asarray(padded))
    given = [torch.tensor(originals), torch.tensor(padded)]
    expected = theirs.PostProcessSegm(threshold)(results, tensors(out), *given)
    for a, b, size in zip(got, expected, originals, strict=True):
        assert a.keys() == {"scores", "masks"}
        assert a["masks"].shape == (6, *size)
        assert 0.01 < a["masks"].mean() < 0.6
        np.testing.assert_array_equal(a["masks"], b["masks"])
    assert "masks" not in results[0]


def panoptic(out, processed, targets=None, things=THINGS, threshold=0.85):
    got, expected = both(
        "PostProcessPanoptic", (things, threshold), out, processed, *([] if targets is None else [targets])
    )
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_array_equal(a["ids"], b["ids"])
        assert a["segments_info"] == b["segments_info"]
    return got


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("targets", [None, [[20, 33], [41, 17]]])
def test_segments_are_the_twins(seed, targets):
    processed = [[28, 36], [25, 30]]
    got = panoptic(outputs(q=9, seed=seed), processed, targets, threshold=0.6)
    for a, size in zip(got, targets or processed, strict=True):
        assert a["ids"].shape == tuple(size)
        assert len(a["segments_info"]) > 1
        assert sum(info["area"] for info in a["segments_info"]) == size[0] * size[1]
        assert all(info["area"] > 4 for info in a["segments_info"])


def scene(labels, masks, classes=3):
    """Outputs for one image: queries of these labels, sure of themselves, and masks of logits."""
    logits = np.zeros((1, len(labels), classes + 1))
    logits[0, range(len(labels)), labels] = 20
    masks = np.asarray(masks, float)[None]
    return dict(pred_logits=logits, pred_masks=masks, pred_boxes=np.zeros((1, len(labels), 4)))


def columns(*winners, h=6):
    """Logits (q, h, w) such that query ``winners[j]`` has column j."""
    return np.where(np.arange(max(winners) + 1)[:, None, None] == np.asarray(winners), 5.0, 0.0).repeat(h, 1)


def test_nothing_found_is_one_segment_without_information():
    (got,) = panoptic(scene([3, 3], columns(0, 1, 1)), [[6, 3]], [[4, 5]])
    np.testing.assert_array_equal(got["ids"], np.zeros((4, 5)))
    assert got["segments_info"] == []


def test_stuff_of_one_class_is_merged_and_its_empty_segment_dropped():
    """Its pixels go to the mask that is next best, which may be that of another class."""
    masks = columns(0, 0, 1, 1, 2, 2)
    for second, areas, row in ((0, [24, 12], [0, 0, 1, 1, 0, 0]), (1, [12, 24], [0, 0, 1, 1, 1, 1])):
        masks[second, :, 4:] = 1 + second
        (got,) = panoptic(scene([1, 0, 1], masks), [[6, 6]])
        infos = [(s["category_id"], s["isthing"], s["area"]) for s in got["segments_info"]]
        assert infos == [(1, False, areas[0]), (0, True, areas[1])]
        np.testing.assert_array_equal(got["ids"][0], row)


def test_things_of_one_class_stay_apart():
    (got,) = panoptic(scene([0, 0], columns(0, 0, 1)), [[6, 3]])
    assert [info["area"] for info in got["segments_info"]] == [12, 6]


def test_small_segments_go_and_give_their_pixels_to_the_others():
    (got,) = panoptic(scene([0, 0, 0], columns(0, 1, 2, 2, h=4)), [[4, 4]])
    assert got["segments_info"] == [{"id": 0, "isthing": True, "category_id": 0, "area": 16}]
    masks = columns(0, 1, 1, 2, 2, h=4)
    masks[2, :, 0] = 1
    (got,) = panoptic(scene([0, 0, 0], masks), [[4, 5]])
    assert [(info["id"], info["area"]) for info in got["segments_info"]] == [(0, 8), (1, 12)]


def test_a_segment_that_was_large_only_by_merging_goes_too():
    masks = columns(0, 1, 1, 1, 2, 2, 2, h=2)
    masks[2, :, 1:4] = 1
    (got,) = panoptic(scene([1, 1, 0], masks), [[2, 7]])
    assert [(info["category_id"], info["area"]) for info in got["segments_info"]] == [(0, 14)]


def test_all_segments_may_be_small():
    (got,) = panoptic(scene([0, 0], columns(0, 1, h=4)), [[4, 2]])
    assert got["segments_info"] == []
    np.testing.assert_array_equal(got["ids"], np.zeros((4, 2)))


def test_unsure_queries_are_left_out():
    out = scene([0, 0], columns(0, 1, 1))
    out["pred_logits"][0, 1] = [1, 0, 0, 0]
    (got,) = panoptic(out, [[6, 3]])
    assert [info["area"] for info in got["segments_info"]] == [18]


def test_coco_things_end_at_90():
    assert [c for c in (1, 90, 91, 200, 249) if ours.COCO_IS_THING[c]] == [1, 90]
    assert ours.COCO_IS_THING == theirs.COCO_IS_THING


def test_ids_are_resized_as_pillow_does():
    image = pytest.importorskip("PIL.Image")
    sizes = [*((n, out) for n in range(1, 40) for out in range(1, 40, 3)), (800, 480), (1333, 640), (427, 1201)]
    for n, out in sizes:
        row = image.fromarray(np.arange(n, dtype=np.int32)[None])
        expected = np.asarray(row.resize((out, 1), image.Resampling.NEAREST))[0]
        np.testing.assert_array_equal(ours.pil_nearest(n, out), expected)
        np.testing.assert_array_equal(theirs.pil_nearest(n, out), expected)
