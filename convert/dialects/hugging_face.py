"""Hugging Face's DETR, with the names of its files and the names that transformers has in memory.

Three things are different in that code. Its ``pixel_mask`` is 1 where there is an image; the mask here, as in
facebookresearch/detr, is True where there is none. With ``auxiliary_loss=True`` it passes the normalized state on to
the next decoder layer, so that the outputs differ. It resizes images with an image processor of its own.

Version 5 of transformers renamed its modules. It still writes files with the old names, which are those of ``hf`` and
``hf_no_timm``, but for learned positions: their names in a file are new, too. ``hf5_learned`` and
``hf5_learned_no_timm`` are the names of such files.
"""

from convert.forms import ROWS
from convert.renaming import Dialect, Rule, Rules


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

HF5_LEARNED: Rules = (Rule("**model.position_embedding.*.weight", "**model.backbone.position_embedding.*.weight"),)
"""The only names that are new in the files of transformers 5."""

ENCODER = "**layers.#.self_attn_layer_norm.weight"
OLD, NEW = (ENCODER, "**layers.#.fc1.weight"), (ENCODER, "**layers.#.mlp.fc1.weight")
TIMM_STEM, OWN_STEM = f"{HF_RESNET}conv1.weight", f"{HF_RESNET}embedder.embedder.convolution.weight"
LEARNED = "**model.position_embedding.row_embeddings.weight"
NETWORKS = ("detr_resnet*",)

DIALECTS = (
    Dialect(
        "hf",
        "Hugging Face's DETR, with the names in its files; pixel_mask is 1 where mask is False",
        (HF_LAYERS, HF_NETWORK),
        signature=(*OLD, TIMM_STEM),
        networks=NETWORKS,
        without=(LEARNED,),
    ),
    Dialect(
        "hf_no_timm",
        "Hugging Face's DETR with the backbone of transformers, as in the revision no_timm",
        (HF_NO_TIMM, HF_LAYERS, HF_NETWORK),
        signature=(*OLD, OWN_STEM),
        networks=NETWORKS,
        without=(LEARNED,),
    ),
    Dialect(
        "hf5",
        "Hugging Face's DETR, with the names that transformers 5 uses in memory",
        (HF5, HF_LAYERS, HF_NETWORK),
        signature=(*NEW, "**model.backbone.model.conv1.weight"),
        networks=NETWORKS,
    ),
    Dialect(
        "hf5_no_timm",
        "Hugging Face's DETR with the backbone of transformers, with the names of transformers 5 in memory",
        (HF5, HF_NO_TIMM, HF_LAYERS, HF_NETWORK),
        signature=(*NEW, "**model.backbone.model.embedder.embedder.convolution.weight"),
        networks=NETWORKS,
    ),
    Dialect(
        "hf5_learned",
        "Hugging Face's DETR with learned positions, with the names in the files that transformers 5 writes",
        (HF5_LEARNED, HF_LAYERS, HF_NETWORK),
        signature=(*OLD, TIMM_STEM, LEARNED),
        networks=NETWORKS,
    ),
    Dialect(
        "hf5_learned_no_timm",
        "the same with the backbone of transformers",
        (HF5_LEARNED, HF_NO_TIMM, HF_LAYERS, HF_NETWORK),
        signature=(*OLD, OWN_STEM, LEARNED),
        networks=NETWORKS,
    ),
)
