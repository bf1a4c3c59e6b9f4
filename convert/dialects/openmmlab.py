"""mmpretrain's ResNet and SE-ResNet, and mmdet's DETR.

``mmpretrain``: ``ResNet`` and ``SEResNet`` with ``style="pytorch"``, where the 3x3 convolution strides, and with one
7x7 convolution as the stem. The arithmetic is that of ``resnet50`` and of ``insight_se_resnet50``: the gates have
biases, a ReLU and a sigmoid. Their hidden width is rounded to a multiple of 8, which changes nothing at 50, 101 and 152
layers. The keys do not show ``style="caffe"`` or ``avg_down=True``; such a file is read, but the outputs differ. mmcls
has the same names.

``mmdet``, ``mmdet2``, ``mmdet2_early``: DETR of mmdet 3, of mmdet 2, and of mmdet 2 before version 2.11. The arithmetic
is that of ``detr_resnet50``: the encoder ends without a normalization, and the positions are normalised sines. mmdet's
classes are numbered from 0 to 79 without gaps, so ``num_classes=80``; facebookresearch/detr has COCO's own numbers, up
to 90. mmdet's backbone has BatchNorm whose statistics do not change, here ``FrozenBatchNorm2d``. Its images are not
scaled to 0 to 1 first, but normalised by 255 times the same mean and deviation.
"""

from convert.forms import POINTWISE
from convert.renaming import Dialect, Rule, Rules

SE_LAYER: Rules = tuple(
    rule
    for i, j in ((1, 0), (2, 2))
    for rule in (
        Rule(f"**se_layer.conv{i}.conv.weight", f"**se.fc.{j}.weight", POINTWISE),
        Rule(f"**se_layer.conv{i}.conv.bias", f"**se.fc.{j}.bias"),
    )
)

WHOLE = ("backbone.layer1.0.conv1.weight", "layer1.0.conv1.weight")

CLASSIFIER: Rules = (
    Rule("backbone.conv1.*", "conv1.*", beside=WHOLE),
    Rule("backbone.bn1.*", "bn1.*", beside=WHOLE),
    Rule("backbone.layer#.**", "layer#.**"),
    Rule("head.fc.*", "fc.*"),
)

LAYERS: Rules = (
    Rule("**layers.#.self_attn.attn.**", "**layers.#.self_attn.**"),
    Rule("**layers.#.cross_attn.attn.**", "**layers.#.multihead_attn.**"),
    Rule("**layers.#.ffn.layers.0.0.*", "**layers.#.linear1.*"),
    Rule("**layers.#.ffn.layers.1.*", "**layers.#.linear2.*"),
    *[Rule(f"**layers.#.norms.{i}.*", f"**layers.#.norm{i + 1}.*") for i in range(3)],
    Rule("decoder.post_norm.*", "decoder.norm.*"),
)

NETWORK: Rules = (
    Rule("encoder.**", "transformer.encoder.**"),
    Rule("decoder.**", "transformer.decoder.**"),
    Rule("backbone.**", "backbone.0.body.**"),
    Rule("neck.convs.0.conv.*", "input_proj.*"),
    Rule("positional_encoding.*.weight", "backbone.1.*.weight"),
    Rule("query_embedding.weight", "query_embed.weight"),
    Rule("bbox_head.fc_cls.*", "class_embed.*"),
    Rule("bbox_head.reg_ffn.layers.0.0.*", "bbox_embed.layers.0.*"),
    Rule("bbox_head.reg_ffn.layers.1.*", "bbox_embed.layers.1.*"),
    Rule("bbox_head.fc_reg.*", "bbox_embed.layers.2.*"),
)

CODERS: Rules = (
    Rule("bbox_head.transformer.encoder.**", "encoder.**"),
    Rule("bbox_head.transformer.decoder.**", "decoder.**"),
    Rule("bbox_head.input_proj.*", "neck.convs.0.conv.*"),
    Rule("bbox_head.positional_encoding.*.weight", "positional_encoding.*.weight"),
    Rule("bbox_head.query_embedding.weight", "query_embedding.weight"),
)

SECOND: Rules = (
    Rule("**layers.#.attentions.0.**", "**layers.#.self_attn.**"),
    Rule("**layers.#.attentions.1.**", "**layers.#.cross_attn.**"),
    Rule("**layers.#.ffns.0.**", "**layers.#.ffn.**"),
)

EARLY: Rules = (
    Rule("**layers.#.multihead_attn.**", "**layers.#.cross_attn.**"),
    Rule("decoder.norm.*", "decoder.post_norm.*"),
)

DETR = ("detr_resnet50", "detr_resnet101")
IN_HEAD = "bbox_head.transformer.decoder.layers.#."

DIALECTS = (
    Dialect(
        "mmpretrain",
        "mmpretrain's and mmcls' ResNet and SEResNet, with style='pytorch'",
        (SE_LAYER, CLASSIFIER),
        signature=("backbone.conv1.weight", "backbone.layer1.#.conv1.weight", "head.fc.weight"),
        networks=("resnet*", "insight_se_resnet50", "insight_se_resnet101"),
    ),
    Dialect(
        "mmdet",
        "the DETR of mmdet 3",
        (LAYERS, NETWORK),
        signature=("decoder.layers.#.cross_attn.attn.in_proj_weight", "bbox_head.reg_ffn.layers.0.0.weight"),
        networks=DETR,
    ),
    Dialect(
        "mmdet2",
        "the DETR of mmdet 2",
        (CODERS, SECOND, LAYERS, NETWORK),
        signature=(f"{IN_HEAD}attentions.1.attn.in_proj_weight", "bbox_head.reg_ffn.layers.0.0.weight"),
        networks=DETR,
    ),
    Dialect(
        "mmdet2_early",
        "the DETR of the first versions of mmdet 2 that had it",
        (CODERS, EARLY, LAYERS, NETWORK),
        signature=(f"{IN_HEAD}multihead_attn.attn.in_proj_weight", "bbox_head.reg_ffn.layers.0.0.weight"),
        networks=DETR,
    ),
)
