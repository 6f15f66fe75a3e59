"""Small towers of every library and kind, and captions in several scripts."""

from __future__ import annotations

from typing import Any

from mmcontrast.models import (
    DualEncoder,
    ImageTowerSpec,
    ModelSpec,
    SentencePieceTokenizer,
    TextTowerSpec,
    build_dual_encoder,
)

CONTEXT = 24
SIZE = 32
CAPTIONS = [
    "a red dog on the grass",
    "A photo of two green cars!",
    "ein roter Hund läuft über die Wiese",
    "一只狗在草地上跑",
    "犬が芝生の上を走っている",
    "smiling face 🙂",
]
CORPUS = CAPTIONS + [
    f"a {adjective} {colour} {thing} is on the {place}"
    for adjective in ("small", "large")
    for colour in ("red", "green", "blue")
    for thing in ("dog", "cat", "car", "tree", "tennis ball")
    for place in ("grass", "road", "table")
]

TINY_BERT = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
TINY_VIT = {**TINY_BERT, "patch_size": 8}

IMAGE_TOWERS: dict[str, dict[str, Any]] = {
    "timm_resnet": {
        "library": "timm",
        "name": "resnet18",
        "kwargs": {"layers": [1, 1, 1, 1], "channels": [8, 8, 16, 16], "stem_width": 8},
    },
    "timm_vit": {"library": "timm", "name": "test_vit", "kwargs": {"patch_size": 8}},
    "open_clip_vit": {
        "library": "open_clip",
        "kwargs": {"layers": 1, "width": 16, "head_width": 8, "patch_size": 8},
    },
    "open_clip_resnet": {
        "library": "open_clip",
        "kwargs": {"layers": [1, 1, 1, 1], "width": 8, "head_width": 8},
        "projection": "mlp",
    },
    "open_clip_timm": {"library": "open_clip", "kwargs": {"timm_model_name": "test_vit", "timm_pool": "avg"}},
    "hf_clip": {"library": "transformers", "kwargs": {"model_type": "clip_vision_model", **TINY_VIT}},
    "hf_siglip": {"library": "transformers", "kwargs": {"model_type": "siglip_vision_model", **TINY_VIT}},
    "hf_vit": {"library": "transformers", "kwargs": {"model_type": "vit", **TINY_VIT}},
    "hf_dinov2": {
        "library": "transformers",
        "kwargs": {
            "model_type": "dinov2",
            "hidden_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "patch_size": 8,
        },
    },
    "hf_resnet": {
        "library": "transformers",
        "kwargs": {"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]},
    },
}

_OPEN_CLIP_TEXT = {"width": 16, "heads": 2, "layers": 2}
TEXT_TOWERS: dict[str, dict[str, Any]] = {
    "open_clip_causal": {"library": "open_clip", "kwargs": _OPEN_CLIP_TEXT},
    "open_clip_causal_mean": {"library": "open_clip", "kwargs": {**_OPEN_CLIP_TEXT, "pool_type": "mean"}},
    "open_clip_eos": {
        "library": "open_clip",
        "kwargs": {**_OPEN_CLIP_TEXT, "pool_type": "eos", "no_causal_mask": True},
    },
    "open_clip_first": {
        "library": "open_clip",
        "kwargs": {**_OPEN_CLIP_TEXT, "pool_type": "first", "no_causal_mask": True},
    },
    "open_clip_last": {
        "library": "open_clip",
        "kwargs": {**_OPEN_CLIP_TEXT, "pool_type": "last", "no_causal_mask": True},
    },
    "bag_of_words": {"library": "bag_of_words", "kwargs": {"width": 16}, "projection": "mlp"},
    "open_clip_coca": {"library": "open_clip", "kwargs": {**_OPEN_CLIP_TEXT, "embed_cls": True}},
    "hf_bert_mean": {"library": "transformers", "kwargs": {"model_type": "bert", **TINY_BERT}},
    "hf_bert_cls": {"library": "transformers", "kwargs": {"model_type": "bert", "pooling": "cls", **TINY_BERT}},
    "hf_bert_pooler": {"library": "transformers", "kwargs": {"model_type": "bert", "pooling": "pooler", **TINY_BERT}},
    "hf_roberta_eos": {"library": "transformers", "kwargs": {"model_type": "roberta", "pooling": "eos", **TINY_BERT}},
    "hf_xlm_roberta": {"library": "transformers", "kwargs": {"model_type": "xlm-roberta", **TINY_BERT}},
    "hf_distilbert": {
        "library": "transformers",
        "kwargs": {"model_type": "distilbert", "dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 32},
    },
    "hf_t5": {
        "library": "transformers",
        "kwargs": {"model_type": "t5", "d_model": 16, "d_kv": 8, "num_layers": 1, "num_heads": 2, "d_ff": 32},
    },
    "hf_clip": {"library": "transformers", "kwargs": {"model_type": "clip_text_model", **TINY_BERT}},
    "hf_siglip": {"library": "transformers", "kwargs": {"model_type": "siglip_text_model", **TINY_BERT}},
}


def tiny_spec(
    image: str | dict[str, Any] = "timm_resnet", text: str | dict[str, Any] = "open_clip_causal", **values: Any
) -> ModelSpec:
    image = IMAGE_TOWERS[image] if isinstance(image, str) else image
    text = TEXT_TOWERS[text] if isinstance(text, str) else text
    return ModelSpec(
        **{"embed_dim": 12, **values},
        image=ImageTowerSpec(**{"image_size": SIZE, **image}),
        text=TextTowerSpec(**{"context_length": CONTEXT, **text}),
    )


def tiny_model(tokenizer: SentencePieceTokenizer, *args: Any, **values: Any) -> DualEncoder:
    return build_dual_encoder(tiny_spec(*args, **values), tokenizer, seed=0)
