"""Checkpoints of tiny random models that see pictures and chat: weights, tokenizer, processor.

A byte-level tokenizer reads any text; the chat template is of the kind that such models come with.
"""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

__all__ = ["CHAT_KINDS", "write_processor", "write_seeing_chat"]

CHAT_KINDS = ("llava", "smolvlm")
_SPECIAL = (
    "<pad>",
    "<s>",
    "</s>",
    "<image>",
    "<fake_token_around_image>",
    "<global-img>",
    "<end_of_utterance>",
)
_TILES = tuple(f"<row_{row}_col_{col}>" for row in range(1, 3) for col in range(1, 3))
_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}: "
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ '<image>' }}{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
)
_SIDE = 24
_VISION = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": _SIDE,
    "patch_size": 4,
    "initializer_range": 0.3,
}
_TEXT = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "initializer_range": 0.3,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_GREY = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "do_rescale": True, "do_normalize": True}


def write_seeing_chat(folder: Path, kind: str, endings: int = 1) -> None:
    """Write a model of `model_type` `kind`, one of CHAT_KINDS; the same bytes each time.

    `endings` tokens end a text: what is drawn at random would hardly ever meet a single one.
    """
    import torch

    library: Any = import_module("transformers")  # seconds, and an extra: only who asks pays
    library.logging.set_verbosity_error()
    library.utils.logging.disable_progress_bar()
    image, size = write_processor(folder, kind)
    vision = {"model_type": "clip_vision_model"} if kind == "llava" else {}
    torch.manual_seed(0)
    config = library.CONFIG_MAPPING[kind](
        text_config=_TEXT | {"vocab_size": size},
        vision_config=_VISION | vision,
        image_token_id=image,
        pad_token_id=0,
        initializer_range=0.3,
        **({} if kind == "llava" else {"scale_factor": 2}),
    )
    library.AutoModelForImageTextToText.from_config(config).eval().save_pretrained(folder)
    ends = [2, *range(size - endings + 1, size)]
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": ends}))


def write_processor(folder: Path, kind: str) -> tuple[int, int]:
    """Write all but config and weights; returns (id of the image token, size of the vocabulary)."""
    folder.mkdir(parents=True, exist_ok=True)
    preprocessor, processor = _LLAVA if kind == "llava" else _SMOLVLM
    (folder / "preprocessor_config.json").write_text(json.dumps(_GREY | preprocessor))
    (folder / "processor_config.json").write_text(json.dumps(processor))
    return _write_tokenizer(folder)


_LLAVA = (
    {
        "image_processor_type": "CLIPImageProcessor",
        "size": {"shortest_edge": _SIDE},
        "crop_size": {"height": _SIDE, "width": _SIDE},
    },
    {
        "processor_class": "LlavaProcessor",
        "patch_size": 4,
        "num_additional_image_tokens": 1,
        "vision_feature_select_strategy": "default",
    },
)
_SMOLVLM = (
    {
        "image_processor_type": "SmolVLMImageProcessor",
        "size": {"longest_edge": 2 * _SIDE},
        "max_image_size": {"longest_edge": _SIDE},
    },
    {"processor_class": "SmolVLMProcessor", "image_seq_len": 9},
)


def _write_tokenizer(folder: Path) -> tuple[int, int]:
    words = (*_SPECIAL, *_TILES, *sorted(pre_tokenizers.ByteLevel.alphabet()))
    vocabulary = {word: id for id, word in enumerate(words)}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    special = [AddedToken(word, special=True, normalized=False) for word in (*_SPECIAL, *_TILES)]
    backend.add_special_tokens(special)
    backend.save(str(folder / "tokenizer.json"))
    stated = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "pad_token": "<pad>",
        "chat_template": _TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(stated))
    return vocabulary["<image>"], len(words)
