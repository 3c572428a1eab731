"""Small vocabularies of every decoding kind, trained on the spot."""

import pytest
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend

from inferplane.tokenization.tokenizer import SpecialTokens, Tokenizer

CORPUS = [
    "the capital of France is Paris, and the river there is the Seine",
    "stop strings may cross tokens; END ends. naïve café, über 北京 🎉🎉 สวัสดี",
    "def f(x):\n    return [x + 1 for x in range(10)]\n",
] * 4
SPECIALS = ["<|begin|>", "<|end|>"]


def byte_level() -> Tokenizer:
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=SPECIALS,
        show_progress=False,
    )
    backend.train_from_iterator(CORPUS, trainer)
    backend.add_tokens([AddedToken("<tool call>", special=False, normalized=False)])
    return Tokenizer(backend, SpecialTokens({"eos_token": "<|end|>"}, 0, (1,)))


def byte_fallback() -> Tokenizer:
    words = ["▁", "▁the", "▁stop", "t", "h", "e", "s", "o", "p", "é", "▁▁", "E", "N", "D"]
    tokens = ["<unk>", *SPECIALS, *(f"<0x{byte:02X}>" for byte in range(256)), *words]
    backend = Backend(
        models.BPE(
            vocab={token: id for id, token in enumerate(tokens)},
            merges=[],
            unk_token="<unk>",
            byte_fallback=True,
        )
    )
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    backend.add_special_tokens(SPECIALS)
    return Tokenizer(backend, SpecialTokens({}, 1, (2,)))


def word_piece() -> Tokenizer:
    backend = Backend(models.WordPiece(unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.decoder = decoders.WordPiece(cleanup=False)
    trainer = trainers.WordPieceTrainer(
        vocab_size=300, special_tokens=["[UNK]", *SPECIALS], show_progress=False
    )
    backend.train_from_iterator(CORPUS, trainer)
    return Tokenizer(backend)


MAKERS = {"byte_level": byte_level, "byte_fallback": byte_fallback, "word_piece": word_piece}


@pytest.fixture(scope="session", params=sorted(MAKERS))
def any_tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return MAKERS[request.param]()


@pytest.fixture(scope="session")
def bytes_tokenizer() -> Tokenizer:
    return byte_level()


@pytest.fixture(scope="session")
def spm_tokenizer() -> Tokenizer:
    return byte_fallback()
