"""POST /v1/embeddings and POST /pooling, over the null device, whose vectors depend on all ids."""

import base64
import struct

import openai
import pytest

from inferplane.server.limits import Limits

PATHS = ("/v1/embeddings", "/pooling", "/v1/pooling")


def vectors(http, path="/v1/embeddings", **body):
    told = http.post(path, json=body)
    assert told.status_code == 200, told.text
    return [one["data" if "pooling" in path else "embedding"] for one in told.json()["data"]]


def length(vector):
    return sum(x * x for x in vector) ** 0.5


def ids_of(http, text):
    return http.post("/tokenize", json={"prompt": text}).json()["tokens"]


def test_the_openai_client_gets_one_vector_a_text(live):
    client = openai.OpenAI(base_url=live.url + "/v1", api_key="none")
    told = client.embeddings.create(model="tiny", input=["hello there", "the city"])
    assert [one.index for one in told.data] == [0, 1]
    assert all(length(one.embedding) == pytest.approx(1, abs=1e-6) for one in told.data)
    assert told.data[0].embedding != told.data[1].embedding
    assert told.usage.total_tokens == told.usage.prompt_tokens > 2 and told.model == "tiny"


def test_all_four_shapes_of_input_say_the_same(http):
    ids = ids_of(http, "hello there")
    asked = ["hello there", ["hello there"], ids, [ids]]
    assert len({str(vectors(http, input=one)) for one in asked}) == 1


def test_base64_holds_the_same_numbers(http):
    (plain,) = vectors(http, input="hello")
    (coded,) = vectors(http, input="hello", encoding_format="base64")
    raw = base64.b64decode(coded)
    assert list(struct.unpack(f"<{len(raw) // 4}f", raw)) == plain


def test_more_texts_than_run_at_once_keep_their_order(http):
    texts = [f"text number {number}" for number in range(70)]
    together = vectors(http, input=texts)
    assert together[::23] == [vectors(http, input=text)[0] for text in texts[::23]]


def test_raw_vectors_on_demand(http):
    (raw,) = vectors(http, input="hello", normalize=False)
    (pooled,) = vectors(http, "/pooling", input="hello")
    assert raw == pooled and length(raw) != pytest.approx(1, abs=1e-3)
    assert length(vectors(http, "/v1/pooling", input="hello", normalize=True)[0]) == pytest.approx(
        1
    )


def test_messages_are_embedded_as_their_template_shows_them(http):
    messages = [{"role": "user", "content": "hi"}]
    ids = http.post("/tokenize", json={"messages": messages}).json()["tokens"]
    assert vectors(http, messages=messages) == vectors(http, input=ids)


@pytest.mark.parametrize("side, kept", [("right", slice(None, 4)), ("left", slice(-4, None))])
def test_a_text_cut_to_fit_keeps_the_end_that_was_asked_for_and_says_so(http, side, kept):
    ids = ids_of(http, "one small core plans what runs next")
    body = {"input": ids, "truncate_prompt_tokens": 4, "truncation_side": side}
    told = http.post("/v1/embeddings", json=body)
    assert told.json()["usage"]["prompt_tokens"] == 4
    assert "prompt_truncated" in told.headers["x-inferplane-warnings"]
    assert told.json()["data"][0]["embedding"] == vectors(http, input=ids[kept])[0]


def test_a_text_of_exactly_the_context_is_read_and_one_more_token_is_not(http):
    body = {"input": [5] * 512, "truncate_prompt_tokens": -1}
    told = http.post("/v1/embeddings", json={"input": [5] * 513})
    assert (told.status_code, told.json()["error"]["code"]) == (400, "context_length_exceeded")
    # one step takes 256 tokens of this device, and whole texts are never cut over steps
    told = http.post("/v1/embeddings", json=body)
    assert (told.status_code, told.json()["error"]["code"]) == (400, "capacity_exceeded")
    assert len(vectors(http, input=[5] * 256)) == 1


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "body, code, param",
    [
        ({}, "missing_field", "input"),
        ({"input": ""}, "out_of_range", "input"),
        ({"input": []}, None, "input"),
        ({"input": ["a", ""]}, "out_of_range", "input.1"),
        ({"input": ["a", 3]}, "invalid_type", "input.1"),
        (
            {"input": "a", "messages": [{"role": "user", "content": "a"}]},
            "conflicting_fields",
            None,
        ),
        ({"input": [384]}, "token_out_of_vocabulary", "input"),
        ({"input": "a", "encoding_format": "int8"}, "unknown_value", "encoding_format"),
        ({"input": ["a"] * (Limits().pooled_inputs + 1)}, "too_many_items", "input"),
        ({"input": "a", "model": "other"}, "model_not_found", "model"),
    ],
)
def test_a_wrong_body_is_refused_with_its_field(http, path, body, code, param):
    told = http.post(path, json=body)
    error = told.json()["error"]
    assert told.status_code in (400, 404)
    assert code in (None, error["code"])
    assert param in (None, error["param"])


def test_dimensions_need_a_model_trained_for_them(http):
    told = http.post("/v1/embeddings", json={"input": "a", "dimensions": 8})
    assert told.json()["error"]["code"] == "unsupported_feature"
    assert told.json()["error"]["param"] == "dimensions"


def test_nothing_is_left_behind(live, http):
    vectors(http, input=["a", "b"])
    stats = live.stats()
    assert stats.running == stats.waiting == 0 and stats.blocks_free == stats.blocks_total
    assert live.context.lifecycle.running == 0


@pytest.mark.parametrize("path", ["/score", "/classify", "/rerank"])
def test_a_decoder_offers_no_scores(http, path):
    bodies = {
        "/score": {"text_1": "a", "text_2": "b"},
        "/classify": {"input": "a"},
        "/rerank": {"query": "a", "documents": ["b"]},
    }
    told = http.post(path, json=bodies[path])
    assert (told.status_code, told.json()["error"]["code"]) == (404, "route_unsupported_by_model")


def test_a_model_served_for_embeddings_does_not_generate(start, model_folder):
    server = start(task="embed")
    with server.client() as client:
        assert len(vectors(client, input=[7] * 500)) == 1  # one step takes the whole context now
        told = client.post("/v1/completions", json={"prompt": "a"})
        assert told.json()["error"]["code"] == "route_unsupported_by_model"
        assert client.get("/v1/models").json()["data"][0]["inferplane"]["tasks"] == [
            "embed",
            "score",
        ]
