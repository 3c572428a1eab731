"""A picture stands where a message has it, and nowhere else, whatever a text says."""

import numpy as np
import pytest

from inferplane.checkpoint import open_checkpoint
from inferplane.errors import RequestError
from inferplane.server.errors import ApiError
from inferplane.server.limits import Limits
from inferplane.server.media.picture_messages import ReadPicture
from inferplane.server.media.prompt import PictureToken, encode_marked, place_pictures
from inferplane.server.media.sources import sent_pictures
from inferplane.testing.tiny import write_tiny_model
from inferplane.testing.tiny_chats import write_processor
from inferplane.tokenization.chat_template import ChatTemplate
from inferplane.tokenization.tokenizer import load_tokenizer

PARTS = (
    "{% for m in messages %}{{ m.role }}:{% for p in m.content %}"
    "{% if p.type == 'image' %}<image>{% else %}{{ p.text }}{% endif %}{% endfor %};{% endfor %}"
)
STRINGS = "{% for m in messages %}{{ m.role }}:{{ m.content }};{% endfor %}"
MARK = "<<picture-0123456789>>"
PICTURE = {"type": "image"}


def said(text):
    return {"type": "text", "text": text}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tiny_model(folder, "llama")
    write_processor(folder, "llava")
    return load_tokenizer(open_checkpoint(folder))


@pytest.fixture(scope="module")
def token(tokenizer):
    return PictureToken(tokenizer.backend.token_to_id("<image>"), "<image>", MARK)


@pytest.fixture(scope="module", params=[PARTS, STRINGS], ids=["parts", "strings"])
def template(request, tokenizer):
    made = ChatTemplate(request.param, tokenizer, picture=("<image>", MARK))
    yield made
    made.close()


def rendered(template, *parts):
    return template.render([{"role": "user", "content": list(parts)}])


def test_templates_of_both_forms_write_a_mark_where_the_picture_stands(template, tokenizer, token):
    text = rendered(template, said("a"), PICTURE, said("b"))
    ids = encode_marked(tokenizer, text, token, 1, False)
    place = ids.index(token.id)
    assert text.count(MARK) == 1
    assert tokenizer.decode(ids[:place]).strip() == "user:a"
    assert tokenizer.decode(ids[place + 1 :]).strip() == "b;"


@pytest.mark.parametrize(
    "texts",
    [
        ["<image>"],
        ["look: <image><image>!"],
        ["<ima", "ge>"],
        ["<im<image>age>"],
        ["<image", ">"],
        ["<<image>>"],
    ],
)
@pytest.mark.parametrize("pictures", [0, 1])
def test_the_picture_token_in_a_text_stays_text(template, tokenizer, token, texts, pictures):
    text = rendered(template, *map(said, texts), *[PICTURE] * pictures)
    ids = encode_marked(tokenizer, text, token, pictures, False)
    assert ids.count(token.id) == pictures
    shown = tokenizer.decode(ids, skip_special_tokens=False)
    assert shown == text.replace(MARK, "<image>")


def test_a_role_or_name_makes_no_picture_either(tokenizer, token):
    template = ChatTemplate(STRINGS, tokenizer, picture=("<image>", MARK))
    try:
        text = template.render([{"role": "<image>", "content": "a"}])
    finally:
        template.close()
    assert token.id not in encode_marked(tokenizer, text, token, 0, False)


def test_a_template_that_loses_a_picture_is_a_refusal(tokenizer, token):
    with pytest.raises(RequestError, match="0 of 1 pictures"):
        encode_marked(tokenizer, "no mark", token, 1, False)


def test_each_token_becomes_what_stands_for_its_picture():
    first = ReadPicture([9, 3, 3, 8], {"pixel_values": np.zeros((1, 2), np.float32)})
    second = ReadPicture([3, 7, 3], {"pixel_values": np.ones((1, 2), np.float32)})
    ids, items = place_pictures([1, 3, 2, 3], 3, [first, second])
    assert ids == [1, 9, 3, 3, 8, 2, 3, 7, 3]
    assert [(one.offset, one.length) for one in items] == [(2, 2), (6, 3)]
    assert items[0].content_id != items[1].content_id


@pytest.mark.parametrize("role", ["system", "assistant", "tool"])
def test_pictures_stand_in_messages_of_the_user_alone(role):
    part = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
    with pytest.raises(ApiError) as refused:
        sent_pictures([{"role": role, "content": [part]}])
    assert refused.value.code == "unsupported_feature"
    assert refused.value.problems[0].param == "messages.0.content.0.type"


def test_the_documented_limits_are_those_of_the_table():
    limits = Limits()
    assert (limits.media_items, limits.media_bytes) == (8, 20_000_000)
    assert (limits.media_pixels, limits.media_fetch_s) == (50_000_000, 5.0)
