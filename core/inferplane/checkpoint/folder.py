"""Open a model's folder or file: which files there are, and their headers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from inferplane.checkpoint import gguf_config
from inferplane.checkpoint.files import Checkpoint, TensorInfo, read_object, read_text
from inferplane.checkpoint.gguf_header import read_gguf_header
from inferplane.checkpoint.safetensors_header import MAX_TENSORS, read_safetensors_header
from inferplane.errors import ModelError

__all__ = ["open_checkpoint"]

MAX_CONFIG_BYTES = 4_000_000
MAX_TOKENIZER_CONFIG_BYTES = 16_000_000
MAX_INDEX_BYTES = 64_000_000
MAX_TEMPLATE_BYTES = 1_000_000

_PICKLES = (".bin", ".pt", ".pth", ".ckpt")
_SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<total>\d{5})(?P<end>\.\w+)")


def open_checkpoint(path: Path) -> Checkpoint:
    """What is at `path`: a folder in Hugging Face layout, a .gguf file, or a folder holding one.

    Raises ModelError naming the file and what is wrong with it.
    """
    path = Path(path)
    if path.is_file():
        if path.suffix != ".gguf":
            raise ModelError(f"{path}: {_refusal(path)}")
        return _open_gguf(path, path)
    if not path.is_dir():
        raise ModelError(f"{path}: no such folder or file")
    index = _index(path)
    shards = sorted(set(index.values())) or _safetensors_files(path)
    if not shards and (ggufs := _gguf_files(path)):
        return _open_gguf(ggufs[0], path)
    if not (path / "config.json").is_file():
        raise ModelError(f"{path}: holds neither config.json nor a .gguf file: it is no model")
    return _open_folder(path, shards, index)


def _open_folder(root: Path, shards: list[Path], index: Mapping[str, Path]) -> Checkpoint:
    tensors: dict[str, TensorInfo] = {}
    for shard in shards:
        for name, tensor in read_safetensors_header(shard).items():
            if name in tensors:
                raise ModelError(f"{shard}: tensor {name!r} is in {tensors[name].file.name} too")
            tensors[name] = tensor
        if len(tensors) > MAX_TENSORS:
            raise ModelError(f"{root}: more than {MAX_TENSORS} tensors")
    for name, shard in index.items():
        held = tensors.get(name)
        if held is None or held.file != shard:
            raise ModelError(f"{shard}: the index says tensor {name!r} is here, it is not")
    tokenizer_config = _optional_object(root / "tokenizer_config.json", MAX_TOKENIZER_CONFIG_BYTES)
    return Checkpoint(
        root=root,
        format="safetensors" if shards else "none",
        config=read_object(root / "config.json", MAX_CONFIG_BYTES),
        generation_config=_optional_object(root / "generation_config.json", MAX_CONFIG_BYTES),
        tensors=tensors,
        metadata={},
        tokenizer_file=_existing(root / "tokenizer.json"),
        tokenizer_config=tokenizer_config,
        chat_template=_chat_template(root, tokenizer_config),
    )


def _open_gguf(file: Path, root: Path) -> Checkpoint:
    metadata, tensors = read_gguf_header(file)
    for part in _parts(file)[1:]:
        for name, tensor in read_gguf_header(part)[1].items():
            if name in tensors:
                raise ModelError(f"{part}: tensor {name!r} is in {tensors[name].file.name} too")
            tensors[name] = tensor
    # Files beside a GGUF that was named by itself belong to nobody in particular.
    beside = root if root.is_dir() else None
    tokenizer_config = gguf_config.tokenizer_config_of(file, metadata)
    template = metadata.get("tokenizer.chat_template")
    if template is not None and not isinstance(template, str):
        raise ModelError(f"{file}: tokenizer.chat_template is no string")
    if template is not None and len(template) > MAX_TEMPLATE_BYTES:
        raise ModelError(f"{file}: tokenizer.chat_template is longer than {MAX_TEMPLATE_BYTES}")
    own = _chat_template(beside, {}) if beside else None
    return Checkpoint(
        root=root,
        format="gguf",
        config=gguf_config.model_config_of(file, metadata, tensors),
        generation_config=gguf_config.generation_of(file, metadata),
        tensors=tensors,
        metadata=metadata,
        tokenizer_file=_existing(beside / "tokenizer.json") if beside else None,
        tokenizer_config=tokenizer_config,
        chat_template=own or template,
    )


def _gguf_files(root: Path) -> list[Path]:
    """The one GGUF file of a folder, first part first."""
    found = sorted(root.glob("*.gguf"))
    first = [file for file in found if not _is_later_part(file)]
    if len(first) > 1:
        names = ", ".join(file.name for file in first[:8])
        raise ModelError(f"{root}: holds {len(first)} GGUF files ({names}): name one of them")
    return first


def _is_later_part(file: Path) -> bool:
    match = _SHARD.fullmatch(file.name)
    return match is not None and match["number"] != "00001"


def _parts(file: Path) -> list[Path]:
    """All files of a model split as name-00001-of-00003.gguf, each of which must exist."""
    match = _SHARD.fullmatch(file.name)
    if match is None:
        return [file]
    total = int(match["total"])
    if total > 1000 or int(match["number"]) != 1:
        raise ModelError(f"{file}: name the first part, of at most 1000")
    name = f"{match['stem']}-{{:05d}}-of-{match['total']}{match['end']}"
    return [file.with_name(name.format(number)) for number in range(1, total + 1)]


def _safetensors_files(root: Path) -> list[Path]:
    """The shards of a folder without an index: the one file, or one complete series."""
    if (root / "model.safetensors").exists():
        return [root / "model.safetensors"]
    found = sorted(root.glob("*.safetensors"))
    series = [file for file in found if _SHARD.fullmatch(file.name)]
    if series:
        expected = _parts(series[0])
        missing = [file.name for file in expected if not file.is_file()]
        if missing:
            raise ModelError(f"{root}: shard {missing[0]} is missing")
        return expected
    if len(found) > 1:
        names = ", ".join(file.name for file in found[:8])
        raise ModelError(
            f"{root}: several safetensors files ({names}) and no model.safetensors.index.json "
            "that says which belong to the model"
        )
    pickles = sorted(file for suffix in _PICKLES for file in root.glob(f"*{suffix}"))
    if not found and pickles and not any(root.glob("*.gguf")):
        raise ModelError(f"{pickles[0]}: {_refusal(pickles[0])}")
    return found


def _index(root: Path) -> dict[str, Path]:
    """Tensor name -> shard, each shard a plain file name inside the folder; {} without an index."""
    path = root / "model.safetensors.index.json"
    if not path.exists():
        return {}
    weight_map = read_object(path, MAX_INDEX_BYTES).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ModelError(f"{path}: has no weight_map")
    if len(weight_map) > MAX_TENSORS:
        raise ModelError(f"{path}: {len(weight_map)} tensors, at most {MAX_TENSORS} are accepted")
    found: dict[str, Path] = {}
    for name, file in weight_map.items():
        if (
            not isinstance(file, str)
            or Path(file).name != file
            or not file.endswith(".safetensors")
        ):
            raise ModelError(
                f"{path}: tensor {name!r} is said to be in {file!r}, which is no name of a "
                "safetensors file in this folder"
            )
        found[name] = root / file
    return found


def _chat_template(root: Path, tokenizer_config: Mapping[str, object]) -> str | None:
    """chat_template.jinja, else chat_template.json, else the tokenizer's own (its "default")."""
    if (root / "chat_template.jinja").exists():
        return read_text(root / "chat_template.jinja", MAX_TEMPLATE_BYTES)
    path = root / "chat_template.json"
    found = read_object(path, MAX_TEMPLATE_BYTES).get("chat_template") if path.exists() else None
    found = found or tokenizer_config.get("chat_template")
    if isinstance(found, list):
        named = {t.get("name"): t.get("template") for t in found if isinstance(t, dict)}
        found = named.get("default")
    if found is not None and not isinstance(found, str):
        raise ModelError(f"{root / 'tokenizer_config.json'}: chat_template is no text")
    if found is not None and len(found) > MAX_TEMPLATE_BYTES:
        raise ModelError(f"{root}: the chat template is longer than {MAX_TEMPLATE_BYTES}")
    return found


def _optional_object(path: Path, max_bytes: int) -> dict[str, object]:
    return read_object(path, max_bytes) if path.exists() else {}


def _existing(path: Path) -> Path | None:
    return path if path.is_file() else None


def _refusal(path: Path) -> str:
    if path.suffix in _PICKLES:
        return (
            "is a pickle, which can run code when it is loaded: refused. Convert it to "
            "safetensors, or serve a repository that has them"
        )
    return "is neither a folder in Hugging Face layout nor a .gguf file"
