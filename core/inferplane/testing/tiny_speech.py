"""Tiny random Whispers with a real feature extractor and a tokenizer with its special tokens.

Windows last two seconds, so that long recordings are short. The model is the transformers
library's own.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from inferplane.interfaces import Array
from inferplane.media import MediaItem, media_item

__all__ = [
    "FIRST_TIMESTAMP",
    "LANGUAGES",
    "NUM_BYTES",
    "SPECIAL",
    "speech_features",
    "speech_prompt",
    "write_hearing_model",
]

NUM_BYTES = 256
"""Ids below are bytes of text."""
LANGUAGES = ("en", "de", "fr")
_SECONDS = 2
_TIMESTAMPS = [f"<|{step / 50:.2f}|>" for step in range(_SECONDS * 50 + 1)]
_NAMES = (
    "<|endoftext|>",
    "<|startoftranscript|>",
    *(f"<|{language}|>" for language in LANGUAGES),
    "<|translate|>",
    "<|transcribe|>",
    "<|startoflm|>",
    "<|startofprev|>",
    "<|nospeech|>",
    "<|notimestamps|>",
)
SPECIAL = {name: NUM_BYTES + place for place, name in enumerate(_NAMES)}
"""Id of each special token."""
FIRST_TIMESTAMP = NUM_BYTES + len(_NAMES)
_VOCAB_SIZE = FIRST_TIMESTAMP + len(_TIMESTAMPS)
_MEL_BINS = 16
_FRAMES = _SECONDS * 100
_PADDED = 128


def speech_features(seed: int) -> Array:
    """What a feature extractor would give for one window: f32[C,F]."""
    random = np.random.default_rng(seed)
    return random.standard_normal((_MEL_BINS, _FRAMES)).astype(np.float32)


def speech_prompt(seed: int, text: Sequence[int]) -> tuple[list[int], tuple[MediaItem, ...]]:
    """A window of each seed before `text`."""
    item = media_item(
        offset=0,
        length=_FRAMES // 2,
        arrays={"input_features": speech_features(seed)},
        kind="audio",
    )
    return [SPECIAL["<|startoftranscript|>"]] * _PADDED + list(text), (item,)


def write_hearing_model(folder: Path, layers: int = 2, most_text: int = 64) -> Any:
    """Write model, tokenizer and feature extractor, the same each time; the library's model."""
    import torch

    library: Any = import_module("transformers")  # seconds, and an extra: only who asks pays
    library.logging.set_verbosity_error()
    library.utils.logging.disable_progress_bar()
    torch.manual_seed(0)
    end = SPECIAL["<|endoftext|>"]
    config = library.WhisperConfig(
        vocab_size=_VOCAB_SIZE,
        num_mel_bins=_MEL_BINS,
        encoder_layers=layers + 1,
        encoder_attention_heads=2,
        encoder_ffn_dim=64,
        decoder_layers=layers,
        decoder_attention_heads=4,
        decoder_ffn_dim=96,
        d_model=64,
        max_source_positions=_FRAMES // 2,
        max_target_positions=most_text,
        decoder_start_token_id=SPECIAL["<|startoftranscript|>"],
        bos_token_id=end,
        eos_token_id=end,
        pad_token_id=end,
        begin_suppress_tokens=[32, end],
        init_std=0.2,
    )
    model = library.WhisperForConditionalGeneration(config).eval()
    _listen_well(model.model.decoder)
    _say_what_to_generate(model.generation_config)
    model.save_pretrained(folder)
    library.WhisperFeatureExtractor(feature_size=_MEL_BINS, chunk_length=_SECONDS).save_pretrained(
        folder
    )
    _write_tokenizer(folder)
    return model


def _listen_well(decoder: Any) -> None:
    """Else a random model repeats the token it sees, whatever it hears."""
    import torch

    with torch.no_grad():
        decoder.layer_norm.weight.normal_()
        for layer in decoder.layers:
            layer.encoder_attn.q_proj.weight.mul_(4)
            layer.encoder_attn.out_proj.weight.mul_(4)


def _say_what_to_generate(generation: Any) -> None:
    told = dict(
        is_multilingual=True,
        lang_to_id={f"<|{name}|>": SPECIAL[f"<|{name}|>"] for name in LANGUAGES},
        task_to_id={name: SPECIAL[f"<|{name}|>"] for name in ("translate", "transcribe")},
        no_timestamps_token_id=SPECIAL["<|notimestamps|>"],
        prev_sot_token_id=SPECIAL["<|startofprev|>"],
        suppress_tokens=[
            7,
            *(SPECIAL[f"<|{n}|>"] for n in ("translate", "transcribe", "startoflm")),
            *(SPECIAL[f"<|{n}|>"] for n in ("startofprev", "nospeech", "startoftranscript")),
        ],
        begin_suppress_tokens=[32, SPECIAL["<|endoftext|>"]],
        max_initial_timestamp_index=50,
    )
    for name, value in told.items():
        setattr(generation, name, value)


def _write_tokenizer(folder: Path) -> None:
    """Bytes, then the special tokens."""
    library: Any = import_module("tokenizers")
    alphabet = _byte_characters()
    model = library.models.BPE(vocab={char: id for id, char in enumerate(alphabet)}, merges=[])
    tokenizer = library.Tokenizer(model)
    tokenizer.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = library.decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL))
    added = [library.AddedToken(name, special=False, normalized=False) for name in _TIMESTAMPS]
    tokenizer.add_tokens(added)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "WhisperTokenizer", "eos_token": "<|endoftext|>"})
    )


def _byte_characters() -> list[str]:
    """The character that stands for each byte in byte-level vocabularies (as GPT-2's)."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(byte if byte in plain else next(others)) for byte in range(256)]
