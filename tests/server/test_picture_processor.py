"""Strangers' pictures: what is decoded, what is refused before it costs anything, in a process."""

import io
import struct
import zlib

import numpy as np
import pytest

from inferplane.errors import ModelError
from inferplane.server.media.picture_processor import PictureProcessor
from inferplane.server.media.prompt import PictureToken
from inferplane.testing.tiny_chats import write_processor

image = pytest.importorskip("PIL.Image")
child = pytest.importorskip("inferplane.server.media.picture_child")
MOST_PIXELS = 50_000_000


def written(kind="PNG", size=(40, 30), colour="red", **more):
    data = io.BytesIO()
    image.new("RGB", size, colour).save(data, kind, **more)
    return data.getvalue()


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def claimed(width, height):
    """A PNG that says it is so large, with a few bytes of pixels."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + head + body + chunk(b"IEND", b"")


SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><rect/></svg>'
REFUSED = {
    "bomb": (claimed(60_000, 60_000), "pixels; at most"),
    "far beyond": (claimed(2**31 - 1, 2**31 - 1), "pixels; at most"),
    "line": (claimed(1, 65_535), "200 times"),
    "column": (claimed(65_535, 1), "200 times"),
    "nothing": (claimed(0, 0), "no whole"),
    "truncated": (written(size=(200, 200))[:-40], "no whole"),
    "half a JPEG": (written("JPEG", size=(200, 200))[:300], "no whole"),
    "too few pixels in it": (claimed(100, 100), "no whole"),
    "random": (np.random.default_rng(0).bytes(5_000), "no whole"),
    "svg": (SVG, "no whole"),
    "empty": (b"", "no whole"),
    "TIFF": (written("TIFF"), "no whole"),
    "BMP": (written("BMP"), "no whole"),
    "only a head": (b"\x89PNG\r\n\x1a\n", "no whole"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_picture_of_a_fit_size_is_refused_in_our_own_words(name):
    data, said = REFUSED[name]
    with pytest.raises(child.Unusable) as refused:
        child.decoded(data, MOST_PIXELS)
    assert said in str(refused.value)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF"])
def test_four_formats_are_decoded_to_rgb(kind):
    made = child.decoded(written(kind), MOST_PIXELS)
    assert made.mode == "RGB" and made.size == (40, 30)
    assert np.abs(np.asarray(made)[5, 5].astype(int) - [255, 0, 0]).max() < 8


def test_the_first_frame_of_a_moving_picture_counts():
    data = io.BytesIO()
    first, second = image.new("RGB", (9, 9), "red"), image.new("RGB", (9, 9), "blue")
    first.save(data, "GIF", save_all=True, append_images=[second])
    assert child.decoded(data.getvalue(), MOST_PIXELS).getpixel((4, 4)) == (255, 0, 0)


def test_transparent_shows_white():
    data = io.BytesIO()
    image.new("RGBA", (9, 9), (200, 0, 0, 0)).save(data, "PNG")
    assert child.decoded(data.getvalue(), MOST_PIXELS).getpixel((4, 4)) == (255, 255, 255)


@pytest.fixture(scope="module")
def processor(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processor")
    id, _ = write_processor(folder, "smolvlm")
    made = PictureProcessor(folder, PictureToken(id, "<image>", "mark"), 1_000_000)
    made.start()
    yield made
    made.close()


def test_the_process_gives_the_processors_tokens_and_arrays(processor):
    read = processor.read(written(size=(100, 50)))
    tiles, marks = 3, read.ids.count(processor.token.id)
    assert not read.fault and marks == 9 * tiles
    assert read.arrays["pixel_values"].shape == (1, tiles, 3, 24, 24)
    assert read.arrays["pixel_values"].dtype == np.float32


def test_a_refused_picture_leaves_the_process_as_it_was(processor):
    refused = processor.read(claimed(2_000, 2_000))
    assert "at most 1000000" in refused.fault and not refused.ids
    assert not processor.read(written()).fault


def test_a_picture_that_was_read_is_remembered_for_its_tenant_alone(processor):
    data = written(colour="green")
    first = processor.read(data, "a")
    assert processor.read(data, "a") is first
    assert processor.read(data, "b") is not first


def test_a_process_that_dies_is_a_refusal_and_the_next_picture_is_read(processor):
    processor._process._child[0].kill()
    assert "too long or too much memory" in processor.read(written(colour="black")).fault
    assert not processor.read(written(colour="black")).fault


def test_a_processor_without_tiles_gives_one_placeholder_a_patch(tmp_path):
    id, _ = write_processor(tmp_path, "llava")
    made = PictureProcessor(tmp_path, PictureToken(id, "<image>", "mark"), 1_000_000)
    try:
        read = made.read(written(size=(100, 50)))
    finally:
        made.close()
    assert read.ids == [id] * 36 and read.arrays["pixel_values"].shape == (1, 3, 24, 24)


def test_a_checkpoint_without_a_processor_says_what_is_wanted(tmp_path):
    made = PictureProcessor(tmp_path, PictureToken(3, "<image>", "mark"), 1_000_000)
    with pytest.raises(ModelError, match=r"inferplane\[vision\].*preprocessor_config.json"):
        made.start()
