"""Every setting, declared once: flag, environment variable, file key and docs entry follow.

The only module that reads the environment. Knows nothing of terminals, sockets or devices.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from inferplane import setting_kinds as kinds
from inferplane.api_keys import ApiKey, key_of_text
from inferplane.errors import ConfigError
from inferplane.interfaces import EngineConfig
from inferplane.launch import LaunchSettings, SchedulerConfig
from inferplane.setting_kinds import Kind
from inferplane.settings import nearest, setting, settings_of

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

__all__ = [
    "DEFAULT_MODEL",
    "SETTINGS_FILE",
    "ModelSettings",
    "ServeSettings",
    "cache_folder",
    "check_variables",
    "current_environment",
    "launch_settings",
]

DEFAULT_MODEL = "smollm2-135m"
SETTINGS_FILE = "INFERPLANE_CONFIG"
"""Names a settings file, like --config."""


_model = partial(setting, group="Model")
_device = partial(setting, group="Device")
_schedule = partial(setting, group="Scheduling")
_server = partial(setting, group="Server")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSettings:
    """What to run, on what, and how steps are made: for serve, chat, generate and bench."""

    model: str = _model(
        DEFAULT_MODEL, kinds.TEXT, "A name of the catalogue, a folder, a .gguf file or ORG/NAME."
    )
    cache: Path | None = _model(
        None, kinds.PATH, "Folder for downloaded models; default: the user's cache folder."
    )
    offline: bool = _model(False, kinds.FLAG, "Never open a connection to fetch a model.")
    dtype: str = _model("auto", kinds.TEXT, "Arithmetic: auto, float32, bfloat16, float16.")
    quantization: str = _model(
        "auto",
        kinds.choice("auto", "none", "int8", "int4", "fp8"),
        "Weights: auto serves them as they are stored, none dequantises GGUF, int8, int4 and fp8 "
        "quantise while loading.",
    )
    task: Literal["auto", "generate", "embed", "score", "classify", "transcribe"] = _model(
        "auto",
        kinds.choice("auto", "generate", "embed", "score", "classify", "transcribe"),
        "What requests may ask for; auto takes what the model was made for.",
    )
    model_impl: Literal["auto", "transformers"] = _model(
        "auto",
        kinds.choice("auto", "transformers"),
        "auto runs a model registered for the architecture where there is one; transformers runs "
        "that library's class, which rounds where it rounds (docs/clients.md).",
    )
    load_format: Literal["auto", "dummy"] = _model(
        "auto", kinds.choice("auto", "dummy"), "auto reads the weights, dummy makes them up."
    )
    dummy_seed: int = _model(0, kinds.whole(), "Seed of dummy weights.")
    max_model_len: int = _model(
        4096,
        kinds.count(0),
        "Most tokens of one request, prompt and answer together; 0 = what model and memory allow.",
        aliases={"--context": ""},
    )
    chat_template: Path | None = _model(
        None, kinds.PATH, "File with the chat template to use instead of the model's own."
    )
    generation_config: str = _model(
        "model",
        kinds.TEXT,
        "Sampling defaults: model takes generation_config.json, none ignores it, or a file.",
    )

    device: str = _device("auto", kinds.TEXT, "A platform by name; auto takes the best usable one.")
    plugins: tuple[str, ...] | None = _device(
        None,
        kinds.NAMES,
        "Load exactly these plugins (entry point or module names); no:NAME leaves one out.",
        aliases={"--plugin": ""},
    )
    without: tuple[str, ...] = _device((), kinds.NAMES, "Plugins to leave out.")
    trace_plugins: bool = _device(
        False, kinds.FLAG, "Print each call of a plugin's hook with its answer and time."
    )
    tensor_parallel: int = _device(
        1,
        kinds.count(1),
        "Devices that share each layer.",
        aliases={"--tensor-parallel-size": "known here as --tensor-parallel"},
    )
    memory_fraction: float = _device(
        0.9,
        kinds.number(0.01, 1.0),
        "Share of the device's free memory for weights, KV cache and work space.",
        aliases={
            "--gpu-memory-utilization": "known here as --memory-fraction; it counts the memory of "
            "whatever device runs the model"
        },
    )
    kv_dtype: str = _device(
        "auto",
        kinds.TEXT,
        "Number format of the KV cache; auto is that of the model.",
        aliases={"--kv-cache-dtype": "known here as --kv-dtype"},
    )
    block_size: int = _device(0, kinds.count(0), "Tokens of a KV block; 0 = what the parts need.")
    attention: str = _device(
        "auto",
        kinds.TEXT,
        "Attention backend by name.",
        aliases={"--attention-backend": "known here as --attention"},
    )
    kernels: Mapping[str, str] = _device(
        {}, kinds.PAIRS, "Plugin to take an op's kernel from: rms_norm/1=acme."
    )
    fallback: Literal["reference", "error"] = _device(
        "reference",
        kinds.choice("reference", "error"),
        "What to do for an op without a kernel: run the reference, or refuse to start.",
    )
    options: Mapping[str, str] = _device(
        {}, kinds.PAIRS, "The device plugin's own settings: name=value."
    )

    max_num_seqs: int = _schedule(128, kinds.count(1), "Most sequences in one step.")
    max_batched_tokens: int = _schedule(
        2048,
        kinds.count(1),
        "Most tokens in one step.",
        aliases={"--max-num-batched-tokens": "known here as --max-batched-tokens"},
    )
    policy: Literal["fcfs", "priority"] = _schedule(
        "fcfs",
        kinds.choice("fcfs", "priority"),
        "Order of waiting requests.",
        aliases={"--scheduling-policy": "known here as --policy"},
    )
    max_active_seqs: int | None = _schedule(
        None, kinds.count(1), "Most admitted requests; default: max_num_seqs."
    )
    long_prefill_threshold: int = _schedule(
        0,
        kinds.count(0),
        "Tokens of one prefill chunk when the request has company; 0 = no limit.",
        aliases={"--long-prefill-token-threshold": "known here as --long-prefill-threshold"},
    )
    adaptive_prefill: bool = _schedule(
        False,
        kinds.FLAG,
        "Never let that limit fall below an equal share of max_batched_tokens.",
    )
    chunked_prefill: bool = _schedule(
        True,
        kinds.FLAG,
        "Let a long prompt take several steps.",
        aliases={"--enable-chunked-prefill": "known here as --chunked-prefill"},
    )
    prefix_cache: bool = _schedule(
        True,
        kinds.FLAG,
        "Reuse the KV blocks of equal prompt beginnings.",
        aliases={"--enable-prefix-caching": "known here as --prefix-cache"},
    )
    reserve_whole_prompt: bool = _schedule(
        True, kinds.FLAG, "Admit a request only when its whole prompt has blocks."
    )
    watermark: float = _schedule(
        0.0, kinds.number(0.0, 0.9), "Share of blocks kept free when admitting beside others."
    )
    prefill_interval: int = _schedule(1, kinds.count(1), "Prefill in every N-th step at most.")
    adopt_pending: bool = _schedule(
        True, kinds.FLAG, "Share prefix blocks that another request is still computing."
    )
    num_drafts: int = _schedule(
        0, kinds.count(0), "n-gram draft tokens per step and sequence; 0 = no speculation."
    )
    max_waiting: int = _schedule(
        0, kinds.count(0), "Most queued requests; 0 = four times max_num_seqs."
    )
    max_waiting_tokens: int = _schedule(
        0, kinds.count(0), "Most tokens of all queued requests together; 0 = no limit."
    )
    max_overtakes: int = _schedule(
        0,
        kinds.count(0),
        "How many later requests may start before one that does not fit; 0 = strict order.",
    )
    queue_timeout_s: float = _schedule(
        60.0, kinds.SECONDS, "Longest wait in the queue; 0 = for ever."
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeSettings:
    """What the server needs beside the model; `launch`, `model_source` and keys are resolved."""

    launch: LaunchSettings
    model_source: str
    """What the user typed for the model; `launch.config.model` is where its files are."""

    served_names: tuple[str, ...] = _server(
        (),
        kinds.NAMES,
        "Names the model answers to, the first is written into answers; default: its own.",
        aliases={"--served-model-name": "known here as --served-names"},
    )
    host: str = _server("127.0.0.1", kinds.TEXT, "Address to listen on.")
    port: int = _server(8000, kinds.whole(0, 65535), "Port to listen on; 0 takes a free one.")
    probe_port: int | None = _server(
        None,
        kinds.whole(0, 65535),
        "Port that answers the probes, in a thread of its own, beside the server's; 0 takes a free "
        "one.",
    )
    uds: Path | None = _server(None, kinds.PATH, "UNIX socket to listen on instead of a port.")
    root_path: str = _server("", kinds.TEXT, "Path prefix that a proxy puts before every route.")
    tls_cert: Path | None = _server(
        None,
        kinds.PATH,
        "Certificate chain (PEM) to serve HTTPS with; read again when it changes.",
        aliases={"--ssl-certfile": "known here as --tls-cert"},
    )
    tls_key: Path | None = _server(
        None,
        kinds.PATH,
        "Its private key (PEM).",
        aliases={"--ssl-keyfile": "known here as --tls-key"},
    )
    api_keys: tuple[ApiKey, ...] = _server(
        (), Kind("a key", key_of_text), "Key that clients must send.", key="api_key", secret=True
    )
    """With the keys of the key file, once resolved."""
    api_key_file: Path | None = _server(
        None, kinds.PATH, "File of keys: lines of NAME SHA256 SCOPE,SCOPE LIMIT=NUMBER."
    )
    insecure_no_auth: bool = _server(
        False, kinds.FLAG, "Listen beyond this machine without any key."
    )
    allowed_origins: tuple[str, ...] = _server(
        (), kinds.NAMES, "Web origins whose pages may call the server (CORS)."
    )
    max_connections: int = _server(
        4096,
        kinds.count(1),
        "Most connections at once, beside 64 for probes; fewer where fewer files may be open.",
    )
    strict: bool = _server(
        False, kinds.FLAG, "Refuse requests whose fields would be ignored or changed."
    )
    state: Path | None = _server(
        None, kinds.PATH, "Folder for stored answers, files and batches; default: one a port."
    )
    enable_admin: bool = _server(False, kinds.FLAG, "Offer the routes of scope admin.")
    load_wait_s: float = _server(
        30.0, kinds.SECONDS, "How long requests wait for a model that is still loading."
    )
    drain_delay_s: float = _server(
        5.0, kinds.SECONDS, "After SIGTERM, how long new requests are still served."
    )
    shutdown_timeout_s: float = _server(
        45.0, kinds.SECONDS, "After the drain delay, how long running requests may finish."
    )
    log_format: Literal["text", "json"] = _server(
        "text", kinds.choice("text", "json"), "Form of log lines."
    )
    otlp_endpoint: str = _server(
        "",
        kinds.TEXT,
        "Base URL of an OpenTelemetry collector (OTLP over HTTP) for traces; needs the extra otel.",
        aliases={"--otlp-traces-endpoint": "known here as --otlp-endpoint"},
    )
    metrics_alias: Literal["none", "vllm"] = _server(
        "none",
        kinds.choice("none", "vllm"),
        "Also tell figures under the names that vLLM's dashboards and gateways know.",
    )
    keep_attribution_header: bool = _server(
        False,
        kinds.FLAG,
        "Keep the line with which agents begin their system text in POST /v1/messages; it differs "
        "each time, so that no prefix is found in the cache.",
    )
    allow_media_domains: tuple[str, ...] = _server(
        (),
        kinds.NAMES,
        "Hosts from which pictures may be fetched, over https and at public addresses only; a port "
        "other than 443 is named as HOST:PORT.",
    )
    chat_template: Path | None = None
    generation_config: str = "model"


def launch_settings(settings: ModelSettings, model: Path) -> LaunchSettings:
    """The settings as engine and plugins read them; `model` is where the files are."""
    return LaunchSettings(
        config=EngineConfig(model=str(model), **_shared(settings, EngineConfig)),
        scheduler=SchedulerConfig(**_shared(settings, SchedulerConfig)),
        plugins=settings.plugins,
        without=settings.without,
        trace_plugins=settings.trace_plugins,
        model_impl=settings.model_impl,
        load_format=settings.load_format,
        seed=settings.dummy_seed,
        task=settings.task,
    )


def _shared(settings: ModelSettings, owner: type[DataclassInstance]) -> dict[str, Any]:
    ours = {item.name for item in fields(settings)} - {"model"}
    return {f.name: getattr(settings, f.name) for f in fields(owner) if f.name in ours}


def check_variables(environ: Mapping[str, str]) -> None:
    """Raise ConfigError for a variable INFERPLANE_X that means nothing, with the nearest known."""
    known = {one.variable for one in settings_of(ModelSettings, ServeSettings)} | {SETTINGS_FILE}
    for name in environ:
        if name.startswith("INFERPLANE_") and name not in known:
            raise ConfigError(f"unknown environment variable {name}{nearest(name, known)}")


def current_environment() -> dict[str, str]:
    """A copy of this process's environment; other modules get what they need as arguments."""
    return dict(os.environ)


def cache_folder(environ: Mapping[str, str]) -> Path:
    """INFERPLANE_CACHE, else `inferplane` in the XDG cache folder, else in ~/.cache."""
    if named := environ.get("INFERPLANE_CACHE"):
        return Path(named).expanduser()
    base = environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "inferplane"
