"""Everything `inferplane inspect` tells of a model, gathered from its files and from a plan."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from inferplane.checkpoint import Checkpoint, open_checkpoint
from inferplane.config import ModelSettings, ServeSettings, launch_settings
from inferplane.errors import InferplaneError
from inferplane.launch import LaunchPlan, LaunchSettings
from inferplane.model_config import ModelConfig
from inferplane.models.choice import model_entry
from inferplane.planner import run_planner
from inferplane.server.model_facts import weight_facts
from inferplane.server.served_model import ServedModel, load_served_model

__all__ = ["inspection"]


def inspection(settings: ModelSettings, path: Path) -> dict[str, Any]:
    """The facts as JSON has them. Raises ConfigError or ModelError for files that cannot be used.

    A model that nothing here can serve is told in `served_by`, not raised.
    """
    launch = launch_settings(settings, path)
    served = ServeSettings(
        launch=launch,
        model_source=settings.model,
        chat_template=settings.chat_template,
        generation_config=settings.generation_config,
    )
    checkpoint = open_checkpoint(path)
    model = load_served_model(served)
    try:
        return {
            "model": settings.model,
            "path": str(path),
            "format": checkpoint.format,
            "architecture": _architecture(model.config),
            "weights": _weights(checkpoint, model.config),
            "tokenizer": _tokenizer(model),
            "chat_template": _template(settings, checkpoint, model),
            "tools": _tools(model),
            "reasoning": _reasoning(model),
            "sampling_defaults": dict(model.defaults),
            "served_by": _served_by(launch, model.config),
        }
    finally:
        model.close()


def _architecture(config: ModelConfig) -> dict[str, Any]:
    windows = sorted({window for window in config.layer_windows if window is not None})
    return {
        "name": config.architecture,
        "model_type": config.model_type,
        "layers": config.num_layers,
        "hidden_size": config.hidden_size,
        "heads": config.num_heads,
        "kv_heads": config.num_kv_heads,
        "head_size": config.head_dim,
        "vocabulary": config.vocab_size,
        "context": config.max_position,
        "windows": windows,
        "experts": None if config.moe is None else config.moe.num_experts,
        "dtype": config.dtype,
    }


def _weights(checkpoint: Checkpoint, config: ModelConfig) -> dict[str, Any]:
    facts = weight_facts(checkpoint, config)
    return {
        "parameters": facts.parameters,
        "spoken": facts.spoken_parameters,
        "bytes": facts.bytes,
        "quantization": facts.quantization,
        "dtypes": {name: asdict(one) for name, one in facts.dtypes.items()},
    }


def _tokenizer(model: ServedModel) -> dict[str, Any]:
    tokenizer = model.tokenizer
    return {
        "class": tokenizer.tokenizer_class,
        "vocabulary": tokenizer.vocab_size,
        "end_tokens": {tokenizer.token_text(id): id for id in model.eos_ids},
    }


def _template(
    settings: ModelSettings, checkpoint: Checkpoint, model: ServedModel
) -> dict[str, Any] | None:
    template = model.template
    if template is None:
        return None
    origin = settings.chat_template or checkpoint.root
    return {
        "from": str(origin),
        "characters": len(template.source),
        "takes_tools": template.takes_tools,
        "settings": sorted(template.names),
    }


def _tools(model: ServedModel) -> dict[str, Any]:
    """The format of calls as requests meet it, and how that is known."""
    row, template = model.pick.format, model.template
    if template is not None and not template.takes_tools:
        evidence = "the chat template takes no tools: they are told in the system message"
        return {"format": "hermes", "evidence": evidence}
    if not row.tools:
        evidence = f"{model.pick.evidence}; format {row.name} has no calls"
        return {"format": "hermes", "evidence": evidence}
    return {"format": row.name, "evidence": model.pick.evidence}


def _reasoning(model: ServedModel) -> dict[str, Any] | None:
    row = model.pick.format
    begin, end = row.think
    if not begin:
        return None
    return {"format": row.name, "begin": begin, "end": end, "evidence": model.pick.evidence}


def _served_by(launch: LaunchSettings, config: ModelConfig) -> dict[str, Any]:
    """What a launch with these settings would use; the reason where nothing would."""
    try:
        plan = run_planner(launch)
    except InferplaneError as error:
        return {"device": None, "reason": str(error)}
    return {
        "device": plan.device,
        "plugin": plan.plugin,
        "version": plan.plugin_version,
        "reason": plan.probe.reason,
        "tasks": list(plan.tasks),
        **_parts(plan, config),
        "takes_pictures": plan.image_token is not None and plan.speech is None,
        "dtype": plan.config.dtype,
        "context": plan.config.max_model_len,
        "changes": [asdict(change) for change in plan.changes],
        "others": {one.name: _why_not(one) for one in plan.devices if one.name != plan.device},
    }


def _parts(plan: LaunchPlan, config: ModelConfig) -> dict[str, Any]:
    """Who offers the model's code and reads its weights."""
    lines = plan.catalogue()
    method = str(config.quantization.get("quant_method") or "")
    registered = plan.model_impl == "auto"
    sees = plan.image_token is not None and plan.speech is None
    model = model_entry(lines, config.architecture, plan.labels(), registered=registered, sees=sees)
    formats = lines["quantization_formats"].candidates(method, plan.labels()) if method else ()
    return {
        "model": model.target,
        "model_owner": model.owner,
        "quantization": formats[0].target if formats else None,
    }


def _why_not(device: Any) -> str:
    """Why this device was not taken."""
    if device.error:
        return str(device.error)
    if device.probe is None:
        return "not asked"
    return "usable; another has a higher score" if device.probe.ok else str(device.probe.reason)
