"""Whatever is wrong with a request, the answer is a 4xx that names the field; nothing breaks."""

import gzip

import pytest

CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"
TOKENIZE = "/tokenize"
DETOKENIZE = "/detokenize"
USER = [{"role": "user", "content": "hi"}]
BIG = 2**63
HUGE = 10**40


def chat(param, code, **fields):
    return CHAT, {"messages": USER, "max_tokens": 2} | fields, param, code


def text(param, code, **fields):
    return TEXT, {"prompt": "hi", "max_tokens": 2} | fields, param, code


def message(param, code, *messages):
    return CHAT, {"messages": list(messages), "max_tokens": 2}, param, code


NUMBERS = [
    text(name, code, **{name: value})
    for name, values in {
        "temperature": (-0.1, 2.1, 1e38, "0.5", True, [], {}),
        "top_p": (0, -0.5, 1.01, "1", False),
        "min_p": (-0.01, 1.5, "0"),
        "top_k": (-2, 2**31, 1.5, "5", True, HUGE),
        "presence_penalty": (-2.5, 2.5, "0"),
        "frequency_penalty": (-3, 2.01, []),
        "repetition_penalty": (0, -1, 10.5, None.__class__.__name__),
        "seed": (BIG, -BIG - 1, 2**64, 1e30, 1.0, "7", True),
        "n": (0, -1, 129, 10**6, 10**12, "2", 1.0, True),
        "max_tokens": (-1, 2**31, 2**63, 2**64, 1.5, "5", True, 1e308),
        "min_tokens": (-1, 2**31, "1", 0.5),
        "logprobs": (-1, 21, 10**9, "1", True, 1.0),
        "prompt_logprobs": (-1, 21, True, "0"),
        "truncate_prompt_tokens": (0, -2, 2**40, "3"),
        "priority": (2**31, 1.5, "low"),
        "best_of": (0, 129, "1"),
    }.items()
    for value in values
    for code in ({"invalid_type", "out_of_range"},)
]

TYPES = [
    text("echo", "invalid_type", echo="yes"),
    text("echo", "invalid_type", echo=1),
    text("stream", "invalid_type", stream="true"),
    text("stream", "invalid_type", stream=0),
    text("ignore_eos", "invalid_type", ignore_eos=1),
    text("skip_special_tokens", "invalid_type", skip_special_tokens="no"),
    text("return_token_ids", "invalid_type", return_token_ids=[]),
    text("user", "invalid_type", user=7),
    text("user", "out_of_range", user="x" * 1025),
    text("model", "invalid_type", model=7),
    text("model", "invalid_type", model=["tiny"]),
    text("model", "out_of_range", model=""),
    text("model", "model_not_found", model="gpt-4"),
    text("cache_salt", "out_of_range", cache_salt=""),
    text("cache_salt", "out_of_range", cache_salt="s" * 1025),
    text("cache_salt", "invalid_type", cache_salt=5),
    text("truncation_side", "unknown_value", truncation_side="middle"),
    text("timings", "invalid_type", timings="yes"),
]

LISTS = [
    text("stop", "out_of_range", stop=""),
    text("stop", "invalid_type", stop=5),
    text("stop.1", "invalid_type", stop=["a", 5]),
    text("stop.0", "out_of_range", stop=[""]),
    text("stop.0", "out_of_range", stop=["x" * 257]),
    text("stop", "too_many_items", stop=[str(i) for i in range(17)]),
    text("stop_token_ids", "invalid_type", stop_token_ids=5),
    text("stop_token_ids.0", "invalid_type", stop_token_ids=[True]),
    text("stop_token_ids.1", "out_of_range", stop_token_ids=[1, -1]),
    text("stop_token_ids.0", "token_out_of_vocabulary", stop_token_ids=[10**6]),
    text("stop_token_ids", "too_many_items", stop_token_ids=[1] * 1025),
    text("allowed_token_ids", "out_of_range", allowed_token_ids=[]),
    text("allowed_token_ids.0", "invalid_type", allowed_token_ids=["1"]),
    text("allowed_token_ids.1", "token_out_of_vocabulary", allowed_token_ids=[1, 2**30]),
    text("allowed_token_ids", "too_many_items", allowed_token_ids=[1] * 1025),
    text("bad_words.0", "out_of_range", bad_words=[""]),
    text("bad_words.0", "invalid_type", bad_words=[7]),
    text("bad_words", "invalid_type", bad_words="word"),
    text("logit_bias", "invalid_type", logit_bias=[1]),
    text("logit_bias.x", "unknown_value", logit_bias={"x": 1}),
    text("logit_bias.-1", "unknown_value", logit_bias={"-1": 1}),
    text("logit_bias.1e3", "unknown_value", logit_bias={"1e3": 1}),
    text("logit_bias. 5", "unknown_value", logit_bias={" 5": 1}),
    text("logit_bias.05", "unknown_value", logit_bias={"05": 1}),
    text("logit_bias.5", "out_of_range", logit_bias={"5": 101}),
    text("logit_bias.5", "invalid_type", logit_bias={"5": "1"}),
    text("logit_bias.5", "invalid_type", logit_bias={"5": None}),
    text("logit_bias.191222", "token_out_of_vocabulary", logit_bias={"191222": -100}),
    text("logit_bias", "too_many_items", logit_bias={str(i): 0 for i in range(1025)}),
]

PROMPTS = [
    (TEXT, {"max_tokens": 2}, "prompt", "missing_field"),
    text("prompt", "missing_field", prompt=None),
    text("prompt", "out_of_range", prompt=""),
    text("prompt", "out_of_range", prompt=[]),
    text("prompt.0", "out_of_range", prompt=[[]]),
    text("prompt.1", "out_of_range", prompt=["a", ""]),
    text("prompt", "invalid_type", prompt=5),
    text("prompt", "invalid_type", prompt={"text": "a"}),
    text("prompt.0", "out_of_range", prompt=[-1]),
    text("prompt.0", "invalid_type", prompt=[True]),
    text("prompt.0", "invalid_type", prompt=[1.5]),
    text("prompt.0", "out_of_range", prompt=[2**31]),
    text("prompt", "token_out_of_vocabulary", prompt=[10**6]),
    text("prompt.1", "token_out_of_vocabulary", prompt=[[1], [10**6]]),
    text("prompt.0.1", "invalid_type", prompt=[[1, "a"]]),
    text("prompt.1", "invalid_type", prompt=["a", 5]),
    text("prompt.1", "invalid_type", prompt=["a", {}]),
    text("prompt", "too_many_items", prompt=["a"] * 129),
    text("n", "too_many_items", prompt=["a"] * 100, n=3),
    text("prompt", "context_length_exceeded", prompt=[5] * 600),
    text("prompt", "context_length_exceeded", prompt="x" * (16 * 512 + 1)),
    text("max_tokens", "context_length_exceeded", prompt=[5] * 10, max_tokens=503),
]

PAIRS = [
    text("stream_options", "conflicting_fields", stream_options={"include_usage": True}),
    text("stream_options", "conflicting_fields", stream=False, stream_options={}),
    text("stream_options", "invalid_type", stream=True, stream_options=[]),
    text(
        "stream_options.include_usage",
        "invalid_type",
        stream=True,
        stream_options={"include_usage": 1},
    ),
    text("prompt_logprobs", "conflicting_fields", stream=True, prompt_logprobs=1),
    text("min_tokens", "out_of_range", min_tokens=5, max_tokens=2),
    text("max_tokens", "out_of_range", max_tokens=0),
    text("best_of", "unsupported_feature", best_of=2),
    text("suffix", "unsupported_feature", suffix="end"),
    text("use_beam_search", "unsupported_feature", use_beam_search=True),
    text("guided_json", "invalid_schema", guided_json="no json"),
    text("structured_outputs", "missing_field", structured_outputs={}),
    text("logits_processors", "unsupported_feature", logits_processors=["os.system"]),
    text("prompt_embeds", "unsupported_feature", prompt_embeds="AAAA"),
    text("kv_transfer_params", "unsupported_feature", kv_transfer_params={}),
    chat("top_logprobs", "conflicting_fields", top_logprobs=2),
    chat("top_logprobs", "out_of_range", logprobs=True, top_logprobs=21),
    chat("top_logprobs", "out_of_range", logprobs=True, top_logprobs=-1),
    chat("logprobs", "invalid_type", logprobs=2),
    chat("max_tokens", "out_of_range", max_tokens=0),
    chat("max_completion_tokens", "out_of_range", max_completion_tokens=0),
    chat("max_completion_tokens", "invalid_type", max_completion_tokens="9"),
    chat("echo", "conflicting_fields", echo=True),
    chat("continue_final_message", "unknown_value", continue_final_message=True),
    chat("chat_template", "unsupported_feature", chat_template="{{ messages }}"),
    chat("chat_template_kwargs.x", "unknown_field", chat_template_kwargs={"x": 1}),
    chat("chat_template_kwargs.tokenize", "unknown_field", chat_template_kwargs={"tokenize": True}),
    chat("chat_template_kwargs", "invalid_type", chat_template_kwargs=[]),
    chat("chat_template_kwargs.a b", "unknown_value", chat_template_kwargs={"a b": 1}),
    chat("documents.0", "invalid_type", documents=["text"]),
    chat("modalities", "unsupported_feature", modalities=["text", "audio"]),
    chat("audio", "unsupported_feature", audio={"voice": "x"}),
    chat("web_search_options", "unsupported_feature", web_search_options={}),
    chat("moderation", "unsupported_feature", moderation={}),
    chat("mm_processor_kwargs", "unsupported_feature", mm_processor_kwargs={}),
    chat("metadata", "invalid_type", metadata=[]),
    chat("store", "invalid_type", store="no"),
    chat("add_generation_prompt", "invalid_type", add_generation_prompt="x"),
    (
        CHAT,
        {
            "messages": [*USER, {"role": "assistant", "content": "a"}],
            "continue_final_message": True,
            "add_generation_prompt": True,
        },
        "continue_final_message",
        "conflicting_fields",
    ),
]

MESSAGES = [
    (CHAT, {}, "messages", "missing_field"),
    (CHAT, {"messages": None}, "messages", "missing_field"),
    (CHAT, {"messages": []}, "messages", "out_of_range"),
    (CHAT, {"messages": "hi"}, "messages", "invalid_type"),
    (CHAT, {"messages": {"role": "user"}}, "messages", "invalid_type"),
    (CHAT, {"messages": USER * 4097}, "messages", "too_many_items"),
    message("messages.0", "invalid_type", "hi"),
    message("messages.0", "invalid_type", None),
    message("messages.0.role", "missing_field", {"content": "hi"}),
    message("messages.0.role", "invalid_type", {"role": 5, "content": "hi"}),
    message("messages.0.role", "out_of_range", {"role": "", "content": "hi"}),
    message("messages.0.content", "missing_field", {"role": "user"}),
    message("messages.0.content", "missing_field", {"role": "user", "content": None}),
    message("messages.0.content", "invalid_type", {"role": "user", "content": 5}),
    message("messages.0.content", "invalid_type", {"role": "user", "content": {"a": 1}}),
    message("messages.0.content", "out_of_range", {"role": "user", "content": []}),
    message("messages.0.content.0", "invalid_type", {"role": "user", "content": ["hi"]}),
    message("messages.0.content.0.type", "missing_field", {"role": "user", "content": [{}]}),
    message(
        "messages.0.content.0.type",
        "invalid_type",
        {"role": "user", "content": [{"type": 5, "text": "a"}]},
    ),
    message(
        "messages.0.content.0.type",
        "unknown_value",
        {"role": "user", "content": [{"type": "hologram", "text": "a"}]},
    ),
    message(
        "messages.0.content.0.text",
        "missing_field",
        {"role": "user", "content": [{"type": "text"}]},
    ),
    message(
        "messages.0.content.0.text",
        "invalid_type",
        {"role": "user", "content": [{"type": "text", "text": 5}]},
    ),
    message(
        "messages.1.content.1.type",
        "unsupported_feature",
        *USER,
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "see"},
                {"type": "image_url", "image_url": {"url": "http://169.254.169.254/"}},
            ],
        },
    ),
    message(
        "messages.0.content.0.type",
        "unsupported_feature",
        {"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]},
    ),
    message("messages.0.name", "invalid_type", {"role": "user", "content": "a", "name": 5}),
    message(
        "messages.0.audio", "unsupported_feature", {"role": "user", "content": "a", "audio": {}}
    ),
    message(
        "messages.0.tool_calls",
        "invalid_type",
        {"role": "assistant", "content": "a", "tool_calls": {}},
    ),
    message(
        "messages.0.tool_calls.0.function",
        "missing_field",
        {"role": "assistant", "tool_calls": [{"id": "x", "type": "function"}]},
    ),
    message(
        "messages.0.tool_calls.0.function.name",
        "missing_field",
        {"role": "assistant", "tool_calls": [{"function": {"arguments": "{}"}}]},
    ),
    message(
        "messages.0.tool_calls.0.function.arguments",
        "invalid_type",
        {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": 5}}]},
    ),
    message(
        "messages",
        "context_length_exceeded",
        {"role": "user", "content": "x" * 20_000},
    ),
    message("messages", "context_length_exceeded", {"role": "user", "content": "word " * 600}),
]

TOKENS = [
    (TOKENIZE, {}, "prompt", "missing_field"),
    (TOKENIZE, {"prompt": 5}, "prompt", "invalid_type"),
    (TOKENIZE, {"prompt": "a", "messages": USER}, "prompt", "conflicting_fields"),
    (TOKENIZE, {"prompt": "a", "add_special_tokens": 1}, "add_special_tokens", "invalid_type"),
    (TOKENIZE, {"messages": []}, "messages", "out_of_range"),
    (TOKENIZE, {"messages": [{"role": "user"}]}, "messages.0.content", "missing_field"),
    (TOKENIZE, {"prompt": "a", "model": "other"}, "model", "model_not_found"),
    (DETOKENIZE, {}, "tokens", "missing_field"),
    (DETOKENIZE, {"tokens": "a"}, "tokens", "invalid_type"),
    (DETOKENIZE, {"tokens": [-1]}, "tokens.0", "out_of_range"),
    (DETOKENIZE, {"tokens": [10**6]}, "tokens", "token_out_of_vocabulary"),
    (DETOKENIZE, {"tokens": [1.5]}, "tokens.0", "invalid_type"),
    ("/v1" + TOKENIZE, {"prompt": []}, "prompt", "invalid_type"),
]

CASES = [*NUMBERS, *TYPES, *LISTS, *PROMPTS, *PAIRS, *MESSAGES, *TOKENS]

RAW = [
    (b"", "invalid_json"),
    (b"{", "invalid_json"),
    (b"nul", "invalid_json"),
    (b"[]", "invalid_body"),
    (b"5", "invalid_body"),
    (b'"text"', "invalid_body"),
    (b"null", "invalid_body"),
    (b'{"prompt": "a",}', "invalid_json"),
    (b'{"prompt": "a"} {}', "invalid_json"),
    (b'{"prompt": "a", "prompt": "b"}', "invalid_json"),
    (b'{"temperature": NaN}', "invalid_json"),
    (b'{"temperature": Infinity}', "invalid_json"),
    (b'{"temperature": -Infinity}', "invalid_json"),
    (b'{"prompt": "\\ud800"}', "invalid_json"),
    (b'{"prompt": "\\udc00"}', "invalid_json"),
    (b'{"prompt": "\\ud800\\u0041"}', "invalid_json"),
    (b'{"prompt": "\xff"}', "invalid_json"),
    (b'\xef\xbb\xbf{"prompt": "a"}', "invalid_json"),
    ('{"prompt": "a"}'.encode("utf-16"), "invalid_json"),
    (b'{"seed": ' + b"9" * 5000 + b"}", "invalid_json"),
    (b'{"x": ' + b"[" * 5000 + b"]" * 5000 + b"}", "invalid_json"),
    (b'{"prompt": "a\x00"}', "invalid_json"),
    (b'{"prompt": 01}', "invalid_json"),
    (b"{'prompt': 'a'}", "invalid_json"),
    (b'{"prompt": "a", "temperature": 1e999}', "out_of_range"),
    (b'{"prompt": "a", "x": ' + b"[" * 70 + b"]" * 70 + b"}", "out_of_range"),
    (b'{"prompt": "a", "seed": 123456789012345678901234567890}', "out_of_range"),
]


def check_error(response, code, param=...):
    assert 400 <= response.status_code < 500, response.text
    error = response.json()["error"]
    assert set(error) >= {"message", "type", "param", "code", "hint", "doc_url", "request_id"}
    assert error["code"] in ({code} if isinstance(code, str) else code), error
    assert error["request_id"] == response.headers["x-request-id"]
    assert error["type"] == ("not_found_error" if response.status_code == 404 else error["type"])
    if param is not ...:
        assert error["param"] == param, error
    for leak in ("Traceback", "0x7f", ".py", "inferplane."):
        assert leak not in response.text


def golden(http):
    body = {"prompt": "hi", "max_tokens": 4, "temperature": 0}
    response = http.post(TEXT, json=body)
    assert response.status_code == 200
    return response.json()["choices"]


def test_there_are_at_least_150_malformed_requests():
    assert len(CASES) + len(RAW) >= 150


@pytest.fixture(scope="module")
def expected(live):
    with live.client() as client:
        return golden(client)


@pytest.mark.case("bias-id-range")
@pytest.mark.case("prompt-id-range")
@pytest.mark.case("seed-range")
@pytest.mark.case("empty-prompt")
@pytest.mark.case("int-extremes")
@pytest.mark.case("giant-text")
@pytest.mark.case("template-kwargs")
@pytest.mark.case("code-in-request")
@pytest.mark.case("leaky-errors")
@pytest.mark.case("fuzz-fields")
@pytest.mark.parametrize("index", range(len(CASES)))
def test_a_malformed_field_is_named_and_the_next_request_succeeds(http, expected, index):
    path, body, param, code = CASES[index]
    check_error(http.post(path, json=body), code, param)
    assert golden(http) == expected


@pytest.mark.parametrize("path", [CHAT, TEXT, TOKENIZE, DETOKENIZE])
@pytest.mark.parametrize("index", range(24))
def test_a_body_that_is_no_json_object_is_refused_on_every_route(http, path, index):
    data, code = RAW[index]
    response = http.post(path, content=data, headers={"content-type": "application/json"})
    check_error(response, code, None)


@pytest.mark.parametrize("index", range(24, len(RAW)))
def test_numbers_and_nesting_that_parse_are_still_bounded(http, expected, index):
    data, code = RAW[index]
    response = http.post(TEXT, content=data, headers={"content-type": "application/json"})
    check_error(response, code)
    assert golden(http) == expected


@pytest.mark.parametrize(
    "kind", [None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "json"]
)
def test_another_content_type_is_refused_with_the_header_to_send(http, kind):
    headers = {} if kind is None else {"content-type": kind}
    response = http.post(TEXT, content=b'{"prompt": "a"}', headers=headers)
    check_error(response, "unsupported_media_type")
    assert response.status_code == 415
    assert "application/json" in response.json()["error"]["hint"]


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd", "identity, gzip"])
def test_a_compressed_body_is_refused_before_it_is_read(http, coding):
    content = gzip.compress(b'{"model": "tiny", "prompt": "a"}')
    headers = {"content-type": "application/json", "content-encoding": coding}
    response = http.post(TEXT, content=content, headers=headers)
    check_error(response, "unsupported_media_type")
    assert response.status_code == 415
    assert response.headers["accept-encoding"] == "identity"
    assert "uncompressed" in response.json()["error"]["hint"]


def test_a_body_may_say_that_it_is_not_compressed(http):
    headers = {"content-type": "application/json", "content-encoding": "identity"}
    body = b'{"model": "tiny", "prompt": "a", "max_tokens": 1}'
    assert http.post(TEXT, content=body, headers=headers).status_code == 200


def test_all_problems_of_a_body_come_at_once(http):
    body = {"prompt": 5, "temperature": 9, "n": "2", "stop": [1], "echo": 1}
    response = http.post(TEXT, json=body)
    found = {problem["param"] for problem in response.json()["error"]["problems"]}
    assert found == {"prompt", "temperature", "n", "stop.0", "echo"}


def test_at_most_ten_problems_are_told(http):
    body = {"prompt": "a", "stop": list(range(16)), "temperature": 9, "n": "2"}
    assert len(http.post(TEXT, json=body).json()["error"]["problems"]) == 10


@pytest.mark.case("huge-n")
@pytest.mark.parametrize("n", [10**6, 10**12, 5_000_000])
def test_a_huge_n_is_refused_before_it_costs_anything(http, n):
    check_error(http.post(TEXT, json={"prompt": "a", "n": n}), "out_of_range", "n")
    many = {"prompt": ["a"] * 10**5}
    check_error(http.post(TEXT, json=many), "too_many_items", "prompt")


@pytest.mark.case("other-methods")
@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", CHAT, 405, "method_not_allowed"),
        ("DELETE", "/v1/models", 405, "method_not_allowed"),
        ("PUT", TEXT, 405, "method_not_allowed"),
        ("POST", "/livez", 405, "method_not_allowed"),
        ("GET", "/v1/nothing", 404, "route_not_found"),
        ("POST", "/v1/images/generations", 404, "route_not_found"),
        ("GET", "/v1/models/absent", 404, "model_not_found"),
        ("GET", "/v1/", 404, "route_not_found"),
        ("GET", "/V1/models", 404, "route_not_found"),
        ("BREW", "/v1/models", 405, "method_not_allowed"),
    ],
)
def test_routes_and_methods_that_do_not_exist_have_an_error_body(http, method, path, status, code):
    response = http.request(method, path)
    if response.status_code == 400:  # a method that HTTP itself does not know
        assert method == "BREW"
        return
    assert response.status_code == status
    check_error(response, code)
    assert status != 405 or response.headers["allow"]


def test_a_model_that_is_not_served_is_answered_with_those_that_are(http):
    error = http.post(TEXT, json={"prompt": "a", "model": "tinny"}).json()["error"]
    assert "tiny" in error["hint"]
