"""The models the core offers, through the same door as anybody's."""

from __future__ import annotations

from inferplane.hookspecs import Register, hookimpl

__all__ = ["INTERFACE_VERSION", "register_models"]

INTERFACE_VERSION = (1, 0)
_FAMILIES = {
    "Llama": "Llama",
    "Mistral": "Llama",
    "Phi3": "Phi3",
    "Qwen2": "Qwen2",
    "Qwen3": "Qwen3",
}
"""Decoders that also come without an output layer: name -> whose layers they have."""


@hookimpl
def register_models(register: Register) -> None:
    register("BertModel", "inferplane.models.bert:Bert")
    register("BertForMaskedLM", "inferplane.models.bert:Bert")
    register("BertForSequenceClassification", "inferplane.models.bert:BertClassifier")
    register("RobertaModel", "inferplane.models.bert:Roberta")
    register("RobertaForMaskedLM", "inferplane.models.bert:Roberta")
    register("RobertaForSequenceClassification", "inferplane.models.bert:RobertaClassifier")
    register("XLMRobertaModel", "inferplane.models.bert:Roberta")
    register("XLMRobertaForMaskedLM", "inferplane.models.bert:Roberta")
    register("XLMRobertaForSequenceClassification", "inferplane.models.bert:RobertaClassifier")
    register("GPT2LMHeadModel", "inferplane.models.gpt2:Gpt2")
    register("Gemma3ForCausalLM", "inferplane.models.gemma3:Gemma3")
    register("Gemma3ForConditionalGeneration", "inferplane.models.gemma3:Gemma3")
    register("LlamaForCausalLM", "inferplane.models.llama:Llama")
    register("MistralForCausalLM", "inferplane.models.llama:Llama")
    register("MixtralForCausalLM", "inferplane.models.mixtral:Mixtral")
    register("Phi3ForCausalLM", "inferplane.models.phi3:Phi3")
    register("Qwen2ForCausalLM", "inferplane.models.qwen2:Qwen2")
    register("Qwen3ForCausalLM", "inferplane.models.qwen3:Qwen3")
    register("Qwen3MoeForCausalLM", "inferplane.models.qwen3_moe:Qwen3Moe")
    register("WhisperForConditionalGeneration", "inferplane.models.whisper:Whisper")
    for name, kind in _FAMILIES.items():
        register(f"{name}Model", f"inferplane.models.headless:{kind}Vectors")
        register(f"{name}ForSequenceClassification", f"inferplane.models.headless:{kind}Classifier")
    register("*", "inferplane.models.transformers_decoder:TransformersDecoder")
    register("* with pictures", "inferplane.models.transformers_pictures:TransformersPictures")
