"""Plants one bug at a time in a copy of the project and fails if the tests pass: ``python -m tests.mutate [WORD]``.

With WORD, only the mutations whose name contains WORD.
"""

import argparse
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
SOME = "SELayer or SEBasicBlock or EmbeddedGaussianNonLocalBlock-2d or DigitsNet or SpatialGroupEnhance"


class Mutation(NamedTuple):
    """Replace ``old``, which must be there, by ``new`` in ``file``; ``tests`` must then fail."""

    name: str
    file: str
    old: str
    new: str
    tests: str = f"tests/catalog/test_parity.py -k '{SOME}'"


MUTATIONS = [
    Mutation("biased running variance", "flax_attn/layers/norm.py", "var * (n / (n - 1))", "var"),
    Mutation("momentum of the old value", "flax_attn/layers/norm.py", "(1 - momentum) * old", "0.9999 * old"),
    Mutation("BatchNorm eps 1.1e-5", "flax_attn/layers/norm.py", "eps: float = 1e-5", "eps: float = 1.1e-5"),
    Mutation("std with ddof 0", "flax_attn/layers/norm.py", "biased * (n / (n - 1))", "biased"),
    Mutation(
        "tanh GELU",
        "flax_attn/layers/activation.py",
        "0.5 * x * (1 + lax.erf(x / math.sqrt(2)))",
        "jax.nn.gelu(x)",
        "tests/layers/test_linear_dropout_containers.py",
    ),
    Mutation("untransposed Linear", "convert/rules.py", "return (1, 0)", "return (0, 1)"),
    Mutation(
        "swapped H and W of a kernel", "convert/rules.py", "(*range(2, ndim), 1, 0)", "(*range(2, ndim)[::-1], 1, 0)"
    ),
    Mutation(
        "projections in another order",
        "convert/dialects/hugging_face.py",
        'for which in "qkv")',
        'for which in "qvk")',
        "tests/convert/test_dialects.py -k transformer",
    ),
    Mutation(
        "the root of the width upside down",
        "convert/forms.py",
        "root(parts[0].shape) ** -1",
        "root(parts[0].shape)",
        "tests/convert/test_dialects.py -k non_local",
    ),
    Mutation(
        "gates of an LSTM in another order",
        "flax_attn/layers/recurrent.py",
        "i, f, g, o = jnp.split",
        "f, i, g, o = jnp.split",
        "tests/layers/test_recurrent.py",
    ),
    Mutation(
        "reset gate before the weights",
        "flax_attn/layers/recurrent.py",
        "tanh(n_x + r * n_h)",
        "tanh(r * n_x + n_h)",
        "tests/layers/test_recurrent.py",
    ),
    Mutation(
        "a mirrored image that repeats its edge",
        "flax_attn/layers/padding.py",
        "n - 1 - np.abs(n - 1 - np.abs(place))",
        "np.where(place < 0, -place - 1, n - 1 - np.abs(n - 1 - place))",
        "tests/layers/test_padding.py",
    ),
    Mutation("flatten channels last", "flax_attn/layers/shape.py", "jnp.moveaxis(x, -1, 1).reshape", "x.reshape"),
    Mutation(
        "dropped key",
        "convert/rules.py",
        "DROPPED = (COUNTER,)",
        'DROPPED = (COUNTER, "running_mean")',
        "tests/convert/test_state_dict.py tests/catalog/test_golden.py",
    ),
    Mutation(
        "softmax over queries",
        "flax_attn/blocks/non_local.py",
        "softmax(self.scores(query, key), -1)",
        "softmax(self.scores(query, key), 1)",
    ),
    Mutation(
        "a gate before the BatchNorm",
        "flax_attn/blocks/resnet.py",
        "return self.bn2(self.conv2(y), train)",
        "return self.bn2(self.gate(self.conv2(y), train), train)",
    ),
    Mutation(
        "a gate applied twice",
        "flax_attn/blocks/se.py",
        "return self.se(y, train=train)",
        "return self.se(self.se(y, train=train), train=train)",
        "tests/catalog/test_parity.py -k InsightSEBasicBlock",
    ),
    Mutation(
        "a gradient with float32 operands",
        "flax_attn/layers/module.py",
        "return _half_product(product, x, y)",
        "return product(x, y, preferred_element_type=jnp.float32)",
        "tests/catalog/test_bfloat16.py -k SELayer",
    ),
    Mutation(
        "sine positions that are not rounded",
        "flax_attn/blocks/position.py",
        "return lax.reduce_precision(x, exponent_bits=8, mantissa_bits=23)",
        "return x",
        "tests/catalog/test_parity.py -k PositionEmbeddingSine",
    ),
    Mutation(
        "a map that is not the gate",
        "flax_attn/blocks/sge.py",
        "return (y, gate) if attention_weights else y",
        "return (y, gate**2) if attention_weights else y",
        "tests/catalog/test_attention_maps.py -k SpatialGroupEnhance",
    ),
    Mutation(
        "a stage with the wrong dilation",
        "flax_attn/models/resnet.py",
        "first, dilation = dilation, dilation * (2 if dilated else 1)",
        "first = dilation = dilation * (2 if dilated else 1)",
        "tests/catalog/test_parity.py -k ResNet-dilated",
    ),
    Mutation(
        "a running variance in float16",
        "flax_attn/layers/norm.py",
        "(1 - momentum) * old + momentum * new).astype(old.dtype)",
        "(1 - momentum) * old + momentum * new).astype(jnp.float16).astype(old.dtype)",
        "tests/catalog/test_parity.py -k SEBasicBlock",
    ),
    Mutation(
        "a loss whose mean counts samples instead of weights",
        "flax_attn/losses/cross_entropy.py",
        "losses.sum() / each.sum() if",
        "losses.mean() if",
        "tests/losses/test_cross_entropy.py -k cross_entropy_is_torchs",
    ),
    Mutation(
        "a loss of hard pixels without ties",
        "flax_attn/losses/ohem.py",
        "(_right(probs, y) <= threshold)",
        "(_right(probs, y) < threshold)",
        "tests/losses/test_segmentation.py -k ties",
    ),
    Mutation(
        "a loss of one trained stage in DETR's recipe",
        "flax_attn/recipes/detection.py",
        "layer[234]",
        "layer[34]",
        "tests/recipes -k detrs_groups",
    ),
    Mutation(
        "parameters in alphabetical order",
        "convert/state_dict.py",
        "tuple(r.key for r in self.rows if not r.statistic)",
        "tuple(sorted(r.key for r in self.rows if not r.statistic))",
    ),
    Mutation(
        "dampening in the first step",
        "flax_attn/optim/optimizers/sgd.py",
        "jnp.where(state.count == 0, 1.0, 1 - dampening)",
        "jnp.asarray(1 - dampening)",
        "tests/optim/test_optimizers.py -k SGD",
    ),
    Mutation(
        "an average that does not begin as a copy",
        "flax_attn/training/ema.py",
        "jnp.where(ema[COUNT] == 0, new, value)",
        "value",
        "tests/training/test_against_torch.py",
    ),
    Mutation(
        "clipping to the norm itself",
        "flax_attn/training/clipping.py",
        "jnp.minimum(max_norm / (norm + 1e-6), 1)",
        "jnp.minimum(max_norm / norm, 1)",
        "tests/training/test_against_torch.py",
    ),
    Mutation(
        "a scheduler that starts again",
        "convert/schedulers/schedules.py",
        "closed(start + jnp.asarray(count))",
        "closed(jnp.asarray(count))",
        "tests/convert/test_takeover.py -k 'one and cycle'",
    ),
    Mutation(
        "the kernel of a gradient is not turned around",
        "flax_attn/layers/convolution_shapes.py",
        "jnp.flip(kernel, range(len(self.size)))",
        "kernel",
        "tests/layers/test_convolution.py -k depthwise",
    ),
    Mutation(
        "groups see each other",
        "flax_attn/layers/convolution_forms.py",
        "own = jnp.eye(groups, dtype=bool)[:, None, :, None]",
        "own = jnp.ones((groups, 1, groups, 1), bool)",
        "tests/layers/test_convolution.py -k groups",
    ),
    Mutation(
        "the parts of a gradient of the input are added at other pixels",
        "flax_attn/layers/convolution_forms.py",
        "lows = [place - low for place",
        "lows = [low - place for place",
        "tests/layers/test_convolution.py -k channels",
    ),
    Mutation(
        "blocks of queries in another order",
        "flax_attn/layers/attention.py",
        "x = jnp.moveaxis(parts, 0, -2)",
        "x = jnp.moveaxis(parts, 0, -3)",
        "tests/layers/test_attention.py",
    ),
    Mutation(
        "the mean of a folded BatchNorm is not scaled",
        "flax_attn/fusing/arithmetic.py",
        'wide["mean"] * factor',
        'wide["mean"]',
        "tests/catalog/test_fuse.py",
    ),
    Mutation(
        "default initialisation of W",
        "torch_ref/blocks/non_local.py",
        "init.zeros_(last.weight)",
        "pass",
        "tests/catalog/test_init.py",
    ),
]


def survives(mutation: Mutation, folder: Path) -> bool:
    """Whether the tests still pass with the bug in ``folder``, a copy of the project."""
    path = folder / mutation.file
    source = path.read_text()
    assert mutation.old in source, f"{mutation.name}: {mutation.old!r} is not in {mutation.file}"
    path.write_text(source.replace(mutation.old, mutation.new, 1))
    options = ["-x", "-q", "-n0", "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", *options, *shlex.split(mutation.tests)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    path.write_text(source)
    if done.returncode not in (0, 1):
        raise RuntimeError(f"{mutation.name}: pytest stopped with {done.returncode}\n{done.stdout[-2000:]}")
    print(
        f"{'SURVIVED' if done.returncode == 0 else 'caught':8} {mutation.name}: {done.stdout.strip().splitlines()[-1]}"
    )
    return done.returncode == 0


def main() -> int:
    """Run every mutation; the number that survived."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("word", nargs="?", default="", help="only mutations whose name contains it")
    word = options.parse_args().word
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "copy"
        shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(".git", ".*cache", "__pycache__", ".venv*"))
        return sum(survives(mutation, folder) for mutation in MUTATIONS if word in mutation.name)


if __name__ == "__main__":
    sys.exit(main())
