"""What the front end needs of a model: its tokenizer, chat template, end ids and defaults."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import jiter

from inferplane.checkpoint import Checkpoint, open_checkpoint
from inferplane.checkpoint.sentence_layout import read_sentence_layout
from inferplane.config import ServeSettings
from inferplane.errors import ConfigError, ModelError
from inferplane.model_config import ModelConfig, read_model_config
from inferplane.model_tasks import class_labels
from inferplane.models.pictures import image_token_id, takes_pictures
from inferplane.server.audio.hearing import Hearing, read_hearing
from inferplane.server.limits import Limits
from inferplane.server.media.picture_processor import PictureProcessor
from inferplane.server.media.prompt import PictureToken
from inferplane.server.schema.kinds import Kind, Number, Whole
from inferplane.server.schema.report import Report
from inferplane.server.tools.formats import Format, Pick, format_named, pick_format
from inferplane.tokenization.chat_template import ChatTemplate
from inferplane.tokenization.tokenizer import Tokenizer, load_tokenizer

__all__ = ["API_DEFAULTS", "ServedModel", "load_served_model"]

API_DEFAULTS: Mapping[str, float] = {
    "temperature": 1.0,
    "top_p": 1.0,
    "top_k": -1,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
}
"""Fields that a model's own files may set, and what the API has otherwise."""
_BOUNDS: Mapping[str, Kind] = {
    "temperature": Number(0, 2),
    "top_p": Number(0, 1, above=True),
    "top_k": Whole(1, (1 << 31) - 1),
    "min_p": Number(0, 1),
    "repetition_penalty": Number(0, 10, above=True),
}
_MAX_FILE_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class ServedModel:
    """One model, as requests meet it."""

    tokenizer: Tokenizer
    template: ChatTemplate | None
    config: ModelConfig
    eos_ids: tuple[int, ...]
    defaults: Mapping[str, float]
    """Sampling values from the model's files that differ from the API's."""
    pick: Pick
    """How it writes calls and thoughts, and how that is known."""

    markers: Mapping[str, frozenset[int]]
    """Format -> special tokens that are part of its text, whatever is hidden else."""
    normalize: bool = True
    """Embeddings have length 1 unless a request asks otherwise."""
    sizes: tuple[int, ...] = ()
    """Lengths to which embeddings may be shortened; () = the model was not trained for it."""
    labels: tuple[str, ...] = ()
    """Names of a classifier's classes."""
    pictures: PictureProcessor | None = None
    """Prepares pictures; None = the model takes none."""
    hearing: Hearing | None = None
    """None = the model hears nothing."""

    def close(self) -> None:
        """End what runs for it."""
        if self.template is not None:
            self.template.close()
        if self.pictures is not None:
            self.pictures.close()
        if self.hearing is not None:
            self.hearing.processor.close()


def load_served_model(settings: ServeSettings) -> ServedModel:
    """Read the model's files. Raises ConfigError or ModelError naming the file at fault."""
    checkpoint = open_checkpoint(Path(settings.launch.config.model))
    tokenizer = load_tokenizer(checkpoint)
    config = read_model_config(checkpoint)
    pictures = _pictures(checkpoint, config, tokenizer)
    token = None if pictures is None else (pictures.token.text, pictures.token.mark)
    template = _template(settings, checkpoint, tokenizer, token)
    pick = pick_format(None if template is None else template.source, config.architecture)
    rows = (pick.format, format_named("hermes"))
    return ServedModel(
        tokenizer,
        template,
        config,
        tuple(dict.fromkeys((*config.eos_ids, *tokenizer.eos_ids))),
        _defaults(settings, checkpoint),
        pick,
        {row.name: _markers(tokenizer, row) for row in rows},
        read_sentence_layout(checkpoint).normalize,
        _sizes(config),
        class_labels(config),
        pictures,
        read_hearing(checkpoint, config, tokenizer, Limits().audio_s),
    )


def _pictures(
    checkpoint: Checkpoint, config: ModelConfig, tokenizer: Tokenizer
) -> PictureProcessor | None:
    """What prepares pictures, not started yet."""
    if not takes_pictures(config):
        return None
    id = image_token_id(config)
    text = tokenizer.backend.id_to_token(id)
    if not text or tokenizer.encode(text) != [id]:
        raise ModelError(
            f"{checkpoint.root}: the tokenizer does not read token {id} as one, by which "
            "config.json marks pictures; serve it with its own tokenizer.json"
        )
    token = PictureToken(id, text, f"<<picture-{secrets.token_hex(16)}>>")
    return PictureProcessor(checkpoint.root, token, Limits().media_pixels)


def _sizes(config: ModelConfig) -> tuple[int, ...]:
    """`matryoshka_dimensions` of config.json."""
    found = config.raw.get("matryoshka_dimensions")
    if not isinstance(found, list):
        return ()
    return tuple(size for size in found if type(size) is int and size > 0)


def _markers(tokenizer: Tokenizer, row: Format) -> frozenset[int]:
    texts = {id: tokenizer.token_text(id) for id in tokenizer.special_ids}
    return frozenset(id for id, text in texts.items() if any(text in m for m in row.markers))


def _template(
    settings: ServeSettings,
    checkpoint: Checkpoint,
    tokenizer: Tokenizer,
    picture: tuple[str, str] | None,
) -> ChatTemplate | None:
    if settings.chat_template is not None:
        source = _read(settings.chat_template, "chat template")
        origin = str(settings.chat_template)
        return ChatTemplate(source, tokenizer, origin=origin, picture=picture)
    if checkpoint.chat_template is None:
        return None
    origin = f"the chat template of {checkpoint.root}"
    return ChatTemplate(checkpoint.chat_template, tokenizer, origin=origin, picture=picture)


def _defaults(settings: ServeSettings, checkpoint: Checkpoint) -> dict[str, float]:
    choice = settings.generation_config
    if choice == "none":
        return {}
    given: Mapping[str, object] = checkpoint.generation_config
    if choice != "model":
        found = jiter.from_json(_read(Path(choice), "generation config").encode())
        if not isinstance(found, dict):
            raise ConfigError(f"generation config {choice}: holds no JSON object")
        given = found
    defaults: dict[str, float] = {}
    for name, kind in _BOUNDS.items():
        value = given.get(name)
        # the reference library writes top_k 0 and null for "off"
        checked = None if value is None else kind.check(value, name, Report())
        if checked is not None and checked != API_DEFAULTS[name]:
            defaults[name] = checked
    return defaults


def _read(path: Path, what: str) -> str:
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(_MAX_FILE_BYTES + 1)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise ConfigError(f"{what} {path}: {reason}") from None
    if len(text) > _MAX_FILE_BYTES:
        raise ConfigError(f"{what} {path}: larger than {_MAX_FILE_BYTES} characters")
    return text
