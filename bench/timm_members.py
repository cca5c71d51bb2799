"""A small member of every module of timm, for tests and for docs/families.md.

timm keeps one family of networks in a module, and some modules hold several families with one class.
"""

from dataclasses import dataclass, field
from typing import Any

import timm
from torch import nn

from unfreeze.tune.backbones.sources import find_backbone

_SIDE = 64


@dataclass(frozen=True, kw_only=True)
class Member:
    """A small member of a module.

    Args:
        name: timm's name of the network.
        side: height and width of the smallest images that it accepts, of the sizes that were tried.
        options: of timm, to build fewer layers than the network has, or with other initial weights.
    """

    name: str
    side: int = _SIDE
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def backbone(self) -> str:
        """The name as `--backbone` takes it."""
        return f"timm/{self.name}"

    def build(self) -> nn.Module:
        """Build it as a backbone, with random weights from torch's current seed, in eval mode."""
        if self.options:
            model: nn.Module = timm.create_model(self.name, num_classes=0, **self.options)
            return model.eval()
        return find_backbone(self.backbone).build((self.side, self.side)).eval()


MEMBERS = {
    "beit": Member(name="beit_base_patch16_224"),
    "byoanet": Member(name="halonet_h1", side=256),
    "byobnet": Member(name="test_byobnet"),
    # With timm's first layer scales of 1e-5, features of random weights differ between images by rounding errors alone.
    "cait": Member(name="cait_xxs24_224", options={"img_size": _SIDE, "init_values": 1.0}),
    "coat": Member(name="coat_tiny"),
    "convit": Member(name="convit_tiny"),
    "convmixer": Member(name="convmixer_768_32"),
    "convnext": Member(name="test_convnext"),
    "cpubone": Member(name="cpubone_nano"),
    "crossvit": Member(name="crossvit_tiny_240", side=240),
    "csatv2": Member(name="csatv2"),
    "cspnet": Member(name="cs3darknet_focus_s"),
    "cspnext": Member(name="cspnext_tiny"),
    "davit": Member(name="davit_tiny"),
    "deepseek_vit": Member(name="deepseek_vit_412m", side=126, options={"depth": 6}),
    "deit": Member(name="deit_tiny_patch16_224"),
    "densenet": Member(name="densenet121"),
    "dla": Member(name="dla46x_c"),
    "dpn": Member(name="dpn48b"),
    "edgenext": Member(name="edgenext_xx_small"),
    "efficientformer": Member(name="efficientformer_l1", side=224),
    "efficientformer_v2": Member(name="efficientformerv2_s0"),
    "efficientnet": Member(name="test_efficientnet"),
    "efficientvim": Member(name="efficientvim_m1"),
    "efficientvit_mit": Member(name="efficientvit_b0"),
    "efficientvit_msra": Member(name="efficientvit_m0"),
    "eva": Member(name="vit_tiny_patch16_dinov3_qkvb"),
    "fasternet": Member(name="fasternet_t0"),
    "fastvit": Member(name="fastvit_t8"),
    "focalnet": Member(name="focalnet_tiny_srf"),
    "gcvit": Member(name="gcvit_xxtiny"),
    "gemma4_vit": Member(name="gemma4_vit_570m", side=96, options={"depth": 6}),
    "ghostnet": Member(name="ghostnet_050"),
    "hardcorenas": Member(name="hardcorenas_b"),
    "hgnet": Member(name="hgnetv2_b0"),
    "hiera": Member(name="hiera_tiny_224"),
    "hieradet_sam2": Member(name="sam2_hiera_tiny"),
    "hrnet": Member(name="hrnet_w18_small"),
    "iformer": Member(name="iformer_t"),
    "inception_next": Member(name="inception_next_atto"),
    "inception_resnet_v2": Member(name="inception_resnet_v2", side=96),
    "inception_v3": Member(name="inception_v3", side=96),
    "inception_v4": Member(name="inception_v4", side=96),
    "lcnetv2": Member(name="lcnetv2_small"),
    "levit": Member(name="levit_conv_128s"),
    "lowformer": Member(name="lowformer_b0"),
    "mambaout": Member(name="test_mambaout"),
    "maxxvit": Member(name="test_coatnet"),
    "metaformer": Member(name="poolformerv2_s12"),
    "mlp_mixer": Member(name="gmlp_ti16_224"),
    "mobilenetv3": Member(name="mobilenetv3_small_050"),
    "mobilenetv5": Member(name="mobilenetv5_base"),
    "mobilevit": Member(name="mobilevit_xxs"),
    "mvitv2": Member(name="mvitv2_tiny"),
    "naflexvit": Member(name="naflexvit_base_patch16_parfac_gap"),
    "nasnet": Member(name="nasnetalarge"),
    "nest": Member(name="nest_tiny_jx"),
    "nextvit": Member(name="nextvit_small"),
    "nfnet": Member(name="test_nfnet"),
    "pit": Member(name="pit_ti_224"),
    "pnasnet": Member(name="pnasnet5large"),
    "pvt_v2": Member(name="pvt_v2_b0"),
    "qwen3_vit": Member(name="qwen3_vit_88m"),
    "rdnet": Member(name="rdnet_tiny"),
    "regnet": Member(name="regnetx_002"),
    "repghost": Member(name="repghostnet_050"),
    "repvit": Member(name="repvit_m1"),
    "res2net": Member(name="res2next50"),
    "resnest": Member(name="resnest14d"),
    "resnet": Member(name="test_resnet"),
    "resnetv2": Member(name="resnetv2_18"),
    "rexnet": Member(name="rexnet_100"),
    "selecsls": Member(name="selecsls42"),
    "senet": Member(name="legacy_seresnet18"),
    "sequencer": Member(name="sequencer2d_s"),
    "shvit": Member(name="shvit_s1"),
    "sknet": Member(name="skresnet18"),
    "starnet": Member(name="starnet_s050"),
    "swiftformer": Member(name="swiftformer_xs"),
    "swin_transformer": Member(name="swin_tiny_patch4_window7_224"),
    "swin_transformer_v2": Member(name="swinv2_tiny_window16_256"),
    "swin_transformer_v2_cr": Member(name="swinv2_cr_tiny_224"),
    "tiny_vit": Member(name="tiny_vit_5m_224"),
    "tnt": Member(name="tnt_s_legacy_patch16_224"),
    "tresnet": Member(name="tresnet_m"),
    "twins": Member(name="twins_svt_small"),
    "vgg": Member(name="vgg11"),
    "visformer": Member(name="visformer_tiny"),
    "vision_transformer": Member(name="test_vit"),
    "vision_transformer_hybrid": Member(name="vit_tiny_r_s16_p8_224"),
    "vision_transformer_relpos": Member(name="test_vit_relpos"),
    "vision_transformer_sam": Member(name="samvit_base_patch16_224"),
    "vitamin": Member(name="vitamin_small_224"),
    "volo": Member(name="volo_d1_224"),
    "vovnet": Member(name="ese_vovnet19b_slim_dw"),
    "xception": Member(name="legacy_xception"),
    "xception_aligned": Member(name="xception41p"),
    "xcit": Member(name="xcit_nano_12_p16_224"),
}
# Why no graph of blocks can be made of them.
UNTRACEABLE = {
    "crossvit": "its forward method compares the image's size with a branch's, which torch.fx cannot trace",
}
# Why torch's exporter, or ONNX Runtime, refuses their graph.
UNEXPORTED: dict[str, str] = {}
