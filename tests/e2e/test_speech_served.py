"""Recordings through the whole server by OpenAI's official client: a tiny random Whisper."""

import io
import json
import re
import subprocess
import sys
import warnings
import wave
from collections.abc import Iterator
from pathlib import Path

import httpx2
import numpy as np
import openai
import pytest
import torch

from inferplane.testing.tiny_speech import (
    FIRST_TIMESTAMP,
    LANGUAGES,
    SPECIAL,
    write_hearing_model,
)

av = pytest.importorskip("av")
transformers = pytest.importorskip("transformers")
MODEL = "tiny-whisper"
RATE = 16_000
MOST_TEXT = 64


def tones(seed: int, seconds: float) -> np.ndarray:
    """i16: a few tones that come and go."""
    random = np.random.default_rng(seed)
    at = np.arange(int(seconds * RATE)) / RATE
    parts = [np.sin(2 * np.pi * f * at) * (np.sin(at * g) > 0) for f, g in _pairs(random)]
    return (np.sum(parts, 0) / len(parts) * 20_000).astype(np.int16)


def _pairs(random: np.random.Generator) -> list[tuple[float, float]]:
    return [(random.uniform(100, 6000), random.uniform(3, 30)) for _ in range(5)]


def as_wav(samples: np.ndarray) -> bytes:
    data = io.BytesIO()
    with wave.open(data, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(samples.tobytes())
    return data.getvalue()


def encoded(samples: np.ndarray, container: str, codec: str, rate: int = RATE) -> bytes:
    data = io.BytesIO()
    with av.open(data, "w", format=container) as file:
        stream = file.add_stream(codec, rate=rate, layout="mono")
        shape = av.AudioResampler(format=stream.format, layout="mono", rate=rate)
        frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
        frame.sample_rate = rate
        fifo = av.AudioFifo()
        for part in (*shape.resample(frame), *shape.resample(None)):
            part.pts = None
            fifo.write(part)
        size = stream.codec_context.frame_size or 4096
        while part := fifo.read(size, partial=True):
            file.mux(stream.encode(part))
        file.mux(stream.encode(None))
    return data.getvalue()


class Served:
    """A server, and the library's own model of the same folder."""

    def __init__(self, url: str, folder: Path, reference) -> None:
        self.url = url
        self.reference = reference
        self.extractor = transformers.WhisperFeatureExtractor.from_pretrained(folder)
        self.tokenizer = transformers.PreTrainedTokenizerFast(
            tokenizer_file=str(folder / "tokenizer.json")
        )

    def said(self, samples: np.ndarray, language: str = "en", task: str = "transcribe") -> str:
        """What the library makes of one window, without timestamps."""
        head = ["<|startoftranscript|>", f"<|{language}|>", f"<|{task}|>", "<|notimestamps|>"]
        return self.continued(samples, [SPECIAL[name] for name in head])

    @torch.inference_mode()
    def continued(self, samples: np.ndarray, head: list[int]) -> str:
        heard = self.extractor(
            samples.astype(np.float32) / 32768, sampling_rate=RATE, return_tensors="pt"
        ).input_features
        generation = self.reference.generation_config
        never = [*generation.suppress_tokens, *range(FIRST_TIMESTAMP, FIRST_TIMESTAMP + 101)]
        made = super(transformers.WhisperForConditionalGeneration, self.reference).generate(
            input_features=heard,
            decoder_input_ids=torch.tensor([head]),
            suppress_tokens=never,
            begin_suppress_tokens=generation.begin_suppress_tokens,
            max_length=MOST_TEXT,
            do_sample=False,
        )
        ids = [id for id in made[0].tolist() if id < SPECIAL["<|endoftext|>"]]
        text: str = self.tokenizer.decode(ids)
        return text.strip()

    @torch.inference_mode()
    def language(self, samples: np.ndarray) -> str:
        heard = self.extractor(
            samples.astype(np.float32) / 32768, sampling_rate=RATE, return_tensors="pt"
        ).input_features
        start = torch.tensor([[SPECIAL["<|startoftranscript|>"]]])
        logits = self.reference(
            input_features=heard, decoder_input_ids=start, use_cache=False
        ).logits[0, -1]
        return max(LANGUAGES, key=lambda name: float(logits[SPECIAL[f"<|{name}|>"]]))


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder: Path = tmp_path_factory.mktemp("hearing") / MODEL
    reference = write_hearing_model(folder, most_text=MOST_TEXT)
    command = [sys.executable, "-m", "inferplane", "serve", f"{folder}", "--port", "0"]
    server = subprocess.Popen(
        [*command, "--device", "cpu", "--dtype", "float32", "--load-wait", "300"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert server.stdout is not None
    try:
        line = server.stdout.readline()
        url = next(word.rstrip(",") for word in line.split() if word.startswith("http"))
        yield Served(url, folder, reference)
    finally:
        server.terminate()
        server.wait()
        server.stdout.close()


@pytest.fixture(scope="module")
def client(served: Served) -> Iterator[openai.OpenAI]:
    url = f"{served.url}/v1"
    with openai.OpenAI(base_url=url, api_key="none", timeout=400.0, max_retries=0) as made:
        yield made


def heard(client: openai.OpenAI, data: bytes, name: str = "a.wav", **more):
    return client.audio.transcriptions.create(model=MODEL, file=(name, data), **more)


def test_a_transcript_is_what_the_library_makes_of_the_recording(served, client) -> None:
    for seed in (1, 2):
        samples = tones(seed, 1.5)
        made = heard(client, as_wav(samples), language="en")
        assert made.text == served.said(samples)
        assert made.usage.seconds == 2
    assert served.said(tones(1, 1.5)) != served.said(tones(2, 1.5))


def test_the_language_is_heard_and_a_translation_asks_for_another_task(served, client) -> None:
    samples = tones(3, 1.5)
    language = served.language(samples)
    assert heard(client, as_wav(samples)).text == served.said(samples, language)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # by the client's newest versions
        made = client.audio.translations.create(model=MODEL, file=("a.wav", as_wav(samples)))
    assert made.text == served.said(samples, language, "translate")


def test_a_prompt_comes_before_the_recording(served, client) -> None:
    samples = tones(4, 1.0)
    names = ["<|startoftranscript|>", "<|en|>", "<|transcribe|>", "<|notimestamps|>"]
    text = list(b"!" + bytes(range(65, 69)))
    before = served.tokenizer(" ABCD", add_special_tokens=False).input_ids
    assert len(before) == len(text)
    head = [SPECIAL["<|startofprev|>"], *before, *(SPECIAL[name] for name in names)]
    made = heard(client, as_wav(samples), language="en", prompt="ABCD")
    assert made.text == served.continued(samples, head)


def test_long_recordings_are_heard_window_after_window(served, client) -> None:
    samples = tones(5, 5.0)
    windows = [samples[at : at + 2 * RATE] for at in range(0, len(samples), 2 * RATE)]
    made = heard(client, as_wav(samples), language="en", response_format="text")
    for window in windows:
        assert served.said(window) in made
    assert heard(client, as_wav(samples[: 2 * RATE]), language="en").text == served.said(windows[0])


def test_a_stream_says_in_pieces_what_an_answer_says_at_once(client) -> None:
    data = as_wav(tones(6, 3.0))
    events = list(heard(client, data, language="en", stream=True))
    assert {event.type for event in events[:-1]} == {"transcript.text.delta"}
    assert events[-1].type == "transcript.text.done"
    assert "".join(event.delta for event in events[:-1]) == events[-1].text
    assert events[-1].text.strip() == heard(client, data, language="en").text
    assert len(events) > 3


def test_flac_is_heard_as_wav_is(client) -> None:
    samples = tones(7, 1.5)
    flac = heard(client, encoded(samples, "flac", "flac"), "a.flac", language="en")
    assert flac.text == heard(client, as_wav(samples), language="en").text


@pytest.mark.parametrize(
    ("container", "codec", "rate"),
    [
        ("ogg", "libopus", 48_000),
        ("mp3", "libmp3lame", 16_000),
        ("mp4", "aac", 16_000),
        ("webm", "libopus", 48_000),
    ],
)
def test_other_containers_are_read(served, container: str, codec: str, rate: int) -> None:
    data = encoded(np.repeat(tones(9, 1.2), rate // RATE), container, codec, rate)
    answer = post(served, {"response_format": "verbose_json"}, data)
    assert answer.status_code == 200, answer.text
    assert abs(answer.json()["duration"] - 1.2) < 0.15


def test_segments_follow_each_other_within_the_recording(client) -> None:
    data = as_wav(tones(8, 5.0))
    made = heard(client, data, language="en", response_format="verbose_json")
    assert made.duration == 5.0 and made.language == "en" and made.segments
    times = [(one.start, one.end) for one in made.segments]
    assert all(0 <= start <= end <= 5.0 for start, end in times)
    assert times == sorted(times)
    assert all(one.avg_logprob <= 0 < one.compression_ratio for one in made.segments)
    assert made.text == "".join(one.text for one in made.segments).strip()
    srt = heard(client, data, language="en", response_format="srt")
    assert len(re.findall(r"^\d\d:\d\d:\d\d,\d{3} --> ", srt, re.M)) == len(times)
    vtt = heard(client, data, language="en", response_format="vtt")
    assert vtt.startswith("WEBVTT\n\n00:00:0")


def post(served: Served, fields: dict, data: bytes | None = None, path: str = "transcriptions"):
    files = None if data is None else {"file": ("a.wav", data)}
    fields = {key: str(value) for key, value in fields.items()}
    url = f"{served.url}/v1/audio/{path}"
    return httpx2.post(url, data=fields, files=files or {"x": b""}, timeout=100)


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"language": "xx"}, "unknown_value"),
        ({"temperature": "hot"}, "invalid_type"),
        ({"temperature": 3}, "out_of_range"),
        ({"response_format": "xml"}, "unknown_value"),
        ({"timestamp_granularities[]": "word"}, "unsupported_feature"),
        ({"timestamp_granularities[]": "segment"}, "conflicting_fields"),
        ({"stream": "true", "response_format": "srt"}, "conflicting_fields"),
        ({"model": "other"}, "model_not_found"),
    ],
)
def test_bad_fields_are_named(served: Served, fields: dict, code: str) -> None:
    answer = post(served, fields, as_wav(tones(1, 0.2)))
    assert 400 <= answer.status_code < 500
    assert answer.json()["error"]["code"] == code


@pytest.mark.parametrize(
    "data", [b"", b"RIFF1234WAVE", b"not a sound", b"fLaC" + bytes(50), b"#EXTM3U\nfile:///etc/x"]
)
def test_what_is_no_recording_is_refused(served: Served, data: bytes) -> None:
    answer = post(served, {}, data)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "media_invalid"


def test_a_file_is_needed_and_a_large_one_refused(served: Served) -> None:
    assert post(served, {}).json()["error"]["code"] in ("missing_field", "invalid_body")
    answer = post(served, {}, bytes((25 << 20) + 1))
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body_too_large")


def test_other_routes_name_the_task(served: Served) -> None:
    for path, body in (
        ("completions", {"prompt": "x"}),
        ("embeddings", {"input": "x"}),
        ("chat/completions", {"messages": [{"role": "user", "content": "x"}]}),
    ):
        answer = httpx2.post(f"{served.url}/v1/{path}", json=body, timeout=100)
        assert answer.status_code in (400, 404), answer.text
        assert "transcribe" in json.dumps(answer.json()), path
