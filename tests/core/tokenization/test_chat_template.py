"""Conversations to prompts, and templates that misbehave."""

import pytest

from inferplane.errors import ModelError, RequestError
from inferplane.tokenization.chat_template import ChatTemplate

CHATML = """\
{%- for message in messages %}
    {%- if loop.first and message.role != 'system' %}
        {{- '<|im_start|>system\\nBe brief.<|im_end|>\\n' }}
    {%- endif %}
    {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and not enable_thinking %}{{- '<think></think>' }}{%- endif %}
{%- endif %}
"""
PARTS = (
    "{% for m in messages %}{{ m.role }}:{% for c in m.content %}"
    "{% if c.type == 'text' %}{{ c.text }}{% endif %}{% endfor %};{% endfor %}"
)
HELLO = [{"role": "user", "content": "hello"}]


@pytest.fixture
def make(bytes_tokenizer):
    made = []

    def template(source, **kwargs):
        made.append(ChatTemplate(source, bytes_tokenizer, **kwargs))
        return made[-1]

    yield template
    for each in made:
        each.close()


def test_a_conversation_renders_as_the_reference_library_renders_it(make):
    from transformers.utils.chat_template_utils import render_jinja_template

    messages = [
        {"role": "system", "content": "<b> & 'c'"},
        {"role": "user", "content": "日本 🎉"},
        {"role": "assistant", "content": " yes "},
        {"role": "user", "content": ""},
    ]
    sources = (
        CHATML,
        "{{ messages | tojson }}{{ messages|tojson(indent=2) }}{{ bos_token }}",
        "{% for m in messages %}{% if loop.index == 3 %}{% break %}{% endif %}x{% endfor %}",
        "{% for m in messages %}{% generation %}{{ m.content|trim }}{% endgeneration %}"
        "{% endfor %}",
        "{{ tools }}|{{ documents }}|{% set ns = namespace(n=0) %}{% set ns.n = 3 %}{{ ns.n }}",
    )
    for source in sources:
        for prompt in (True, False):
            expected, _ = render_jinja_template(
                [messages], chat_template=source, add_generation_prompt=prompt
            )
            assert make(source).render(messages, None, prompt) == expected[0]


def test_special_tokens_of_the_tokenizer_are_there(make):
    assert make("{{ eos_token }}").render(HELLO) == "<|end|>"


def test_a_list_of_text_parts_equals_the_joined_string(make):
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    for source in (CHATML, PARTS):
        template = make(source)
        as_parts = template.render([{"role": "user", "content": parts}])
        assert as_parts == template.render([{"role": "user", "content": "one\ntwo"}])
        assert "one\ntwo" in as_parts


def test_the_form_of_content_is_read_from_the_template(make):
    strings, parts = make(CHATML), make(PARTS)
    assert (strings.takes_strings, strings.takes_parts) == (True, False)
    assert (parts.takes_strings, parts.takes_parts) == (False, True)


def test_only_names_that_the_template_reads_may_be_set(make):
    template = make(CHATML)
    assert template.names == {"enable_thinking"}
    assert template.render(HELLO, template_kwargs={"enable_thinking": False}).endswith(
        "<think></think>"
    )
    for name in ("tokenize", "messages", "tools", "eos_token", "raise_exception"):
        with pytest.raises(RequestError) as caught:
            template.render(HELLO, template_kwargs={name: True})
        assert caught.value.code == "unknown_field"
        assert caught.value.param == f"chat_template_kwargs.{name}"


def test_a_refusal_carries_the_templates_words_and_nothing_longer(make):
    template = make("{{ raise_exception('roles must alternate ' + 'x' * 500) }}")
    with pytest.raises(RequestError) as caught:
        template.render(HELLO)
    assert caught.value.code == "template_rejected"
    assert "roles must alternate" in str(caught.value)
    assert len(str(caught.value)) < 260


def test_the_last_message_is_continued_where_its_text_ends(make):
    messages = [*HELLO, {"role": "assistant", "content": "The answer is "}]
    assert (
        make(CHATML)
        .render(messages, None, False, continue_final_message=True)
        .endswith("<|im_start|>assistant\nThe answer is ")
    )
    trimming = make("{% for m in messages %}[{{ m.content | trim }}]{% endfor %}")
    assert trimming.render(messages, None, False, continue_final_message=True) == (
        "[hello][The answer is"
    )
    with pytest.raises(RequestError) as caught:
        make("nothing of it").render(messages, None, False, continue_final_message=True)
    assert caught.value.param == "continue_final_message"


@pytest.mark.case("template-in-model")
@pytest.mark.parametrize(
    "bomb",
    [
        "{% if messages[0].content == 'hello' %}{% for a in range(99999) %}"
        "{% for b in range(99999) %}{% endfor %}{% endfor %}{% endif %}",
        "{% if messages[0].content == 'hello' %}{{ 'a' * 3000000000 }}{% endif %}",
        "{% if messages[0].content == 'hello' %}{{ 'a'.ljust(3000000000) }}{% endif %}",
        "{% if messages[0].content == 'hello' %}{{ '%2000000000d' % 1 }}{% endif %}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    ],
)
def test_a_bomb_in_a_template_harms_only_its_own_request(make, bomb):
    template = make(bomb)
    with pytest.raises(RequestError) as caught:
        template.render(HELLO)
    assert caught.value.code == "template_rejected"
    for leak in ("__globals__", "/", "Error", "0x"):
        assert leak not in str(caught.value)
    assert make(CHATML).render(HELLO).endswith("assistant\n")


def test_a_template_that_ran_too_long_works_again_for_other_messages(make):
    source = (
        "{% if messages[0].content == 'hello' %}{% for a in range(99999) %}"
        "{% for b in range(99999) %}{% endfor %}{% endfor %}{% endif %}fine"
    )
    template = make(source)
    with pytest.raises(RequestError):
        template.render(HELLO)
    assert template.render([{"role": "user", "content": "other"}]) == "fine"


def test_a_template_that_does_not_parse_is_refused_by_name(make):
    with pytest.raises(ModelError, match=r"acme\.jinja.*line 1.*--chat-template"):
        make("{% for %}", origin="acme.jinja")


def test_values_reach_the_template_as_plain_data(make):
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"a": [1, None, 2.5]}}}]
    assert make("{{ tools | tojson }}").render(HELLO, tools) == (
        '[{"type": "function", "function": {"name": "f", "parameters": {"a": [1, null, 2.5]}}}]'
    )
