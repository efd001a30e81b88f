"""Tiny real checkpoints: LLaVA-OneVision, LLaVA-NeXT and Qwen2.5-VL folders made from a seed.

Complete transformers folders (configuration, safetensors, tokenizer, processor, chat template) of
about 1 MB, with a byte-level vocabulary and heads of 32 (the smallest that vLLM's CPU attention
takes). Weights are random but large, so that answers depend on the picture. Two seeds of one
family differ in every tensor and share everything else: they stand for two stages of one study.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image as PILImage

Family = Literal["llava_onevision", "llava_next", "qwen2_5_vl"]
FAMILIES: tuple[Family, ...] = ("llava_onevision", "llava_next", "qwen2_5_vl")

# Larger than the usual 0.02: with that, every picture gets the same answer.
INIT_STD = 0.15
TILE = 48
PATCH = 8
PINPOINTS = [[48, 48], [48, 96], [96, 48], [96, 96], [48, 144], [144, 48]]

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['content'] is string %}{{ m['content'] }}{% else %}"
    "{% for c in m['content'] %}{% if c['type'] == 'image' %}IMAGE_SLOT"
    "{% elif c['type'] == 'text' %}{{ c['text'] }}{% endif %}{% endfor %}{% endif %}"
    "<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
VICUNA = (
    "{% for m in messages %}{{ m['role'].upper() }}: "
    "{% if m['content'] is string %}{{ m['content'] }}{% else %}"
    "{% for c in m['content'] %}{% if c['type'] == 'image' %}<image>\n"
    "{% elif c['type'] == 'text' %}{{ c['text'] }}{% endif %}{% endfor %}{% endif %} "
    "{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


def make_checkpoint(
    folder: Path,
    family: Family,
    seed: int = 0,
    *,
    tied: bool = False,
    keys: Literal["hub", "native"] = "hub",
) -> Path:
    """Write a checkpoint of `family` into `folder` (made if needed) and return the folder.

    `seed` decides every weight. `tied`: the output head is the embedding. `keys`: `hub` names the
    tensors as published checkpoints do (`vision_tower.vision_model...`), `native` as transformers 5
    names them when a model is built from a configuration (vLLM cannot read those).
    """
    import torch

    model, processor = _BUILDERS[family](tied)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator) * INIT_STD
            # Norm scales stay near one: a random sign there only adds dead channels.
            parameter.copy_(1 + noise if _is_scale(parameter) else noise)
    if tied:
        model.tie_weights()
    model.generation_config.do_sample = False
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    if keys == "hub":
        rewrite_tensors(folder, lambda name, tensor: (hub_name(name), tensor))
    return folder


@dataclass(frozen=True)
class MemoryImage:
    """A picture held as PNG bytes; bytes that are no picture fail when they are decoded."""

    data: bytes

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    def read(self) -> bytes:
        return self.data

    def decode(self) -> PILImage.Image:
        from harness.errors import SampleError

        try:
            return PILImage.open(io.BytesIO(self.data)).convert("RGB")
        except OSError:
            raise SampleError("the picture cannot be decoded") from None


def noise_image(seed: int, width: int = 48, height: int = 48) -> MemoryImage:
    """A picture of random pixels: every seed another one."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    stream = io.BytesIO()
    PILImage.fromarray(pixels).save(stream, "PNG")
    return MemoryImage(stream.getvalue())


def hub_name(name: str) -> str:
    """The published checkpoints' name of a tensor that transformers 5 saved.

    >>> hub_name("vision_tower.embeddings.x")
    'vision_tower.vision_model.embeddings.x'
    """
    return re.sub(r"^vision_tower\.(?!vision_model\.)", "vision_tower.vision_model.", name)


def rewrite_tensors(folder: Path, change: Callable[[str, Any], tuple[str, Any] | None]) -> None:
    """Rewrite `folder`'s weights; `change(name, tensor)` gives the new pair, or None to drop it."""
    from safetensors.torch import load_file, save_file

    path = folder / "model.safetensors"
    pairs = [change(name, tensor) for name, tensor in load_file(path).items()]
    kept = {name: tensor.contiguous().clone() for name, tensor in filter(None, pairs)}
    save_file(kept, path, metadata={"format": "pt"})


def _is_scale(parameter: Any) -> bool:
    return parameter.ndim == 1 and bool((parameter == 1).all())


def _tokenizer(specials: dict[str, str], extra: list[str], template: str, bos: bool) -> Any:
    """Byte-level tokenizer: 256 byte tokens, then the special tokens; pads on the left."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    names = list(dict.fromkeys([*specials.values(), *extra]))
    tokenizer.add_special_tokens(names)
    if bos:
        start = specials["bos_token"]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{start} $A", special_tokens=[(start, tokenizer.token_to_id(start))]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        padding_side="left",
        chat_template=template,
        model_max_length=1024,
        additional_special_tokens=extra,
        **specials,
    )


def _text_config(kind: str, vocab: int, tied: bool, ids: dict[str, int]) -> dict[str, Any]:
    return {
        "model_type": kind,
        "vocab_size": vocab,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 32,
        "max_position_embeddings": 1024,
        "tie_word_embeddings": tied,
        **ids,
    }


def _vision_config(kind: str, layers: int, **more: Any) -> dict[str, Any]:
    return {
        "model_type": kind,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": layers,
        "num_attention_heads": 2,
        "image_size": TILE,
        "patch_size": PATCH,
        **more,
    }


def _llava_onevision(tied: bool) -> tuple[Any, Any]:
    from transformers import (
        LlavaOnevisionConfig,
        LlavaOnevisionForConditionalGeneration,
        LlavaOnevisionImageProcessor,
        LlavaOnevisionProcessor,
        LlavaOnevisionVideoProcessor,
    )

    specials = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    extra = ["<|im_start|>", "<image>", "<video>"]
    tokenizer = _tokenizer(specials, extra, CHATML.replace("IMAGE_SLOT", "<image>\n"), bos=False)
    ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    config = LlavaOnevisionConfig(
        text_config=_text_config("qwen2", len(tokenizer), tied, {**ids, "bos_token_id": None}),
        vision_config=_vision_config("siglip_vision_model", 2, vision_use_head=False),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=PINPOINTS,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        vision_aspect_ratio="anyres_max_9",
        tie_word_embeddings=tied,
    )
    processor = LlavaOnevisionProcessor(
        image_processor=LlavaOnevisionImageProcessor(
            size={"height": TILE, "width": TILE}, image_grid_pinpoints=PINPOINTS
        ),
        tokenizer=tokenizer,
        video_processor=LlavaOnevisionVideoProcessor(size={"height": TILE, "width": TILE}),
        num_image_tokens=(TILE // PATCH) ** 2,
        vision_feature_select_strategy="full",
        chat_template=tokenizer.chat_template,
    )
    return LlavaOnevisionForConditionalGeneration(config), processor


def _llava_next(tied: bool) -> tuple[Any, Any]:
    from transformers import (
        LlavaNextConfig,
        LlavaNextForConditionalGeneration,
        LlavaNextImageProcessor,
        LlavaNextProcessor,
    )

    specials = {
        "unk_token": "<unk>",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "pad_token": "<pad>",
    }
    tokenizer = _tokenizer(specials, ["<image>"], VICUNA, bos=True)
    ids = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    config = LlavaNextConfig(
        text_config=_text_config("llama", len(tokenizer), tied, ids),
        vision_config=_vision_config("clip_vision_model", 3, projection_dim=64),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_grid_pinpoints=PINPOINTS,
        image_seq_length=(TILE // PATCH) ** 2,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        tie_word_embeddings=tied,
    )
    processor = LlavaNextProcessor(
        image_processor=LlavaNextImageProcessor(
            size={"shortest_edge": TILE},
            crop_size={"height": TILE, "width": TILE},
            image_grid_pinpoints=PINPOINTS,
        ),
        tokenizer=tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=tokenizer.chat_template,
    )
    return LlavaNextForConditionalGeneration(config), processor


def _qwen2_5_vl(tied: bool) -> tuple[Any, Any]:
    from transformers import (
        Qwen2_5_VLConfig,
        Qwen2_5_VLForConditionalGeneration,
        Qwen2_5_VLProcessor,
        Qwen2VLImageProcessor,
        Qwen2VLVideoProcessor,
    )

    specials = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    marks = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
    slot = "<|vision_start|><|image_pad|><|vision_end|>"
    template = CHATML.replace("IMAGE_SLOT", slot)
    tokenizer = _tokenizer(specials, ["<|im_start|>", *marks], template, bos=False)
    start, end, image, video = tokenizer.convert_tokens_to_ids(marks)
    ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    text = _text_config("qwen2_5_vl_text", len(tokenizer), tied, {**ids, "bos_token_id": None})
    del text["head_dim"]
    # 32 = 2 x (4 + 6 + 6): time, height and width sections of a head of 32.
    text["rope_parameters"] = {
        "rope_type": "default",
        "rope_theta": 10000.0,
        "mrope_section": [4, 6, 6],
    }
    config = Qwen2_5_VLConfig(
        text_config=text,
        vision_config={
            "depth": 2,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_heads": 2,
            "out_hidden_size": 64,
            "patch_size": PATCH,
            "spatial_patch_size": PATCH,
            "window_size": TILE,
            "fullatt_block_indexes": [1],
            "tokens_per_second": 2,
        },
        image_token_id=image,
        video_token_id=video,
        vision_start_token_id=start,
        vision_end_token_id=end,
        tie_word_embeddings=tied,
    )
    pixels: dict[str, Any] = {
        "patch_size": PATCH,
        "merge_size": 2,
        "size": {"shortest_edge": 32 * 32, "longest_edge": 128 * 128},
    }
    processor = Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(**pixels),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(**pixels),
        chat_template=template,
    )
    return Qwen2_5_VLForConditionalGeneration(config), processor


_BUILDERS: dict[Family, Callable[[bool], tuple[Any, Any]]] = {
    "llava_onevision": _llava_onevision,
    "llava_next": _llava_next,
    "qwen2_5_vl": _qwen2_5_vl,
}
