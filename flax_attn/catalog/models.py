"""Entries of the networks, as small as their structure allows."""

from flax_attn.blocks.resnet import BasicBlock, Bottleneck
from flax_attn.blocks.se import SEBasicBlock, SENetBottleneck, SEResNetBottleneck
from flax_attn.catalog.entry import IMAGE, PLAIN, Entry, Input, Make, image, plain, sized
from flax_attn.layers import FrozenBatchNorm2d
from flax_attn.models.ccnet import CCNet
from flax_attn.models.cifar_resnet import CifarOptionAResNet, CifarPreActResNet, CifarResNet
from flax_attn.models.danet import DANet
from flax_attn.models.detr.demo import DETRdemo
from flax_attn.models.detr.network import DETR, MLP, Backbone, Joiner
from flax_attn.models.detr.segmentation import DETRsegm, MaskHeadSmallConv
from flax_attn.models.digits_net import DigitsNet
from flax_attn.models.ldnet import DecoderBlock, HeadUpdator, LDNet, LDNetResNet34
from flax_attn.models.non_local_net import NonLocalNet
from flax_attn.models.ram import OldRecurrentAttention, RecurrentAttention
from flax_attn.models.res2net import Bottle2neck, Res2Net, pooled_downsample
from flax_attn.models.residual_attention import (
    CifarResidualAttentionModel,
    OldCifarResidualAttentionModel,
    ResidualAttentionModel,
)
from flax_attn.models.resnet import ResNet
from flax_attn.models.se_inception import SEInception3
from flax_attn.models.se_resnet import CifarSEPreActResNet, CifarSEResNet, SENet, SEResNet
from flax_attn.models.sge_resnet import BAMResNet
from flax_attn.models.smt import SMT, OverlapPatchEmbed, SMTBlock, SMTHead
from flax_attn.models.spatial_transformer_net import SpatialTransformerNet

MODELS = [
    # ccnet
    Entry(CCNet, (image(3, 23, 33),), dict(num_classes=5, layers=(1, 1)), outputs=(IMAGE, IMAGE)),
    Entry(
        CCNet,
        (image(3, 23, 33),),
        dict(num_classes=5, layers=(1, 1, 2), recurrence=1, inplace_abn=False),
        tag="abn",
        outputs=(IMAGE, IMAGE),
        slow=True,
    ),
    # danet
    Entry(
        DANet,
        (image(3, 23, 33),),
        dict(num_classes=5, layers=(1, 1), multi_grid=(2,)),
        outputs=(IMAGE,) * 3,
    ),
    Entry(
        DANet,
        (image(3, 23, 33),),
        dict(num_classes=5, layers=(1, 1, 2), deep_stem=False, multi_grid=None),
        tag="plain-stem",
        outputs=(IMAGE,) * 3,
        slow=True,
    ),
    # detr
    Entry(Backbone, (image(3, 33, 41),), dict(block=BasicBlock, layers=(1, 1)), outputs=(IMAGE,) * 2),
    Entry(
        Joiner,
        (image(3, 33, 41), plain(2, 33, 41, kind="bool")),
        dict(block=BasicBlock, layers=(1, 1), hidden_dim=12, position_embedding="learned"),
        outputs=(IMAGE,) * 3,
        slow=True,
    ),
    Entry(MLP, (plain(2, 5, 4),), dict(input_dim=4, hidden_dim=6, output_dim=3, num_layers=3), outputs=(PLAIN,)),
    Entry(
        DETR,
        (image(3, 33, 41), plain(2, 33, 41, kind="bool", name="mask")),
        dict(
            block=BasicBlock,
            layers=(1, 1, 1),
            num_classes=3,
            num_queries=5,
            hidden_dim=16,
            nheads=2,
            enc_layers=1,
            dec_layers=1,
            dim_feedforward=24,
        ),
        outputs=(PLAIN,) * 2,
    ),
    Entry(
        DETR,
        (image(3, 33, 41),),
        dict(
            block=BasicBlock,
            layers=(1, 1, 1),
            num_classes=3,
            num_queries=5,
            aux_loss=True,
            hidden_dim=16,
            nheads=4,
            enc_layers=1,
            dec_layers=3,
            dim_feedforward=24,
            pre_norm=True,
            position_embedding="learned",
        ),
        tag="prenorm",
        outputs=(PLAIN,) * 6,
        slow=True,
    ),
    Entry(
        MaskHeadSmallConv,
        (
            image(12, 3, 2),
            plain(2, 3, 4, 3, 2),
            image(5, 5, 4),
            image(6, 9, 7),
            image(7, 18, 13),
        ),
        dict(dim=16, fpn_dims=(5, 6, 7), context_dim=128),
        outputs=(PLAIN,),
    ),
    Entry(
        DETRsegm,
        (image(3, 33, 41), plain(2, 33, 41, kind="bool", name="mask")),
        dict(
            detr=Make(
                DETR,
                BasicBlock,
                (1, 1, 1, 1),
                num_classes=3,
                num_queries=3,
                aux_loss=True,
                hidden_dim=128,
                nheads=8,
                enc_layers=1,
                dec_layers=2,
                dim_feedforward=24,
            )
        ),
        outputs=(PLAIN,) * 5,
        slow=True,
    ),
    # detr_demo
    Entry(
        DETRdemo,
        (image(3, 33, 41),),
        dict(
            num_classes=3,
            hidden_dim=12,
            nheads=2,
            num_encoder_layers=1,
            num_decoder_layers=2,
            dim_feedforward=24,
            num_queries=5,
            block=BasicBlock,
            layers=(1, 1, 1),
        ),
        outputs=(PLAIN,) * 2,
        slow=True,
    ),
    # digits_net
    Entry(DigitsNet, (image(1, 8, 8),), call=dict(return_nl_map=True), outputs=(PLAIN, PLAIN)),
    # ldnet
    Entry(DecoderBlock, (image("in_channels"),), dict(in_channels=9, out_channels=6)),
    Entry(
        HeadUpdator,
        (image("channels", 10, 6), plain(2, 4, "channels"), image(4, 5, 3)),
        dict(channels=8),
        outputs=(PLAIN,),
    ),
    *[
        Entry(cls, (image(3, 32, 64),), dict(unified_channels=9, layers=(1, 1, 1, 1)), outputs=(IMAGE,) * 5, slow=True)
        for cls in (LDNet, LDNetResNet34)
    ],
    # non_local_net
    Entry(NonLocalNet, (image(1, 28, 28),), call=dict(return_nl_map=True), outputs=(PLAIN, PLAIN, PLAIN)),
    # ram
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
    # res2net
    Entry(Bottle2neck, (image("inplanes"),), dict(inplanes=40, planes=10, base_width=24, scale=3)),
    Entry(
        Bottle2neck,
        (image("inplanes"),),
        dict(inplanes=6, planes=10, stride=2, downsample=Make(pooled_downsample, 6, 40, stride=2), first=True),
        tag="first",
    ),
    Entry(Res2Net, (image(3, 33, 41),), dict(layers=(2, 1), num_classes=5), outputs=(PLAIN,)),
    Entry(
        Res2Net,
        (image(3, 41, 27),),
        dict(layers=(1, 1), base_width=15, scale=3, num_classes=0),
        tag="features",
        outputs=(PLAIN,),
    ),
    # residual_attention
    *[
        Entry(
            cls,
            (Input(lambda module: (2, *module.size, 3)),),
            dict(attention=attention, num_classes=5, size=size, width=3),
            outputs=(PLAIN,),
            slow=slow,
        )
        for cls, attention, size, slow in (
            (ResidualAttentionModel, (2,), (17, 13), True),
            (CifarResidualAttentionModel, (1,), (7, 5), False),
            (OldCifarResidualAttentionModel, (1,), (9, 7), True),
        )
    ],
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
        tag="multi-grid",
        outputs=(PLAIN,),
    ),
    Entry(
        ResNet,
        (image(3, 33, 41),),
        dict(block=Bottleneck, layers=(1, 2), num_classes=5, replace_stride_with_dilation=(True, False, False)),
        tag="dilated",
        outputs=(PLAIN,),
    ),
    *[
        Entry(cls, (image(3, 13, 11),), dict(n_size=1, num_classes=5), outputs=(PLAIN,))
        for cls in (CifarResNet, CifarPreActResNet, CifarOptionAResNet)
    ],
    # se_inception
    Entry(
        SEInception3,
        (image(3, 107, 75, n=3),),
        dict(num_classes=5, aux_logits=False, transform_input=True, gated=True),
        outputs=(PLAIN,),
        slow=True,
    ),
    # se_resnet
    Entry(
        SEResNet,
        (image(3, 33, 41),),
        dict(block=SEBasicBlock, layers=(1, 2), num_classes=5, reduction=24),
        outputs=(PLAIN,),
    ),
    Entry(SENet, (image(3, 35, 41),), dict(block=SEResNetBottleneck, layers=(1, 1), num_classes=5), outputs=(PLAIN,)),
    Entry(
        SENet,
        (image(3, 35, 41),),
        dict(
            block=SENetBottleneck,
            layers=(1, 1),
            num_classes=5,
            groups=2,
            stem_width=9,
            downsample_kernel_size=3,
            dropout_p=0.2,
        ),
        tag="154",
        outputs=(PLAIN,),
        slow=True,
    ),
    *[
        Entry(cls, (image(3, 13, 11),), dict(n_size=1, num_classes=5, reduction=4), outputs=(PLAIN,))
        for cls in (CifarSEResNet, CifarSEPreActResNet)
    ],
    # sge_resnet
    Entry(BAMResNet, (image(3, 33, 41),), dict(block=BasicBlock, layers=(1, 1), num_classes=5), outputs=(PLAIN,)),
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
        tag="layer-scale",
        outputs=(PLAIN,),
    ),
    Entry(SMTHead, (image("in_chans", 13, 11),), dict(head_conv=7, dim=6)),
    *[
        Entry(
            SMTBlock,
            (plain(2, 35, "dim"),),
            dict(dim=6, ca_num_heads=2, sa_num_heads=3, mlp_ratio=1.5, ca_attention=ca, drop_path=0.2, **kwargs),
            tag=tag,
            call=dict(H=7, W=5),
            outputs=(PLAIN,),
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
]
