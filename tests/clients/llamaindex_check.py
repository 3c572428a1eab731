"""LlamaIndex with a running server: complete, chat, stream, tools and structured answers.

Run by scripts/test-clients with LlamaIndex's environment; the address is the only argument.
"""

import asyncio
import sys

from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel

MODEL = "smollm2-135m"
QUESTION = "What is the capital of France?"


class Answer(BaseModel):
    """An answer about a city."""

    city: str
    large: bool


def weather(city: str) -> str:
    """The weather of a city."""
    return f"rain in {city}"


def main(url: str) -> None:
    """Every check; the first failure ends it."""
    shared = {
        "model": MODEL,
        "api_base": f"{url}/v1",
        "api_key": "none",
        "temperature": 0.0,
        "max_tokens": 200,
        "context_window": 4096,
    }
    plain = OpenAILike(**shared, is_chat_model=False)
    assert "Paris" in plain.complete("The capital of France is").text
    print("complete")
    chat = OpenAILike(**shared, is_chat_model=True, is_function_calling_model=True)
    asked = [ChatMessage(role="user", content=QUESTION)]
    whole = chat.chat(asked).message.content
    assert whole and "Paris" in whole
    assert "".join(piece.delta or "" for piece in chat.stream_chat(asked)) == whole
    assert asyncio.run(chat.achat(asked)).message.content == whole
    print("chat, streamed and asynchronous")
    tool = FunctionTool.from_defaults(weather)
    made = chat.chat_with_tools([tool], "How is the weather in Rome?", tool_choice="weather")
    (call,) = chat.get_tool_calls_from_response(made)
    assert call.tool_name == "weather" and isinstance(call.tool_kwargs["city"], str)
    print("tools")
    answer = chat.as_structured_llm(Answer).complete("Tell me about Rome.").raw
    assert isinstance(answer, Answer)
    print("structured")


if __name__ == "__main__":
    main(sys.argv[1])
