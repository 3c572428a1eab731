"""POST /tokenize, POST /detokenize and GET /tokenizer_info."""

import pytest


@pytest.mark.parametrize("prefix", ["", "/v1"])
def test_texts_become_ids_and_ids_texts(http, prefix):
    told = http.post(prefix + "/tokenize", json={"prompt": "naïve 北京 🎉"}).json()
    assert told["count"] == len(told["tokens"]) and told["max_model_len"] == 512
    back = http.post(prefix + "/detokenize", json={"tokens": told["tokens"]}).json()
    assert back == {"prompt": "naïve 北京 🎉"}


def test_token_texts_are_given_on_demand(http):
    told = http.post("/tokenize", json={"prompt": "hello", "return_token_strs": True}).json()
    assert "".join(told["token_strs"]) == "hello"
    assert http.post("/tokenize", json={"prompt": "hello"}).json()["token_strs"] is None


def test_special_tokens_survive_the_way_back(http):
    end = http.get("/tokenizer_info").json()["eos_token"]
    ids = http.post("/tokenize", json={"prompt": "a" + end}).json()["tokens"]
    assert http.post("/detokenize", json={"tokens": ids}).json()["prompt"] == "a" + end


def test_a_tokenized_conversation_is_the_rendered_template(http):
    messages = [{"role": "user", "content": "hi"}]
    ids = http.post("/tokenize", json={"messages": messages}).json()["tokens"]
    assert (
        http.post("/detokenize", json={"tokens": ids}).json()["prompt"] == "<user>hi\n<assistant>"
    )


@pytest.mark.parametrize("prefix", ["", "/v1"])
def test_the_tokenizer_tells_what_evaluation_needs(http, prefix):
    told = http.get(prefix + "/tokenizer_info").json()
    assert told["eos_token"] and "messages" in told["chat_template"]
    assert {"bos_token", "pad_token", "tokenizer_class", "model_max_length"} <= set(told)


def test_nothing_is_empty_but_an_empty_text(http):
    assert http.post("/tokenize", json={"prompt": ""}).json()["tokens"] == []
    assert http.post("/detokenize", json={"tokens": []}).json() == {"prompt": ""}
