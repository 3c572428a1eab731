"""The option `encoder`: what it accepts, what it changes, and which package is missing."""

from __future__ import annotations

from dataclasses import replace

import pytest

from inferplane.errors import ConfigError
from inferplane.interfaces import Change, EngineConfig, ModelShape
from inferplane_cpu.encoders.option import changes

BERT = ModelShape("BertModel", 2, 64, 4, 4, 16, 100, 512, "float32")
ASKED = EngineConfig("model", dtype="float32", options={"encoder": "onnx"})


def nothing() -> tuple[str, ...]:
    return ()


def test_silence_means_the_native_path() -> None:
    assert changes(replace(ASKED, options={}), BERT, lambda: ("onnx",)) == ()


def test_a_graph_computes_in_float32_and_says_so() -> None:
    reason = "option encoder=onnx computes in it"
    assert changes(ASKED, BERT, nothing) == ()
    asked = replace(ASKED, dtype="bfloat16")
    assert changes(asked, BERT, nothing) == (Change("dtype", "float32", reason),)


def test_a_missing_package_is_named_with_the_command() -> None:
    with pytest.raises(ConfigError) as refused:
        changes(ASKED, BERT, lambda: ("onnxruntime", "onnx"))
    said = "onnxruntime and onnx not installed: pip install 'inferplane-cpu[onnx]'"
    assert str(refused.value).endswith(said)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("config", "model", "said"),
    [
        (replace(ASKED, options={"encoder": "torch"}), BERT, "expected native or onnx"),
        (ASKED, replace(BERT, architecture="LlamaForCausalLM"), "LlamaForCausalLM is not one of"),
        (replace(ASKED, quantization="int8"), BERT, "without quantised weights"),
        (ASKED, replace(BERT, quantization="gptq"), "without quantised weights"),
        (replace(ASKED, tensor_parallel=2), BERT, "tensor_parallel 1"),
    ],
)
def test_what_no_graph_can_do_is_refused(
    config: EngineConfig, model: ModelShape, said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        changes(config, model, nothing)
