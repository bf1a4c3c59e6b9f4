"""Entries of the networks, as small as their structure allows."""

from flax_attn.blocks.resnet import BasicBlock, Bottleneck
from flax_attn.catalog.entry import PLAIN, Entry, image, plain, sized
from flax_attn.layers import FrozenBatchNorm2d
from flax_attn.models.digits_net import DigitsNet
from flax_attn.models.non_local_net import NonLocalNet
from flax_attn.models.ram import OldRecurrentAttention, RecurrentAttention
from flax_attn.models.resnet import CifarOptionAResNet, CifarPreActResNet, CifarResNet, ResNet
from flax_attn.models.smt import SMT, OverlapPatchEmbed, SMTBlock, SMTHead
from flax_attn.models.spatial_transformer_net import SpatialTransformerNet

MODELS = [
    # resnet
    Entry(ResNet, (image(3, 33, 41),), dict(block=BasicBlock, layers=(1, 2), num_classes=5), outputs=(PLAIN,)),
    Entry(
        ResNet,
        (image(3, 33, 41),),
        dict(
            block=Bottleneck,
            layers=(1, 2),
            num_classes=0,
            replace_stride_with_dilation=(True, False, False),
            norm_layer=FrozenBatchNorm2d,
            stem_width=9,
            multi_grid=(2, 3),
        ),
        "dilated",
        outputs=(PLAIN,),
    ),
    *[
        Entry(cls, (image(3, 13, 11),), dict(n_size=1, num_classes=5), outputs=(PLAIN,))
        for cls in (CifarResNet, CifarPreActResNet, CifarOptionAResNet)
    ],
    # smt
    Entry(
        SMT,
        (image(3, 33, 41),),
        dict(
            num_classes=5,
            embed_dims=(4, 6, 8),
            ca_num_heads=(2, 3, 2),
            sa_num_heads=(-1, -1, 4),
            mlp_ratios=(4.0, 4.0, 2.0),
            depths=(1, 1, 2),
            ca_attentions=(1, 1, 1),
            drop_rate=0.1,
            attn_drop_rate=0.1,
        ),
        outputs=(PLAIN,),
    ),
    Entry(
        SMT,
        (image(2, 33, 41),),
        dict(
            in_chans=2,
            num_classes=0,
            embed_dims=(4, 6),
            ca_num_heads=(2, -1),
            sa_num_heads=(-1, 3),
            mlp_ratios=(1.5, 2.0),
            qkv_bias=False,
            qk_scale=0.4,
            use_layerscale=True,
            layerscale_value=0.3,
            depths=(1, 1),
            ca_attentions=(1, 0),
            head_conv=7,
            expand_ratio=3,
        ),
        "layer-scale",
        outputs=(PLAIN,),
    ),
    Entry(SMTHead, (image("in_chans", 13, 11),), dict(head_conv=7, dim=6)),
    *[
        Entry(
            SMTBlock,
            (plain(2, 35, "dim"),),
            dict(dim=6, ca_num_heads=2, sa_num_heads=3, mlp_ratio=1.5, ca_attention=ca, drop_path=0.2, **kwargs),
            tag,
            dict(H=7, W=5),
            (PLAIN,),
        )
        for ca, kwargs, tag in ((1, {}, ""), (0, dict(use_layerscale=True), "attention"))
    ],
    Entry(OverlapPatchEmbed, (image("in_chans"),), dict(in_chans=3, embed_dim=4)),
    # spatial_transformer_net
    Entry(
        SpatialTransformerNet,
        (sized("size"),),
        dict(in_channels=2, size=(21, 18), channels=(5,), kernel_sizes=(4,), pools=(3,), hidden=6, num_classes=4),
        outputs=(PLAIN,),
    ),
    *[
        Entry(
            cls,
            (
                image("c", 9, 9),
                plain(2, 2, kind="uniform"),
                plain(2, "hidden_size"),
                plain(2, 2, name="noise"),
            ),
            dict(g=4, k=2, s=2.0, c=3, h_g=5, h_l=4, std=0.17, hidden_size=6, num_classes=3),
            call=dict(last=True),
            outputs=(PLAIN,) * 5,
        )
        for cls in (RecurrentAttention, OldRecurrentAttention)
    ],
    Entry(NonLocalNet, (image(1, 28, 28),), call=dict(return_nl_map=True), outputs=(PLAIN, PLAIN, PLAIN)),
    Entry(DigitsNet, (image(1, 8, 8),), call=dict(return_nl_map=True), outputs=(PLAIN, PLAIN)),
]
