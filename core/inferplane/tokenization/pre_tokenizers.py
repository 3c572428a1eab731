"""How texts are cut before byte-level BPE: the patterns behind a GGUF file's `tokenizer.ggml.pre`.

Names and patterns are those of llama.cpp's `src/llama-vocab.cpp`, applied one after the other, each
to the pieces that the ones before it left.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["PreTokenizer", "pre_tokenizer"]


@dataclass(frozen=True, slots=True)
class PreTokenizer:
    """Cutting rules of one family of vocabularies."""

    patterns: tuple[str, ...]
    ignore_merges: bool = False
    """A piece that is a token stays whole, whatever the merges say."""
    adds_bos: bool = False


_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"  # GPT-2
_CONTRACTIONS = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
_TAIL = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_SLASH_TAIL = r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_ENDING = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
_NO_PUNCTUATION = " ?[^(\\s|.,!?…。，、।۔،)]+"
_START = r"[^\r\n\p{L}\p{N}]?"


def _cased(ending: str, digits: str) -> str:
    return (
        f"{_START}{_UPPER}*{_LOWER}+{ending}|{_START}{_UPPER}+{_LOWER}*{ending}|{digits}|"
        f"{_SLASH_TAIL}"
    )


def _table() -> dict[str, PreTokenizer]:
    gpt2 = PreTokenizer((_WORDS,))
    digits = PreTokenizer((r"\p{N}", _WORDS))
    llama3 = (f"{_CONTRACTIONS}|{_START}\\p{{L}}+|\\p{{N}}{{1,3}}|{_TAIL}",)
    qwen2 = PreTokenizer((f"{_CONTRACTIONS}|{_START}\\p{{L}}+|\\p{{N}}|{_TAIL}",))
    gpt4o = PreTokenizer((_cased(_ENDING, r"\p{N}{1,3}"),))
    three = r"[0-9][0-9][0-9]"
    families = {
        ("gpt-2", "phi-2", "jina-es", "jina-de", "mpt", "olmo", "jais", "gigachat"): gpt2,
        ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"): digits,
        ("llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral"): PreTokenizer(
            llama3, ignore_merges=True, adds_bos=True
        ),
        ("chatglm-bpe", "glm4", "dbrx", "smaug-bpe"): PreTokenizer(llama3),
        ("qwen2", "deepseek-r1-qwen", "stablelm2", "hunyuan", "megrez"): qwen2,
        ("tekken",): PreTokenizer((_cased("", r"\p{N}"),), ignore_merges=True, adds_bos=True),
        ("gpt-4o", "llama4"): gpt4o,
        ("falcon",): PreTokenizer((r"[\p{P}\$\+<=>\^~\|`]+", _WORDS, three)),
        ("default",): PreTokenizer((r"[\p{P}\$\+<=>\^~\|]+", _WORDS, r"\p{N}+", three)),
        ("bloom", "poro-chat", "gpt3-finnish"): PreTokenizer((_NO_PUNCTUATION,)),
        ("viking",): PreTokenizer((_NO_PUNCTUATION, r"\p{N}")),
        ("deepseek-v3",): PreTokenizer(
            (
                r"\p{N}{1,3}",
                "[一-龥\u3040-ゟ゠-ヿ]+",
                r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?"
                r"[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
            )
        ),
    }
    return {name: rules for names, rules in families.items() for name in names}


def pre_tokenizer(name: str) -> PreTokenizer:
    """Rules by their GGUF name. Raises KeyError listing the known ones."""
    table = _table()
    if name not in table:
        raise KeyError(", ".join(sorted(table)))
    return table[name]
