import math

import numpy as np
import pytest

from inferplane.engine.admission import Admission, beyond_device, refused_params
from inferplane.errors import RequestError
from inferplane.interfaces import SamplerCaps
from inferplane.media import MediaItem
from inferplane.request import Request
from inferplane.sampling_params import SamplingParams
from inferplane.testing.null import NarrowNullPlatform, NullPlatform
from inferplane.testing.null_engine import null_request

FULL = Admission(NullPlatform.sampler, "acme", 100)


@pytest.mark.case("allowed-id-width")
@pytest.mark.case("bias-id-range")
@pytest.mark.parametrize(
    ("field", "sampling"),
    [
        ("temperature", {"temperature": math.nan}),
        ("temperature", {"temperature": -0.1}),
        ("temperature", {"temperature": math.inf}),
        ("top_p", {"top_p": 1.5}),
        ("min_p", {"min_p": -1.0}),
        ("top_k", {"top_k": -1}),
        ("repetition_penalty", {"repetition_penalty": 0.0}),
        ("presence_penalty", {"presence_penalty": math.nan}),
        ("max_tokens", {"max_tokens": 0}),
        ("min_tokens", {"min_tokens": -1}),
        ("logprobs", {"logprobs": -1}),
        ("prompt_logprobs", {"prompt_logprobs": 21}),
        ("logit_bias", {"logit_bias": {100: 1.0}}),
        ("logit_bias", {"logit_bias": {-1: 1.0}}),
        ("logit_bias", {"logit_bias": {1: math.nan}}),
        ("allowed_token_ids", {"allowed_token_ids": ()}),
        ("allowed_token_ids", {"allowed_token_ids": (5, 100)}),
        ("stop_token_ids", {"stop_token_ids": (100,)}),
        ("bad_words", {"bad_words_ids": ((),)}),
        ("bad_words", {"bad_words_ids": ((1, 100),)}),
    ],
)
def test_a_number_out_of_range_is_refused_by_its_field(field, sampling) -> None:
    with pytest.raises(RequestError) as refused:
        FULL.check(null_request("a", (1,), **sampling))
    assert refused.value.param == field


@pytest.mark.case("prompt-id-range")
@pytest.mark.parametrize("prompt", [(), (100,), (-1,), (1, 2**31)])
def test_prompt_ids_outside_the_vocabulary_are_refused(prompt) -> None:
    with pytest.raises(RequestError) as refused:
        FULL.check(null_request("a", prompt))
    assert refused.value.param == "prompt"


def test_end_ids_outside_the_vocabulary_are_refused() -> None:
    with pytest.raises(RequestError, match="token id 100"):
        FULL.check(Request(request_id="a", prompt_ids=(1,), eos_ids=(100,)))


ASKED = {
    "temperature": {"temperature": 0.5},
    "seed": {"temperature": 0.5},
    "top_k": {"temperature": 0.5, "top_k": 4},
    "top_p": {"temperature": 0.5, "top_p": 0.5},
    "min_p": {"temperature": 0.5, "min_p": 0.1},
    "logprobs": {"logprobs": 0},
    "penalties": {"frequency_penalty": 0.1},
    "bias": {"bad_words_ids": ((1,),)},
    "bitmask": {"allowed_token_ids": (1,)},
}


@pytest.mark.parametrize("name", ASKED)
def test_a_parameter_is_obeyed_handed_to_the_host_or_refused_never_ignored(name) -> None:
    params = SamplingParams(**{"temperature": 0.0, **ASKED[name]})
    everything = NullPlatform.sampler.params
    assert not beyond_device(params, SamplerCaps(everything, max_logprobs=0))
    lacking = tuple(param for param in everything if param != name)
    assert beyond_device(params, SamplerCaps(lacking, max_logprobs=0)) == [name]
    host = Admission(SamplerCaps(lacking, max_logprobs=0), "acme", 100)
    host.check(Request(request_id="a", prompt_ids=(1,), sampling=params))
    alone = Admission(SamplerCaps(lacking, max_logprobs=0, host_rows=False), "acme", 100)
    with pytest.raises(RequestError, match="plugin acme") as refused:
        alone.check(Request(request_id="a", prompt_ids=(1,), sampling=params))
    assert refused.value.code == "unsupported_parameter"


def test_greedy_rows_need_no_sampler() -> None:
    params = SamplingParams(temperature=0.0, top_p=0.5, min_p=0.1, top_k=3)
    assert not beyond_device(params, NarrowNullPlatform.sampler)


def test_more_logprobs_than_the_device_has_are_the_host_s() -> None:
    caps = SamplerCaps(("logprobs",), max_logprobs=5)
    assert not beyond_device(SamplingParams(temperature=0.0, logprobs=5), caps)
    assert beyond_device(SamplingParams(temperature=0.0, logprobs=6), caps) == ["logprobs"]


def test_prompt_logprobs_need_the_device() -> None:
    lacking = Admission(SamplerCaps(("logprobs",), max_logprobs=5), "acme", 100)
    with pytest.raises(RequestError, match="prompt_logprobs"):
        lacking.check(null_request("a", (1,), prompt_logprobs=0))


def test_what_is_refused_is_listed_beforehand() -> None:
    assert refused_params(NullPlatform.sampler) == ()
    assert refused_params(SamplerCaps(("temperature",))) == ("prompt_logprobs",)
    alone = refused_params(SamplerCaps(("temperature", "seed"), host_rows=False))
    assert "temperature" not in alone and {"top_p", "bitmask", "prompt_logprobs"} <= set(alone)


SEEING = Admission(NullPlatform.sampler, "acme", 100, image_token=9)


def pictured(*places: tuple[int, int], arrays: bool = True) -> Request:
    held = {"pixel_values": np.ones(1, np.float32)} if arrays else {}
    items = tuple(
        MediaItem(content_id="a", offset=offset, length=length, arrays=held)
        for offset, length in places
    )
    return Request(
        request_id="r",
        prompt_ids=(1, 9, 9, 2, 9, 3, 9, 4),
        items=items,
        sampling=SamplingParams(max_tokens=4),
    )


def test_pictures_whose_ends_are_placeholders_are_taken() -> None:
    SEEING.check(pictured((1, 4), (6, 1)))


@pytest.mark.parametrize(
    "places",
    [
        [(0, 3)],
        [(1, 3)],
        [(6, 3)],
        [(-1, 2)],
        [(1, 0)],
        [(1, 4), (4, 1)],
        [(6, 1), (1, 2)],
    ],
)
def test_pictures_that_stand_elsewhere_are_refused(places: list[tuple[int, int]]) -> None:
    with pytest.raises(RequestError, match="must begin and end with token 9"):
        SEEING.check(pictured(*places))


def test_a_picture_without_content_is_refused() -> None:
    with pytest.raises(RequestError):
        SEEING.check(pictured((1, 4), arrays=False))


def test_a_model_that_does_not_see_refuses_pictures() -> None:
    with pytest.raises(RequestError, match="takes no pictures") as refused:
        FULL.check(pictured((1, 4)))
    assert refused.value.code == "unsupported_feature"
