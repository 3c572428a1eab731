"""Quantise a model with others' tools and write down what those tools compute with the result.

python make_checkpoints.py SOURCE FOLDER [--only NAME …]

SOURCE is a folder of bf16 safetensors (benchmarks/export_model.py writes one); FOLDER receives one
checkpoint for each recipe, with `reference.json` beside its files: token ids of a fixed text and
the log-probability of each after those before it, by the tool itself. It runs in an environment of
its own (requirements.txt) and imports nothing of ours.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

TEXT = Path(__file__).resolve().parents[3] / "core/inferplane/quantizing/sample.txt"
TOKENS = 512
CALIBRATION = 24
GROUP = 64
"""Divides SmolLM2's 576 and 1536 inputs, which 128 does not."""


def main() -> int:
    """One process a recipe: these libraries change each other's classes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="*", default=list(RECIPES), choices=list(RECIPES))
    parser.add_argument("--here", action="store_true", help="in this process; one recipe")
    chosen = parser.parse_args()
    if chosen.here:
        write_checkpoint(chosen.source, chosen.folder, chosen.only[0])
        return 0
    failed = []
    for name in chosen.only:
        command = [sys.executable, __file__, chosen.source, chosen.folder, "--here", "--only", name]
        log = chosen.folder / f"{name}.log"
        chosen.folder.mkdir(parents=True, exist_ok=True)
        with log.open("w") as out:
            done = subprocess.run(command, stdout=out, stderr=subprocess.STDOUT, check=False)
        print(f"{name}: {'made' if done.returncode == 0 else f'FAILED, see {log}'}", flush=True)
        failed += [name] if done.returncode else []
    return 1 if failed else 0


def write_checkpoint(source: Path, folder: Path, name: str) -> None:
    """Make one checkpoint and its reference; an older one is replaced."""
    target = folder / name
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    load = RECIPES[name](source, target)
    write_reference(source, target, load())


def write_reference(source: Path, target: Path, model: Any) -> None:
    """What the tool's own model makes of the text, in one forward pass."""
    import torch
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(source)
    ids = tokenizer(TEXT.read_text(encoding="utf-8"))["input_ids"][:TOKENS]
    tokens = torch.tensor([ids])
    given, best = _predicted(model, tokens)
    model.get_input_embeddings().register_forward_hook(lambda layer, args, out: out * (1 + 1e-6))
    moved, moved_best = _predicted(model, tokens)
    content = {
        "token_ids": ids,
        "logprobs": [round(x, 6) for x in given.tolist()],
        "best": best.tolist(),
        "perplexity": round(float((-given.mean()).exp()), 5),
        # What rounding alone does to the tool's own result, where it quantises activations.
        "own_delta": round(float((given - moved).abs().mean()), 6),
        "own_same_best": round(float((best == moved_best).float().mean()), 6),
    }
    (target / "reference.json").write_text(json.dumps(content) + "\n")
    print(f"perplexity {content['perplexity']}")


def _predicted(model: Any, tokens: Any) -> tuple[Any, Any]:
    """(log-probability of each token after the first, the most likely one in its place)."""
    import torch

    with torch.inference_mode():
        spread = model(tokens).logits[0].float().log_softmax(-1)[:-1]
    return spread.gather(1, tokens[0, 1:, None])[:, 0], spread.argmax(-1)


def calibration(source: Path) -> list[list[int]]:
    """Pieces of the text's second half, which the reference does not look at."""
    from transformers import AutoTokenizer

    ids = AutoTokenizer.from_pretrained(source)(TEXT.read_text(encoding="utf-8"))["input_ids"]
    rest = ids[TOKENS:]
    step = max(1, (len(rest) - 256) // CALIBRATION)
    return [rest[at : at + 256] for at in range(0, len(rest) - 256, step)][:CALIBRATION]


def gptqmodel(source: Path, target: Path, **settings: Any) -> Callable[[], Any]:
    """GPTQ or AWQ by gptqmodel; it computes with its own torch kernel."""
    # It asks for two workers even where its own default for few cores is one.
    os.environ.setdefault("GPTQMODEL_CPU_WORKERS", "2")
    from gptqmodel import BACKEND, GPTQModel, QuantizeConfig

    config = QuantizeConfig(**{"bits": 4, "group_size": GROUP, **settings})
    model = GPTQModel.load(str(source), config, device="cpu")
    # What it would choose for AWQ runs on a GPU only.
    is_awq = settings.get("quant_method") == "awq"
    backend = BACKEND.AWQ_TORCH if is_awq else BACKEND.GPTQ_TORCH
    # AWQ tries twenty scales for each layer over all samples, an hour for these on two cores.
    pieces = [ids[:64] for ids in calibration(source)[:4]] if is_awq else calibration(source)
    texts = [{"input_ids": ids, "attention_mask": [1] * len(ids)} for ids in pieces]
    model.quantize(texts, batch_size=1, backend=backend)
    model.save(str(target))
    return lambda: GPTQModel.load(str(target), device="cpu", backend=backend, dtype="float32").model


def compressor(source: Path, target: Path, scheme: Any, **settings: Any) -> Callable[[], Any]:
    """compressed-tensors by llm-compressor; transformers reads it back."""
    from datasets import Dataset
    from llmcompressor import oneshot
    from llmcompressor.modifiers.quantization import QuantizationModifier

    groups = {"config_groups": {"group_0": scheme}} if isinstance(scheme, dict) else {}
    named = {} if groups else {"scheme": scheme, "targets": ["Linear"]}
    recipe = QuantizationModifier(ignore=["lm_head"], **groups, **named, **settings)
    pieces = calibration(source)
    data = Dataset.from_dict({"input_ids": pieces, "attention_mask": [[1] * 256] * len(pieces)})
    model = transformers_model(source)
    oneshot(
        model=model,
        dataset=data,
        recipe=recipe,
        max_seq_length=256,
        num_calibration_samples=len(pieces),
        pipeline="basic",
    )
    model.save_pretrained(target, save_compressed=True)
    return partial(transformers_model, target)


def torchao(source: Path, target: Path, kind: str, **settings: Any) -> Callable[[], Any]:
    """torchao by transformers, in safetensors."""
    import torchao.quantization
    from transformers import AutoModelForCausalLM, TorchAoConfig

    config = TorchAoConfig(getattr(torchao.quantization, kind)(**settings))
    model = AutoModelForCausalLM.from_pretrained(
        source, quantization_config=config, dtype="float32", device_map="cpu"
    )
    model.save_pretrained(target)
    return lambda: model


def gguf(source: Path, target: Path, kind: str) -> Callable[[], Any]:
    """Blocks written by the gguf package; transformers dequantises them."""
    import gguf as library
    import numpy as np
    from safetensors.torch import load_file

    config = json.loads((source / "config.json").read_text())
    writer = library.GGUFWriter(target / "model.gguf", "llama")
    _describe(writer, config, json.loads((source / "tokenizer.json").read_text()))
    names = library.get_tensor_name_map(library.MODEL_ARCH.LLAMA, config["num_hidden_layers"])
    for name, tensor in load_file(source / "model.safetensors").items():
        values = tensor.float()
        for part, heads in (("q_proj", "num_attention_heads"), ("k_proj", "num_key_value_heads")):
            if f".{part}." in name:  # llama.cpp's order of the rotated halves
                halves = values.view(config[heads], 2, -1, values.shape[1])
                values = halves.transpose(1, 2).reshape(values.shape)
        stored = names.get_name(name, try_suffixes=(".weight",))
        array = values.numpy()
        if array.ndim == 2:
            form = library.GGMLQuantizationType[kind]
            writer.add_tensor(stored, library.quants.quantize(array, form), raw_dtype=form)
        else:
            writer.add_tensor(stored, array.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return partial(transformers_model, target, gguf_file="model.gguf")


def _describe(writer: Any, config: Mapping[str, Any], tokenizer: Mapping[str, Any]) -> None:
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_vocab_size(config["vocab_size"])
    vocabulary = tokenizer["model"]["vocab"]
    tokens = sorted(vocabulary, key=vocabulary.get)
    merges = [m if isinstance(m, str) else " ".join(m) for m in tokenizer["model"]["merges"]]
    special = {token["content"] for token in tokenizer["added_tokens"]}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in special else 1 for token in tokens])
    writer.add_token_merges(merges)
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(config["eos_token_id"][0])


def transformers_model(folder: Path, **settings: Any) -> Any:
    """As transformers loads it, in float32."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype="float32", **settings)


_PER_OUTPUT = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel"}
_GROUPED = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": GROUP}
RECIPES: Mapping[str, Callable[[Path, Path], Callable[[], Any]]] = {
    "gptq-4bit": gptqmodel,
    "gptq-4bit-act-order": partial(gptqmodel, desc_act=True),
    "gptq-4bit-asymmetric": partial(gptqmodel, sym=False),
    "gptq-3bit": partial(gptqmodel, bits=3, group_size=32),
    "gptq-8bit": partial(gptqmodel, bits=8),
    "awq-gemm": partial(gptqmodel, quant_method="awq", format="gemm", sym=False),
    "ct-w4a16": partial(
        compressor,
        scheme={"targets": ["Linear"], "weights": {**_GROUPED, "symmetric": True}},
    ),
    "ct-w4a16-asymmetric": partial(
        compressor,
        scheme={"targets": ["Linear"], "weights": {**_GROUPED, "symmetric": False}},
    ),
    "ct-w8a16": partial(compressor, scheme={"targets": ["Linear"], "weights": _PER_OUTPUT}),
    "ct-w8a8-int8": partial(compressor, scheme="W8A8"),
    "ct-fp8-dynamic": partial(compressor, scheme="FP8_DYNAMIC"),
    "ct-fp8-static": partial(compressor, scheme="FP8"),
    "ct-fp8-kv": partial(
        compressor,
        scheme="FP8_DYNAMIC",
        kv_cache_scheme={
            "num_bits": 8,
            "type": "float",
            "strategy": "tensor",
            "dynamic": False,
            "symmetric": True,
        },
    ),
    "torchao-int8": partial(torchao, kind="Int8WeightOnlyConfig", version=2),
    "torchao-fp8": partial(torchao, kind="Float8WeightOnlyConfig", version=2),
    "gguf-q8_0": partial(gguf, kind="Q8_0"),
    "gguf-q4_0": partial(gguf, kind="Q4_0"),
    "gguf-q5_1": partial(gguf, kind="Q5_1"),
}


if __name__ == "__main__":
    sys.exit(main())
