"""Entries of the networks, as small as their structure allows."""

from flax_attn.blocks.resnet import BasicBlock, Bottleneck
from flax_attn.blocks.se import SEBasicBlock
from flax_attn.blocks.senet import SENetBottleneck, SEResNetBottleneck
from flax_attn.catalog.entry import PLAIN, Entry, image, plain
from flax_attn.layers import FrozenBatchNorm2d
from flax_attn.models.digits_net import DigitsNet
from flax_attn.models.non_local_net import NonLocalNet
from flax_attn.models.ram import OldRecurrentAttention, RecurrentAttention
from flax_attn.models.resnet import CifarOptionAResNet, CifarPreActResNet, CifarResNet, ResNet
from flax_attn.models.se_inception import SEInception3
from flax_attn.models.se_resnet import CifarSEPreActResNet, CifarSEResNet, SENet, SEResNet

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
    # se_inception
    Entry(
        SEInception3,
        (image(3, 107, 75, n=3),),
        dict(num_classes=5, aux_logits=False, transform_input=True, gated=True),
        outputs=(PLAIN,),
        slow=True,
        kinks="ReLUs and maxima: torch's float32 gradient is 0.03 from its float64 one, 1e-5 with softplus and means",
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
        "154",
        outputs=(PLAIN,),
    ),
    *[
        Entry(cls, (image(3, 13, 11),), dict(n_size=1, num_classes=5, reduction=4), outputs=(PLAIN,))
        for cls in (CifarSEResNet, CifarSEPreActResNet)
    ],
    Entry(NonLocalNet, (image(1, 28, 28),), call=dict(return_nl_map=True), outputs=(PLAIN, PLAIN, PLAIN)),
    Entry(DigitsNet, (image(1, 8, 8),), call=dict(return_nl_map=True), outputs=(PLAIN, PLAIN)),
]
