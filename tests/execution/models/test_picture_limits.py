"""Pictures, models and devices that do not fit together are refused, or fail alone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from inferplane import LLM
from inferplane.errors import ConfigError, ModelError
from inferplane.execution.build import create_executor
from inferplane.execution.host_runtime import HostRuntime
from inferplane.interfaces import MemoryReport
from inferplane.media import media_item
from inferplane.registry import Entry
from inferplane.testing.null_engine import null_plan
from inferplane.testing.tiny_pictures import IMAGE, SEEING_KINDS


def test_a_picture_that_does_not_fit_fails_its_request_alone(
    seeing: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    """Too few rows for its placeholders, and pixels that the encoder cannot read."""
    model = seeing("llava")
    good = model.request("good", 1)
    item = good.items[0]
    ids = good.prompt_ids[: item.offset] + (IMAGE,) + good.prompt_ids[item.offset :]
    longer = media_item(offset=item.offset, length=item.length + 1, arrays=item.arrays)
    odd = {"pixel_values": np.ones((1, 3, 7, 9), np.float32)}
    broken = media_item(offset=item.offset, length=item.length, arrays=odd)
    with model.serve() as llm:
        model.begin(
            llm._engine,
            good,
            msgspec.structs.replace(good, request_id="long", prompt_ids=ids, items=(longer,)),
            msgspec.structs.replace(good, request_id="odd", items=(broken,)),
        )
        errors: dict[str, str] = {}
        tokens: list[int] = []
        while llm._engine.busy:
            llm._engine.step()
            for output in llm._engine.outputs:
                errors |= {output.request_id: output.error} if output.finish else {}
                tokens += output.token_ids if output.request_id == "good" else ()
            llm._engine.outputs.clear()
    assert errors["good"] == "" and tokens == model.continued(1)
    assert errors["long"] and errors["odd"]
    assert "its embedding is [36, 64], its prompt has room for [37, 64]" in caplog.text
    assert "cannot be encoded" in caplog.text


def test_what_the_processor_says_beside_the_picture_is_not_asked_for(
    seeing: Callable[..., Any],
) -> None:
    model = seeing("internvl")
    asked = model.request("one", 1)
    item = asked.items[0]
    more = {**item.arrays, "num_patches": np.array([2])}
    told = media_item(offset=item.offset, length=item.length, arrays=more)
    with model.serve() as llm:
        made = model.run(llm, msgspec.structs.replace(asked, items=(told,)))
    assert made["one"][0] == model.continued(1)


def test_older_names_of_tensors_are_known(seeing: Callable[..., Any], tmp_path: Path) -> None:
    """CLIP's tower had a level more, and a table of positions in the file."""
    model = seeing("llava")
    shutil.copytree(model.folder, tmp_path, dirs_exist_ok=True)
    held = load_file(model.folder / "model.safetensors")
    level = "vision_tower.vision_model."
    older = {name.replace("vision_tower.", level): tensor for name, tensor in held.items()}
    assert len(older.keys() - held.keys()) > 10
    older[f"{level}embeddings.position_ids"] = torch.arange(37)[None]
    save_file(older, tmp_path / "model.safetensors", {"format": "pt"})
    with LLM(str(tmp_path), device="cpu", dtype="float32", max_model_len=160) as llm:
        assert model.run(llm, model.request("one", 1))["one"][0] == model.continued(1)


@pytest.mark.parametrize("kind", SEEING_KINDS)
def test_the_largest_picture_can_be_encoded(kind: str, seeing: Callable[..., Any]) -> None:
    """Devices with memory of their own are measured with it."""
    model = seeing(kind)
    with model.serve() as llm:
        pictures = llm._executor._steps.pictures  # type: ignore[attr-defined]  # of the core's own
        pictures.rehearse()
        assert pictures.encoded == 1


@pytest.mark.parametrize(
    ("kind", "reason"),
    [("qwen2_vl", "three positions"), ("paligemma", "both ways"), ("mllama", "cross attention")],
)
def test_models_whose_pictures_cannot_be_served_are_refused_with_the_reason(
    kind: str, reason: str, tmp_path: Path, load: Callable[..., Any]
) -> None:
    config = transformers.CONFIG_MAPPING[kind]()
    name = transformers.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING[type(config)].__name__
    said = {
        "model_type": kind,
        "architectures": [name],
        "vision_config": {},
        "text_config": {"model_type": "llama", "vocab_size": 99},
    }
    (tmp_path / "config.json").write_text(json.dumps(said))
    with pytest.raises(ModelError, match=reason):
        load(tmp_path)


def test_a_registered_model_that_does_not_see_is_refused(
    seeing: Callable[..., Any],
) -> None:
    model = seeing("llava")
    with model.serve() as llm:
        lines = llm.plan.lines
    name = "LlavaForConditionalGeneration"
    own = ("models", Entry(name, "inferplane.models.llama:Llama", "acme", (), 0))
    with pytest.raises(ConfigError, match="Llama of acme.*takes no pictures"):
        model.begun(lines=(*lines, own))
    started, executor = model.begun(lines=(*lines, own), model_impl="transformers")
    model.begin(started.engine, model.request("one", 1))
    assert len(model.finish(started.engine)["one"][0]) == model.count
    executor.close()


def test_an_executor_that_reads_no_pictures_is_refused() -> None:
    with pytest.raises(ConfigError, match="takes no pictures"):
        create_executor(replace(null_plan(), image_token=3))


class OwnMemory(HostRuntime):
    """A device whose memory is not the host's."""

    def memory(self) -> MemoryReport:
        return replace(super().memory(), shared_with_host=False)


def test_memory_for_kept_embeddings_is_left_free(
    seeing: Callable[..., Any], start: Callable[..., Any], plain: type
) -> None:
    model = seeing("llava")
    kept, pages = 64 << 20, 40
    total = int((kept + pages * model.page) / 0.9) + 1
    machine = start(model.folder, plain(device=OwnMemory(total)), block_size=16)
    assert machine.driver.kv.num_blocks == pages
    assert machine.executor._steps.pictures.most_bytes == kept
