"""Builds a tokenizer from the metadata of a GGUF file: byte-level BPE, or SentencePiece BPE."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import IntEnum

from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as Backend

from inferplane.errors import ModelError
from inferplane.tokenization.pre_tokenizers import PreTokenizer, pre_tokenizer

__all__ = ["backend_from_gguf"]

_KINDS = "gpt2 (byte-level BPE), llama (SentencePiece BPE)"
_END_KEYS = ("eos", "eot", "eom")
_SPACE = "\N{LOWER ONE EIGHTH BLOCK}"


class _TokenType(IntEnum):
    """`tokenizer.ggml.token_type`, as the GGUF specification numbers them."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


class _Vocabulary:
    """The tokenizer part of a GGUF file's metadata, checked."""

    def __init__(self, metadata: Mapping[str, object], source: str) -> None:
        self.metadata = metadata
        self.source = source
        self.tokens: list[str] = self.strings("tokens")
        types = self.get("token_type")
        self.types: Sequence[int] = (
            types if isinstance(types, Sequence) else [_TokenType.NORMAL] * len(self.tokens)
        )
        self.ids = {token: id for id, token in enumerate(self.tokens)}
        if len(self.types) != len(self.tokens):
            raise self.fault(f"{len(self.types)} token types for {len(self.tokens)} tokens")
        if len(self.ids) != len(self.tokens):
            raise self.fault("a token stands in the vocabulary twice")

    def get(self, key: str) -> object:
        return self.metadata.get(f"tokenizer.ggml.{key}")

    def strings(self, key: str) -> list[str]:
        found = self.get(key)
        if not isinstance(found, Sequence) or not all(isinstance(item, str) for item in found):
            raise self.fault(f"tokenizer.ggml.{key} is missing or not a list of strings")
        return list(found)

    def flag(self, key: str, default: bool) -> bool:
        found = self.get(key)
        return found if isinstance(found, bool) else default

    def token_id(self, name: str) -> int | None:
        """Id under `tokenizer.ggml.<name>_token_id`, if it is in the vocabulary."""
        found = self.get(f"{name}_token_id")
        return found if isinstance(found, int) and 0 <= found < len(self.tokens) else None

    def fault(self, what: str) -> ModelError:
        return ModelError(f"{self.source}: tokenizer in the GGUF metadata: {what}")


def backend_from_gguf(
    metadata: Mapping[str, object], source: str
) -> tuple[Backend, dict[str, str], tuple[int, ...]]:
    """The tokenizer, its named special tokens and its end ids.

    `metadata` holds GGUF key-values with arrays as lists; `source` names the file in errors.
    Raises ModelError for a kind, pre-tokenizer or table it cannot use.
    """
    vocabulary = _Vocabulary(metadata, source)
    kind = vocabulary.get("model")
    if kind == "gpt2":
        backend, adds_bos = _byte_level_bpe(vocabulary)
    elif kind == "llama":
        backend, adds_bos = _sentencepiece_bpe(vocabulary), True
    else:
        raise vocabulary.fault(f"kind {kind!r} is not one of {_KINDS}")
    _add_marked_tokens(vocabulary, backend)
    _add_template(vocabulary, backend, adds_bos)
    names = {
        f"{name}_token": vocabulary.tokens[id]
        for key, name in (("bos", "bos"), ("eos", "eos"), ("unknown", "unk"), ("padding", "pad"))
        if (id := vocabulary.token_id(key)) is not None
    }
    ends = [id for key in _END_KEYS if (id := vocabulary.token_id(key)) is not None]
    return backend, names, tuple(dict.fromkeys(ends))


def _byte_level_bpe(vocabulary: _Vocabulary) -> tuple[Backend, bool]:
    rules = _rules(vocabulary)
    merges: list[tuple[str, str]] = []
    for line in vocabulary.strings("merges"):
        left, _, right = line.partition(" ")
        if not right or not {left, right, left + right} <= vocabulary.ids.keys():
            raise vocabulary.fault(f"merge {line!r} is not of tokens in the vocabulary")
        merges.append((left, right))
    backend = Backend(
        models.BPE(vocab=vocabulary.ids, merges=merges, ignore_merges=rules.ignore_merges)
    )
    cuts: list[pre_tokenizers.PreTokenizer] = [
        pre_tokenizers.Split(Regex(pattern), behavior="isolated") for pattern in rules.patterns
    ]
    spaced = vocabulary.flag("add_space_prefix", default=False)
    cuts.append(pre_tokenizers.ByteLevel(add_prefix_space=spaced, use_regex=False))
    backend.pre_tokenizer = pre_tokenizers.Sequence(cuts)
    backend.decoder = decoders.ByteLevel()
    return backend, rules.adds_bos


def _rules(vocabulary: _Vocabulary) -> PreTokenizer:
    name = vocabulary.get("pre")
    try:
        return pre_tokenizer(str(name) if name is not None else "default")
    except KeyError as error:
        raise vocabulary.fault(
            f"pre-tokenizer {name!r} is not one of {error.args[0]}; a tokenizer.json beside the "
            "file is used instead of it"
        ) from None


def _sentencepiece_bpe(vocabulary: _Vocabulary) -> Backend:
    scores = vocabulary.get("scores")
    if not isinstance(scores, Sequence) or len(scores) != len(vocabulary.tokens):
        raise vocabulary.fault("tokenizer.ggml.scores is missing or not one for each token")
    unknown = vocabulary.token_id("unknown")
    backend = Backend(
        models.BPE(
            vocab=vocabulary.ids,
            merges=_merges_by_score(vocabulary, scores),
            unk_token=None if unknown is None else vocabulary.tokens[unknown],
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    spaced = vocabulary.flag("add_space_prefix", default=True)
    before: list[normalizers.Normalizer] = [normalizers.Prepend(_SPACE)] if spaced else []
    backend.normalizer = normalizers.Sequence([*before, normalizers.Replace(" ", _SPACE)])
    after: list[decoders.Decoder] = [decoders.Strip(" ", 1, 0)] if spaced else []
    backend.decoder = decoders.Sequence(
        [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *after]
    )
    return backend


def _merges_by_score(vocabulary: _Vocabulary, scores: Sequence[float]) -> list[tuple[str, str]]:
    """The merges that SentencePiece makes: the pair whose token scores highest goes first."""
    found: list[tuple[float, int, int, str, str]] = []
    ids = vocabulary.ids
    for token, score, kind in zip(vocabulary.tokens, scores, vocabulary.types, strict=True):
        if kind not in (_TokenType.NORMAL, _TokenType.USER_DEFINED):
            continue
        for cut in range(1, len(token)):
            left, right = token[:cut], token[cut:]
            if left in ids and right in ids:
                found.append((-score, ids[left], ids[right], left, right))
    found.sort()
    return [(left, right) for *_, left, right in found]


def _add_marked_tokens(vocabulary: _Vocabulary, backend: Backend) -> None:
    """Control and user-defined tokens are found whole in text; only control tokens are special."""
    marked = (_TokenType.CONTROL, _TokenType.UNKNOWN, _TokenType.USER_DEFINED)
    backend.add_tokens(
        [
            AddedToken(token, special=kind != _TokenType.USER_DEFINED, normalized=False)
            for token, kind in zip(vocabulary.tokens, vocabulary.types, strict=True)
            if kind in marked and token
        ]
    )


def _add_template(vocabulary: _Vocabulary, backend: Backend, adds_bos: bool) -> None:
    bos = vocabulary.token_id("bos")
    eos = vocabulary.token_id("eos")
    before = bos if vocabulary.flag("add_bos_token", adds_bos) else None
    after = eos if vocabulary.flag("add_eos_token", default=False) else None
    if before is None and after is None:
        return
    tokens = vocabulary.tokens
    first = [] if before is None else [tokens[before]]
    last = [] if after is None else [tokens[after]]
    backend.post_processor = processors.TemplateProcessing(
        single=[*first, "$A", *last],
        pair=[*first, "$A", *last, *first, "$B:1", *last],
        special_tokens=[(tokens[id], id) for id in {before, after} - {None} if id is not None],
    )
