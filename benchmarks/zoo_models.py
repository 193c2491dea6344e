"""Networks as torchvision, timm and transformers define them, small by configuration and with random weights: nothing is downloaded.

Packages are imported where a network is built, so that the list, MODELS, can be read without them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any

import zoo_data as data
from torch import nn
from zoo_data import CLASSES, END, PAD, VOCABULARY, Data


@dataclass(frozen=True)
class ZooModel:
    """A network and what it is tried on."""

    package: str
    name: str
    build: Callable[[], nn.Module]
    data: Callable[[], Data]

    def __str__(self) -> str:
        return f"{self.package}-{self.name}"


def call(module: str, name: str, **arguments: Any) -> nn.Module:
    network: nn.Module = getattr(import_module(module), name)(**arguments)
    return network


# torchvision


def vgg11_bn() -> nn.Module:
    """Return its features and a classifier of 64 instead of 4096 neurons."""
    from torchvision.models import vgg

    features = vgg.make_layers(vgg.cfgs["A"], batch_norm=True)
    classifier = [nn.Linear(512, 64), nn.ReLU(), nn.Dropout(), nn.Linear(64, 64), nn.ReLU(), nn.Dropout(), nn.Linear(64, CLASSES)]
    return nn.Sequential(features, nn.AdaptiveAvgPool2d(1), nn.Flatten(), *classifier)


def convnext() -> nn.Module:
    from torchvision.models.convnext import CNBlockConfig, ConvNeXt

    return ConvNeXt([CNBlockConfig(16, 32, 2), CNBlockConfig(32, 64, 2), CNBlockConfig(64, None, 1)], num_classes=CLASSES)


def regnet_y() -> nn.Module:
    from torchvision.models.regnet import BlockParams, RegNet

    return RegNet(BlockParams.from_init_params(depth=6, w_0=16, w_a=16.0, w_m=2.0, group_width=8, se_ratio=0.25), CLASSES)


def swin_v2() -> nn.Module:
    from torchvision.models import swin_transformer as swin

    blocks = {"block": swin.SwinTransformerBlockV2, "downsample_layer": swin.PatchMergingV2}
    return swin.SwinTransformer([4, 4], 16, [2, 2], [2, 4], [4, 4], num_classes=CLASSES, **blocks)


def segmentation(head: str) -> nn.Module:
    """Return the network of fcn_resnet50 or deeplabv3_resnet50, its backbone with one BasicBlock a stage, a quarter as wide."""
    from torchvision.models._utils import IntermediateLayerGetter
    from torchvision.models.resnet import BasicBlock, ResNet
    from torchvision.models.segmentation import deeplabv3, fcn

    backbone = IntermediateLayerGetter(ResNet(BasicBlock, [1, 1, 1, 1]), {"layer3": "aux", "layer4": "out"})
    aux = fcn.FCNHead(256, CLASSES)
    if head == "fcn":
        return fcn.FCN(backbone, fcn.FCNHead(512, CLASSES), aux)
    return deeplabv3.DeepLabV3(backbone, deeplabv3.DeepLabHead(512, CLASSES, (2, 4, 6)), aux)


def r3d() -> nn.Module:
    from torchvision.models.video import resnet

    return resnet.VideoResNet(resnet.BasicBlock, [resnet.Conv3DSimple] * 4, [1, 1, 1, 1], resnet.BasicStem, num_classes=CLASSES)


def of_torchvision(name: str, **arguments: Any) -> Callable[[], nn.Module]:
    return partial(call, "torchvision.models", name, num_classes=CLASSES, **arguments)


def of_torchvision_class(module: str, name: str, **arguments: Any) -> Callable[[], nn.Module]:
    return partial(call, f"torchvision.models.{module}", name, num_classes=CLASSES, **arguments)


TORCHVISION: Mapping[str, Callable[[], nn.Module]] = {
    **{name: of_torchvision(name) for name in ("resnet18", "mobilenet_v3_small", "efficientnet_b0", "mnasnet0_5", "shufflenet_v2_x0_5")},
    "vgg11_bn": vgg11_bn,
    "densenet": of_torchvision_class("densenet", "DenseNet", growth_rate=8, block_config=(2, 2, 2, 2), num_init_features=16),
    "mobilenet_v2": of_torchvision("mobilenet_v2", width_mult=0.25),
    "convnext": convnext,
    "regnet_y": regnet_y,
    "squeezenet1_1": of_torchvision("squeezenet1_1"),
    "googlenet": of_torchvision("googlenet", init_weights=False),
    "inception_v3": of_torchvision("inception_v3", init_weights=False, aux_logits=False),
    "vit": of_torchvision_class(
        *("vision_transformer", "VisionTransformer"),
        **{"image_size": 32, "patch_size": 8, "num_layers": 2, "num_heads": 2, "hidden_dim": 32, "mlp_dim": 64},
    ),
    "swin": of_torchvision_class(
        *("swin_transformer", "SwinTransformer"),
        **{"patch_size": [4, 4], "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": [4, 4]},
    ),
    "swin_v2": swin_v2,
    "maxvit": of_torchvision_class(
        *("maxvit", "MaxVit"),
        **{"input_size": (64, 64), "partition_size": 4, "stem_channels": 16, "block_channels": [16, 32], "block_layers": [1, 1]},
        **{"head_dim": 8, "stochastic_depth_prob": 0.0},
    ),
    "fcn": partial(segmentation, "fcn"),
    "deeplabv3": partial(segmentation, "deeplabv3"),
    "lraspp_mobilenet_v3_large": partial(
        *(call, "torchvision.models.segmentation", "lraspp_mobilenet_v3_large"),
        **{"weights": None, "weights_backbone": None, "num_classes": CLASSES},
    ),
    "r3d": r3d,
}
TORCHVISION_DATA: Mapping[str, Callable[[], Data]] = {  # the others' are images of 32 pixels a side
    "inception_v3": partial(data.images, 75),
    "maxvit": partial(data.images, 64),
    **dict.fromkeys(("fcn", "deeplabv3", "lraspp_mobilenet_v3_large"), partial(data.pixels, 64)),
    "r3d": partial(data.videos, 32, 4),
}

# timm


def gated_mlp() -> nn.Module:
    """Return the network of gmlp_ti16_224, smaller."""
    from timm.layers import GatedMlp
    from timm.models.mlp_mixer import MlpMixer, SpatialGatingBlock

    return MlpMixer(CLASSES, **PATCHES, num_blocks=2, mlp_ratio=6, block_layer=SpatialGatingBlock, mlp_layer=GatedMlp)


def of_timm(name: str, **arguments: Any) -> Callable[[], nn.Module]:
    return partial(call, "timm", "create_model", model_name=name, num_classes=CLASSES, **arguments)


def of_timm_class(module: str, name: str, **arguments: Any) -> Callable[[], nn.Module]:
    return partial(call, f"timm.models.{module}", name, num_classes=CLASSES, **arguments)


PATCHES = {"img_size": 32, "patch_size": 8, "embed_dim": 32}
SHALLOW = {**PATCHES, "depth": 2, "num_heads": 2}
TIMM: Mapping[str, Callable[[], nn.Module]] = {  # all on images of 32 pixels a side
    **{
        name: of_timm(name)
        for name in ("test_resnet", "test_efficientnet", "test_convnext", "test_nfnet", "test_byobnet", "test_mambaout", "resnet10t")
    },
    "vgg": of_timm_class("vgg", "VGG", cfg=[8, "M", 16, "M", 32, "M"], mlp_ratio=1 / 64),
    "rexnet": of_timm("rexnet_100", width_mult=0.3),
    "ghostnet_050": of_timm("ghostnet_050"),
    "test_vit": of_timm("test_vit", img_size=32, patch_size=8),
    "mixer": of_timm_class("mlp_mixer", "MlpMixer", **PATCHES, num_blocks=2),
    "gmlp": gated_mlp,
    "swin": of_timm_class("swin_transformer", "SwinTransformer", img_size=32, window_size=4, embed_dim=16, depths=(2, 2), num_heads=(2, 4)),
    "levit": of_timm_class("levit", "Levit", img_size=32, embed_dim=(32, 48), depth=(1, 1), num_heads=(2, 3), key_dim=8),
    "coat": of_timm_class("coat", "CoaT", img_size=32, patch_size=4, embed_dims=(16,) * 4, serial_depths=(1,) * 4, parallel_depth=1),
    "eva02": of_timm("eva02_tiny_patch14_224", **SHALLOW),
    "beit": of_timm("beit_base_patch16_224", **SHALLOW),
    "cait": of_timm("cait_xxs24_224", **SHALLOW),
    "xcit": of_timm("xcit_nano_12_p16_224", img_size=32, embed_dim=32, depth=2, num_heads=2),
    "poolformer": of_timm_class("metaformer", "MetaFormer", depths=(1, 1), dims=(16, 32)),
    "mobilevit_xxs": of_timm("mobilevit_xxs"),
    "convmixer": of_timm_class("convmixer", "ConvMixer", dim=32, depth=2, kernel_size=5, patch_size=4),
    "repvgg": of_timm("repvgg_a0"),
    "edgenext_xx_small": of_timm("edgenext_xx_small"),
    "focalnet": of_timm_class("focalnet", "FocalNet", embed_dim=16, depths=(1, 1), focal_levels=(2, 2), focal_windows=(3, 3)),
    "twins": of_timm_class(
        *("twins", "Twins"),
        **{"img_size": 32, "patch_size": 4, "embed_dims": (16, 32), "depths": (2, 2), "num_heads": (2, 4), "mlp_ratios": (2, 2)},
        **{"sr_ratios": (4, 2), "wss": (4, 4)},
    ),
    "tnt": of_timm_class("tnt", "TNT", **PATCHES, inner_dim=8, depth=2, num_heads_inner=2, num_heads_outer=2),
    "sequencer2d": of_timm_class(
        *("sequencer", "Sequencer2d"),
        **{"img_size": 32, "layers": (1, 1), "patch_sizes": (4, 2), "embed_dims": (16, 32), "hidden_sizes": (8, 16), "mlp_ratios": (2, 2)},
    ),
}

# transformers: the kind, its configuration, and the task

DEPTH = {"num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
SMALL = {"hidden_size": 32, **DEPTH, "max_position_embeddings": 32}
NARROW = {**SMALL, "embedding_size": 16}
DECODER = {**SMALL, "num_key_value_heads": 2}
MIXTURE = {**DECODER, "num_experts_per_tok": 2}
LATENT = {f"{part}_dim": 8 for part in ("qk_rope_head", "qk_nope_head", "v_head")} | {"q_lora_rank": 16, "kv_lora_rank": 16}
ROUTED = {"n_routed_experts": 4, "n_group": 1, "topk_group": 1, "moe_intermediate_size": 16, "first_k_dense_replace": 1}
GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 32}
T5 = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "decoder_start_token_id": PAD}
BART = {"d_model": 32, "max_position_embeddings": 32} | {
    f"{part}_{what}": number
    for part in ("encoder", "decoder")
    for what, number in {"layers": 1, "attention_heads": 4, "ffn_dim": 64}.items()
}
FUNNEL = {"d_model": 32, "block_sizes": [1, 1], "n_head": 4, "d_head": 8, "d_inner": 64}
PATCHED = {**SMALL, "image_size": 32, "patch_size": 8}
SEGFORMER = {"hidden_sizes": [16] * 4, "depths": [1] * 4, "num_attention_heads": [1, 2, 2, 2], "decoder_hidden_size": 16}
SOUND = {**SMALL, "conv_dim": (16, 32), "conv_kernel": (10, 3), "conv_stride": (5, 2), "num_feat_extract_layers": 2} | {
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
    "classifier_proj_size": 16,
}
TASKS: Mapping[str, tuple[str, Callable[[], Data]]] = {
    "sentences": ("ForSequenceClassification", data.sentences),
    "words": ("ForTokenClassification", data.tagged_sentences),
    "pictures": ("ForImageClassification", partial(data.pictures, 32)),
    "pixels": ("ForSemanticSegmentation", partial(data.coloured_pictures, 64)),
    "sounds": ("ForSequenceClassification", data.sounds),
}
TRANSFORMERS: Mapping[tuple[str, str], dict[str, Any]] = {
    ("Bert", "sentences"): SMALL,
    ("Bert", "words"): SMALL,
    ("DistilBert", "sentences"): {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64, "max_position_embeddings": 32},
    ("Roberta", "sentences"): SMALL,
    ("Electra", "words"): NARROW,
    ("Albert", "sentences"): NARROW,
    ("DebertaV2", "words"): {**SMALL, "relative_attention": True, "pos_att_type": ["p2c", "c2p"]},
    ("ModernBert", "sentences"): SMALL,
    ("Longformer", "sentences"): {**SMALL, "attention_window": 4},
    ("FNet", "sentences"): SMALL,
    ("Funnel", "sentences"): FUNNEL,
    ("XLNet", "sentences"): {"d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 64},
    ("GPT2", "sentences"): GPT2,
    ("GPT2", "words"): GPT2,
    ("GPTNeoX", "sentences"): SMALL,
    ("OPT", "sentences"): {**SMALL, "ffn_dim": 64, "word_embed_proj_dim": 32},
    ("Bloom", "words"): {"hidden_size": 32, "n_layer": 2, "n_head": 4},
    ("Falcon", "sentences"): SMALL,
    ("Llama", "sentences"): DECODER,
    ("Mistral", "words"): DECODER,
    ("Qwen2", "sentences"): DECODER,
    ("Gemma", "sentences"): {**DECODER, "head_dim": 8},
    ("Mixtral", "sentences"): {**MIXTURE, "num_local_experts": 4},
    ("Qwen2Moe", "words"): {**MIXTURE, "num_experts": 4, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 32},
    ("GptOss", "sentences"): {**MIXTURE, "num_local_experts": 4, "head_dim": 8},
    ("DeepseekV3", "sentences"): {**MIXTURE, **LATENT, **ROUTED, "num_key_value_heads": 4},
    ("T5", "sentences"): T5,
    ("T5", "words"): T5,
    ("Bart", "sentences"): BART,
    ("ViT", "pictures"): PATCHED,
    ("Beit", "pictures"): {**PATCHED, "use_relative_position_bias": True},
    ("CLIP", "pictures"): {"vision_config": PATCHED},
    ("Swin", "pictures"): {"image_size": 32, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4},
    ("ConvNext", "pictures"): {"hidden_sizes": [16, 32], "depths": [2, 2], "num_stages": 2, "image_size": 32},
    ("Segformer", "pictures"): SEGFORMER,
    ("Segformer", "pixels"): SEGFORMER,
    ("Wav2Vec2", "sounds"): SOUND,
    ("WavLM", "sounds"): SOUND,
}


def of_transformers(kind: str, task: str) -> nn.Module:
    import transformers

    settings = {"num_labels": CLASSES, "pad_token_id": PAD, **TRANSFORMERS[kind, task]}
    if task in ("sentences", "words"):
        settings |= {"vocab_size": VOCABULARY, **{f"{name}_token_id": END for name in ("bos", "cls", "eos", "sep")}}
    config = getattr(transformers, f"{kind}Config")(**settings)
    network: nn.Module = getattr(transformers, kind + TASKS[task][0])(config)
    return network


MODELS = [
    *(ZooModel("torchvision", name, build, TORCHVISION_DATA.get(name, partial(data.images, 32))) for name, build in TORCHVISION.items()),
    *(ZooModel("timm", name, build, partial(data.images, 32)) for name, build in TIMM.items()),
    *(
        ZooModel("transformers", f"{kind}{TASKS[task][0]}", partial(of_transformers, kind, task), TASKS[task][1])
        for kind, task in TRANSFORMERS
    ),
]
