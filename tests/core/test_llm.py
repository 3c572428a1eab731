import json
from pathlib import Path

import pytest

from inferplane import LLM, Completion, SamplingParams
from inferplane.errors import ConfigError, ModelError, RequestError
from inferplane.testing.null import null_tokens
from inferplane.testing.tiny import write_tiny_model
from inferplane.testing.tiny_tokenizer import VOCAB_SIZE

NULL = {"plugins": ("inferplane.testing.null",), "device": "null"}
GREEDY = SamplingParams(temperature=0.0, max_tokens=12, ignore_eos=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with a tokenizer and a chat template."""
    path = tmp_path_factory.mktemp("tiny")
    write_tiny_model(path, "llama")
    return path


@pytest.fixture(scope="module")
def llm(folder: Path):
    with LLM(str(folder), **NULL, max_model_len=512, max_num_seqs=8) as model:
        yield model


def test_prompts_given_as_ids_are_completed_in_order(llm) -> None:
    prompts = [(number, 5) for number in range(40)]  # more than run at once
    done = llm.generate(prompts, GREEDY)
    assert [list(c.token_ids) for c in done] == [null_tokens(p, 12, VOCAB_SIZE) for p in prompts]
    assert {c.finish_reason for c in done} == {"length"}
    assert [c.prompt_ids for c in done] == prompts


def test_one_prompt_may_stand_alone(llm) -> None:
    (from_ids,) = llm.generate([7, 8, 9], GREEDY)
    assert from_ids.prompt_ids == (7, 8, 9)
    (from_text,) = llm.generate("hello", GREEDY)
    assert from_text.token_ids and from_text.text
    assert llm.generate([], GREEDY) == []


def test_n_completions_follow_each_other_with_seeds_that_count_up(llm) -> None:
    params = SamplingParams(n=3, seed=4, temperature=3.0, max_tokens=8, ignore_eos=True)
    done = llm.generate([(1, 2), (3, 4)], params)
    assert [(c.prompt_ids, c.index) for c in done] == [
        (prompt, index) for prompt in ((1, 2), (3, 4)) for index in range(3)
    ]
    single = SamplingParams(seed=6, temperature=3.0, max_tokens=8, ignore_eos=True)
    assert llm.generate((3, 4), single)[0].token_ids == done[5].token_ids


def test_each_prompt_may_have_its_own_parameters(llm) -> None:
    params = [SamplingParams(temperature=0.0, max_tokens=n, ignore_eos=True) for n in (3, 7)]
    assert [len(c.token_ids) for c in llm.generate([(1,), (2,)], params)] == [3, 7]
    with pytest.raises(RequestError, match="2 sampling parameters for 1 prompts"):
        llm.generate((1,), params)


def test_a_stop_string_ends_the_text_before_it(llm) -> None:
    whole = llm.generate((1, 2), SamplingParams(temperature=0.0, max_tokens=60, ignore_eos=True))
    text = whole[0].text
    stop = text[len(text) // 2 : len(text) // 2 + 3]
    params = SamplingParams(temperature=0.0, max_tokens=60, ignore_eos=True, stop=(stop,))
    (cut,) = llm.generate((1, 2), params)
    assert cut.text == text[: text.index(stop)]
    assert (cut.finish_reason, cut.stop_reason) == ("stop", stop)
    assert len(cut.token_ids) < 60


def test_logprobs_come_with_every_token(llm) -> None:
    params = SamplingParams(temperature=0.0, max_tokens=4, logprobs=2, prompt_logprobs=1)
    (done,) = llm.generate((1, 2, 3), params)
    assert [entry.ids[0] for entry in done.logprobs] == list(done.token_ids)
    assert done.prompt_logprobs[0] is None and len(done.prompt_logprobs) == 3


def test_a_refused_prompt_leaves_nothing_running(llm) -> None:
    with pytest.raises(RequestError) as refused:
        llm.generate([(1,), (2,), (VOCAB_SIZE,)], GREEDY)
    assert refused.value.code == "token_out_of_vocabulary"
    assert len(llm.generate((1,), GREEDY)[0].token_ids) == 12


def test_chat_renders_the_model_s_template(llm) -> None:
    (hello,) = llm.chat([{"role": "user", "content": "hello"}], GREEDY)
    assert isinstance(hello, Completion) and len(hello.token_ids) == 12
    both = llm.chat([[{"role": "user", "content": text}] for text in ("hello", "there")], GREEDY)
    assert both[0].token_ids == hello.token_ids
    assert both[0].prompt_ids != both[1].prompt_ids


def test_a_second_use_of_a_prompt_is_served_from_the_cache(llm) -> None:
    prompt = tuple(range(50, 150))
    first, second = (llm.generate(prompt, GREEDY)[0].cached_tokens for _ in "ab")
    assert (first, second) == (0, 96)


def test_defaults_are_those_the_model_states(folder, tmp_path) -> None:
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "generation_config.json").write_text(json.dumps({"temperature": 0.0, "top_p": 0.3}))
    with LLM(str(tmp_path), **NULL, max_model_len=64) as model:
        one, two = (model.generate((1, 2))[0] for _ in "ab")
        assert one.token_ids == two.token_ids
    with LLM(str(tmp_path), **NULL, max_model_len=64, generation_config="none") as model:
        assert len({model.generate((1, 2))[0].token_ids for _ in range(4)}) > 1


def test_a_model_without_tokenizer_takes_ids_alone(folder, tmp_path) -> None:
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    with LLM(str(tmp_path), **NULL, load_format="dummy", max_model_len=64) as model:
        (done,) = model.generate((1, 2), GREEDY)
        assert done.text == "" and len(done.token_ids) == 12
        with pytest.raises(ModelError, match="tokenizer"):
            model.generate("text", GREEDY)


def test_workers_serve_offline_too(folder) -> None:
    options = {"placement": "worker", "processes": "2"}
    with LLM(str(folder), **NULL, options=options, max_model_len=64) as model:
        assert model.plan.topology.placement == "worker"
        (done,) = model.generate((1, 2), GREEDY)
    assert list(done.token_ids) == null_tokens((1, 2), 12, VOCAB_SIZE)


def test_one_rank_without_an_environment_runs_in_this_process(folder) -> None:
    with LLM(str(folder), **NULL, options={"placement": "worker"}, max_model_len=64) as model:
        assert model.plan.topology.placement == "inline"


def test_a_wrong_setting_is_refused(folder) -> None:
    with pytest.raises(ConfigError, match="no option 'speed'"):
        LLM(str(folder), **NULL, options={"speed": "1"})
