"""LangChain's three integrations with a running server: invoke, stream, tools, structured answers.

Run by scripts/test-clients with LangChain's environment; the address is the only argument.
"""

import sys

from langchain_anthropic import ChatAnthropic
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_ollama import ChatOllama, OllamaEmbeddings
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from pydantic import BaseModel

MODEL = "smollm2-135m"
QUESTION = "What is the capital of France?"


class Answer(BaseModel):
    """An answer about a city."""

    city: str
    large: bool


@tool
def weather(city: str) -> str:
    """The weather of a city."""
    return f"rain in {city}"


def talks(name: str, model: BaseChatModel) -> None:
    """Whole and streamed answers are about Paris, and equal."""
    whole = model.invoke(QUESTION)
    assert "Paris" in whole.text, whole
    assert whole.usage_metadata and whole.usage_metadata["output_tokens"] > 0
    streamed = "".join(chunk.text for chunk in model.stream(QUESTION))
    assert streamed == whole.text, (streamed, whole.text)
    print(f"{name}: talks")


def takes_results(name: str, model: BaseChatModel) -> None:
    """A call and its result in history are taken, with tools offered."""
    call = {"name": "weather", "args": {"city": "Rome"}, "id": "call00001", "type": "tool_call"}
    history = [
        HumanMessage("How is the weather in Rome?"),
        AIMessage("", tool_calls=[call]),
        ToolMessage("rain in Rome", tool_call_id="call00001", name="weather"),
    ]
    made = model.bind_tools([weather]).invoke(history)
    assert made.text or made.tool_calls
    print(f"{name}: takes results of tools")


def calls(name: str, model: BaseChatModel) -> None:
    """A call that is forced comes, with arguments of the tool."""
    made = model.bind_tools([weather], tool_choice="weather").invoke("How is Rome?")
    (call,) = made.tool_calls
    assert call["name"] == "weather" and isinstance(call["args"]["city"], str)
    print(f"{name}: calls a tool")


def structured(name: str, model: BaseChatModel, method: str) -> None:
    """An answer has the asked form."""
    made = model.with_structured_output(Answer, method=method).invoke("Tell me about Rome.")
    assert isinstance(made, Answer), made
    print(f"{name}: structured by {method}")


def main(url: str) -> None:
    """Every check; the first failure ends it."""
    openai = ChatOpenAI(
        model=MODEL, base_url=f"{url}/v1", api_key="none", temperature=0, max_tokens=200
    )
    talks("openai", openai)
    takes_results("openai", openai)
    calls("openai", openai)
    structured("openai", openai, "json_schema")
    structured("openai", openai, "function_calling")
    responses = openai.model_copy(update={"use_responses_api": True})
    talks("openai responses", responses)
    anthropic = ChatAnthropic(
        model=MODEL, base_url=url, api_key="none", temperature=0, max_tokens=200
    )
    talks("anthropic", anthropic)
    takes_results("anthropic", anthropic)
    calls("anthropic", anthropic)
    structured("anthropic", anthropic, "json_schema")
    ollama = ChatOllama(
        model=MODEL, base_url=url, temperature=0, num_predict=200, validate_model_on_init=True
    )
    talks("ollama", ollama)
    takes_results("ollama", ollama)
    structured("ollama", ollama, "json_schema")
    check = "The sky is blue."
    ours = OpenAIEmbeddings(
        model=MODEL, base_url=f"{url}/v1", api_key="none", check_embedding_ctx_length=False
    ).embed_query(check)
    theirs = OllamaEmbeddings(model=MODEL, base_url=url).embed_query(check)
    assert max(abs(a - b) for a, b in zip(ours, theirs, strict=True)) < 1e-5
    print("embeddings: equal by both routes")


if __name__ == "__main__":
    main(sys.argv[1])
