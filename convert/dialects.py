"""Tables of the names that other code uses for the networks here. Each table is applied in both directions.

``hf``, ``hf_no_timm``, ``hf5``, ``hf5_no_timm``: Hugging Face's DETR. Three things are different there. Its
``pixel_mask`` is 1 where there is an image; the mask here, as in facebookresearch/detr, is True where there is none.
With ``auxiliary_loss=True`` it passes the normalized state on to the next decoder layer, so that the outputs differ. It
resizes images with an image processor of its own.
``timm``, ``cadene``: SE networks whose gate has 1x1 convolutions in place of linear layers. In some of Cadene's, the
stem is in a ``layer0``.
``mmseg``: the heads of DANet and CCNet, and mmcv's criss-cross attention. ReLU follows the normalization of a CCHead:
``RCCAModule(..., inplace_abn=False, activation="relu")``, with ``recurrence=2``.
``mmcv_nonlocal``, ``mmcv_nonlocal_scaled``: mmcv's ``NonLocal1d`` to ``NonLocal3d``. With ``use_scale`` an embedded
Gaussian divides its products by the square root of their width; here ``theta`` is divided in its place. The keys do
not show which of the two a file is.
``inplace_abn``: a checkpoint of InPlaceABN, which scales by |weight| + eps, for a network with plain BatchNorm. Its
keys are those here, so it is used only if it is named. It can be read, but not written.
``akamaster``: CIFAR ResNets whose classifier is called ``linear``.
``smt_dense``: the copies of SMT for detection and segmentation.
"""

from collections.abc import Iterable

from convert.renaming import POINTWISE, POSITIVE, ROWS, SCALAR, SCALED, ZEROS, Dialect, Rule, Rules


def projections(template: str) -> tuple[str, ...]:
    """The templates of the query, the key and the value, which ``in_proj`` holds as one array in this order."""
    return tuple(template.format(which) for which in "qkv")


HF_LAYERS: Rules = (
    Rule(projections("**self_attn.{}_proj.*"), "**self_attn.in_proj_*", ROWS),
    Rule(projections("**encoder_attn.{}_proj.*"), "**multihead_attn.in_proj_*", ROWS),
    Rule("**encoder_attn.out_proj.*", "**multihead_attn.out_proj.*"),
    Rule("**layers.#.fc#.*", "**layers.#.linear#.*"),
    Rule("**layers.#.self_attn_layer_norm.*", "**layers.#.norm1.*"),
    Rule("**encoder.layers.#.final_layer_norm.*", "**encoder.layers.#.norm2.*"),
    Rule("**decoder.layers.#.encoder_attn_layer_norm.*", "**decoder.layers.#.norm2.*"),
    Rule("**decoder.layers.#.final_layer_norm.*", "**decoder.layers.#.norm3.*"),
    Rule("**encoder.layernorm.*", "**encoder.norm.*"),
    Rule("**decoder.layernorm.*", "**decoder.norm.*"),
)

HF_NETWORK: Rules = (
    Rule("**model.backbone.conv_encoder.model.**", "**backbone.0.body.**"),
    Rule("**model.backbone.position_embedding.row_embeddings.weight", "**backbone.1.row_embed.weight"),
    Rule("**model.backbone.position_embedding.column_embeddings.weight", "**backbone.1.col_embed.weight"),
    Rule("**model.encoder.**", "**transformer.encoder.**"),
    Rule("**model.decoder.**", "**transformer.decoder.**"),
    Rule("**model.query_position_embeddings.weight", "**query_embed.weight"),
    Rule("**model.input_projection.*", "**input_proj.*"),
    Rule("**class_labels_classifier.*", "**class_embed.*"),
    Rule("**bbox_predictor.layers.#.*", "**bbox_embed.layers.#.*"),
)

HF_RESNET = "**backbone.conv_encoder.model."

HF_NO_TIMM: Rules = (
    Rule(f"{HF_RESNET}embedder.embedder.convolution.*", f"{HF_RESNET}conv1.*"),
    Rule(f"{HF_RESNET}embedder.embedder.normalization.*", f"{HF_RESNET}bn1.*"),
    *[
        Rule(f"{HF_RESNET}encoder.stages.{i}.layers.#.{theirs}.*", f"{HF_RESNET}layer{i + 1}.#.{ours}.*")
        for i in range(4)
        for theirs, ours in (
            ("shortcut.convolution", "downsample.0"),
            ("shortcut.normalization", "downsample.1"),
            *((f"layer.{j}.convolution", f"conv{j + 1}") for j in range(3)),
            *((f"layer.{j}.normalization", f"bn{j + 1}") for j in range(3)),
        )
    ],
)

HF5: Rules = (
    Rule("**model.backbone.model.**", "**model.backbone.conv_encoder.model.**"),
    Rule("**model.position_embedding.*.weight", "**model.backbone.position_embedding.*.weight"),
    Rule("**self_attn.o_proj.*", "**self_attn.out_proj.*"),
    Rule("**encoder_attn.o_proj.*", "**encoder_attn.out_proj.*"),
    Rule("**layers.#.mlp.fc#.*", "**layers.#.fc#.*"),
    *[
        Rule(f"mask_head.{theirs}.*", f"mask_head.{ours}.*")
        for theirs, ours in (
            *((f"conv{i}.conv", f"lay{i}") for i in (1, 2)),
            *((f"conv{i}.norm", f"gn{i}") for i in (1, 2)),
            *((f"fpn_stages.{i}.refine.conv", f"lay{i + 3}") for i in range(3)),
            *((f"fpn_stages.{i}.refine.norm", f"gn{i + 3}") for i in range(3)),
            *((f"fpn_stages.{i}.fpn_adapter", f"adapter{i + 1}") for i in range(3)),
            ("output_conv", "out_lay"),
        )
    ],
    Rule("bbox_attention.q_proj.*", "bbox_attention.q_linear.*"),
    Rule("bbox_attention.k_proj.*", "bbox_attention.k_linear.*"),
)

TIMM: Rules = (
    Rule("**se.fc1.weight", "**se.fc.0.weight", POINTWISE),
    Rule("**se.fc1.bias", "**se.fc.0.bias"),
    Rule("**se.fc2.weight", "**se.fc.2.weight", POINTWISE),
    Rule("**se.fc2.bias", "**se.fc.2.bias"),
)

SENET154 = ("layer0.conv2.weight", "conv1.3.weight")

CADENE: Rules = (
    Rule("layer0.conv1.*", "conv1.0.*", beside=SENET154),
    Rule("layer0.bn1.*", "conv1.1.*", beside=SENET154),
    Rule("layer0.conv2.*", "conv1.3.*", beside=SENET154),
    Rule("layer0.bn2.*", "conv1.4.*", beside=SENET154),
    Rule("layer0.conv3.*", "conv1.6.*", beside=SENET154),
    Rule("layer0.bn3.*", "bn1.*", beside=SENET154),
    Rule("layer0.conv1.*", "conv1.*"),
    Rule("layer0.bn1.*", "bn1.*"),
    Rule("**se_module.fc#.*", "**se.fc#.*"),
    Rule("last_linear.*", "fc.*"),
)

DANET_HEAD = ("**pam.gamma.scale", "**sa.gamma")
CCNET_HEAD = ("**cca.gamma.scale", "**cca.gamma")

MMSEG: Rules = (
    Rule("**pam.gamma.scale", "**sa.gamma", SCALAR),
    Rule("**cam.gamma.scale", "**sc.gamma", SCALAR),
    Rule("**gamma.scale", "**gamma", SCALAR),
    *[Rule(f"**pam.{which}_project.*", f"**sa.{which}_conv.*") for which in ("query", "key", "value")],
    *[
        Rule(f"**{theirs}.{layer}.*", f"**{ours}.{i}.*")
        for theirs, ours in (
            ("pam_in_conv", "conv5a"),
            ("cam_in_conv", "conv5c"),
            ("pam_out_conv", "conv51"),
            ("cam_out_conv", "conv52"),
            ("convs.0", "conva"),
            ("convs.1", "convb"),
            ("conv_cat", "bottleneck"),
        )
        for i, layer in enumerate(("conv", "bn"))
    ],
    Rule("**pam_conv_seg.*", "**conv6.1.*"),
    Rule("**cam_conv_seg.*", "**conv7.1.*"),
    Rule("**conv_seg.*", "**conv8.1.*", beside=DANET_HEAD),
    Rule("**conv_seg.*", "**bottleneck.3.*", beside=CCNET_HEAD),
)

NORMALISED = ("**conv_out.bn.weight", "**W.1.weight")

NONLOCAL: Rules = (
    Rule("**conv_out.conv.weight", "**W.0.bias", ZEROS, beside=NORMALISED, added=True),
    Rule("**conv_out.conv.*", "**W.0.*", beside=NORMALISED),
    Rule("**conv_out.bn.*", "**W.1.*"),
    Rule("**conv_out.conv.*", "**W.*"),
    Rule("**concat_project.conv.weight", "**concat_project.0.weight"),
    *[Rule(f"**{name}.0.conv.*", f"**{name}.0.*") for name in ("g", "phi")],
    *[Rule(f"**{name}.conv.*", f"**{name}.*") for name in ("g", "phi")],
)

DIALECTS = (
    Dialect(
        "hf",
        "Hugging Face's DETR, with the names in its files; pixel_mask is 1 where mask is False",
        (HF_LAYERS, HF_NETWORK),
        signature=("**layers.#.self_attn_layer_norm.weight", "**layers.#.fc1.weight", f"{HF_RESNET}conv1.weight"),
        networks=("detr_resnet*",),
    ),
    Dialect(
        "hf_no_timm",
        "Hugging Face's DETR with the backbone of transformers, as in the revision no_timm",
        (HF_NO_TIMM, HF_LAYERS, HF_NETWORK),
        signature=(
            "**layers.#.self_attn_layer_norm.weight",
            "**layers.#.fc1.weight",
            f"{HF_RESNET}embedder.embedder.convolution.weight",
        ),
        networks=("detr_resnet*",),
    ),
    Dialect(
        "hf5",
        "Hugging Face's DETR, with the names that transformers 5 uses in memory",
        (HF5, HF_LAYERS, HF_NETWORK),
        signature=(
            "**layers.#.self_attn_layer_norm.weight",
            "**layers.#.mlp.fc1.weight",
            "**model.backbone.model.conv1.weight",
        ),
        networks=("detr_resnet*",),
    ),
    Dialect(
        "hf5_no_timm",
        "Hugging Face's DETR with the backbone of transformers, with the names of transformers 5",
        (HF5, HF_NO_TIMM, HF_LAYERS, HF_NETWORK),
        signature=(
            "**layers.#.self_attn_layer_norm.weight",
            "**layers.#.mlp.fc1.weight",
            "**model.backbone.model.embedder.embedder.convolution.weight",
        ),
        networks=("detr_resnet*",),
    ),
    Dialect(
        "timm",
        "timm's SE networks",
        (TIMM,),
        signature=("**se.fc1.weight", "**se.fc2.weight"),
        networks=("timm_*",),
    ),
    Dialect(
        "cadene",
        "Cadene's SE networks, timm's legacy_*",
        (CADENE, TIMM),
        signature=("layer0.conv1.weight", "**se_module.fc1.weight", "**se_module.fc2.weight"),
        networks=("legacy_*",),
    ),
    Dialect(
        "mmseg",
        "mmseg's DAHead and CCHead (with ReLU, so activation='relu' and inplace_abn=False), mmcv's CrissCrossAttention",
        (MMSEG,),
        signature=("**gamma.scale",),
    ),
    Dialect(
        "mmcv_nonlocal",
        "mmcv's NonLocal1d to 3d; an embedded Gaussian with use_scale=False",
        ((*NONLOCAL, Rule("**theta.conv.*", "**theta.*")),),
        signature=("**conv_out.conv.weight",),
    ),
    Dialect(
        "mmcv_nonlocal_scaled",
        "mmcv's NonLocal1d to 3d, an embedded Gaussian with use_scale=True, their default",
        ((*NONLOCAL, Rule("**theta.conv.*", "**theta.*", SCALED)),),
        signature=("**conv_out.conv.weight", "**theta.conv.weight"),
        without=("**concat_project.conv.weight",),
    ),
    Dialect(
        "inplace_abn",
        "InPlaceABN's weights as those of plain BatchNorm, |weight| + eps",
        ((Rule("**weight", "**weight", POSITIVE, beside=("**running_var", "**running_var")),),),
        networks=("ccnet_*",),
    ),
    Dialect(
        "akamaster",
        "akamaster's CIFAR ResNets",
        ((Rule("linear.*", "fc.*"), Rule("**shortcut.#.*", "**downsample.#.*")),),
        signature=("linear.weight", "layer1.0.conv1.weight"),
        networks=("cifar_resnet*",),
    ),
    Dialect(
        "smt_dense",
        "SMT's copies for detection and segmentation",
        ((Rule("**attn.dw_conv.*", "**attn.local_conv.*"),),),
        signature=("**attn.dw_conv.weight",),
        networks=("smt_*",),
    ),
)

NATIVE, AUTO = "native", "auto"


def find_dialect(name: str) -> Dialect:
    """The dialect called ``name``. ValueError if there is none."""
    known = {dialect.name: dialect for dialect in DIALECTS}
    if name not in known:
        raise ValueError(f"no dialect is called {name!r}; there are {', '.join(known)}, {NATIVE} and {AUTO}")
    return known[name]


def detect(keys: Iterable[str]) -> list[Dialect]:
    """The dialects whose signature ``keys`` have. The names here have the signature of none."""
    keys = list(keys)
    return [dialect for dialect in DIALECTS if dialect.speaks(keys)]


def choose(name: str | None, keys: Iterable[str]) -> Dialect | None:
    """The dialect called ``name``. None and "native": the names here, so no dialect; "auto": the one ``keys`` show.

    Raises:
        ValueError: if there is no such dialect, or if with "auto" the keys may be those of several dialects.
    """
    if name is None or name == NATIVE:
        return None
    if name != AUTO:
        return find_dialect(name)
    found = detect(keys)
    if len(found) > 1:
        names = " or ".join(dialect.name for dialect in found)
        raise ValueError(f"the names may be those of {names}, and do not tell which: name the dialect")
    return found[0] if found else None
