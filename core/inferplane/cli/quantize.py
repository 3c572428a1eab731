"""`inferplane quantize`: write a model with fewer bits a weight, and show what that costs."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from inferplane.checkpoint import Checkpoint, open_checkpoint
from inferplane.cli.flags import Given, resolve_given, with_settings
from inferplane.cli.serve import fetch_model
from inferplane.cli.terminal import megabytes
from inferplane.config import ModelSettings
from inferplane.errors import ConfigError
from inferplane.quantizing import calibrated
from inferplane.settings import Resolved

__all__ = ["quantize"]


@with_settings(ModelSettings)
def quantize(
    given: Given,
    *,
    method: Annotated[
        Literal["int8", "int4", "fp8", "gptq", "awq"],
        Parameter(help="int8, int4 and fp8 round; gptq and awq calibrate (gptqmodel) to 4 bits."),
    ],
    out: Annotated[Path, Parameter(help="Folder to write; it must not exist.")],
    calibration: Annotated[
        Path | None,
        Parameter(help="Text to calibrate gptq and awq on (default: a short packaged one)."),
    ] = None,
    check: Annotated[
        bool, Parameter(help="Measure perplexity on a fixed text before and after.")
    ] = True,
) -> int:
    """Write a quantised copy of a model that Inferplane and transformers load.

    int8, int4 and fp8 round to nearest and are written as compressed-tensors, gptq and awq by
    gptqmodel in its own layouts. The settings of a device hold for measuring perplexity.
    """
    resolved = resolve_given(given)
    settings = ModelSettings(**resolved.of(ModelSettings))
    if settings.quantization != "auto":
        raise ConfigError("--quantization is for serving; quantize takes --method")
    if out.exists():
        raise ConfigError(f"--out {out} exists already: name a new folder")
    if method in calibrated.METHODS:
        calibrated.check_library(method)
    source = fetch_model(settings)
    checkpoint = open_checkpoint(source)
    _check_source(checkpoint)
    pieces = _pieces(checkpoint) if check else []
    before = _measured(str(source), pieces, resolved)
    _write_whole(checkpoint, out, method, calibration)
    after = _measured(str(out), pieces, resolved)
    sizes = f"{megabytes(_weight_bytes(source))} -> {megabytes(_weight_bytes(out))}"
    print(f"{out}: {method}, {sizes}")
    if before is not None and after is not None:
        print(f"perplexity: {before:.3f} before, {after:.3f} after ({after / before - 1:+.2%})")
    return 0


def _check_source(checkpoint: Checkpoint) -> None:
    from inferplane.quantizing.rounding import check_source  # torch: seconds, 200 MB

    check_source(checkpoint)


def _pieces(checkpoint: Checkpoint) -> list[list[int]]:
    from inferplane.quantizing.perplexity import cut, sample_text  # the engine, as above
    from inferplane.tokenization.tokenizer import load_tokenizer

    return cut(load_tokenizer(checkpoint).encode(sample_text(), add_special_tokens=True))


def _measured(model: str, pieces: Sequence[Sequence[int]], resolved: Resolved) -> float | None:
    if not pieces:
        return None
    from inferplane.quantizing.perplexity import measure_perplexity  # the engine, as above

    settings = resolved.of(ModelSettings)
    settings.pop("model")
    return measure_perplexity(model, pieces, settings)


def _write_whole(checkpoint: Checkpoint, out: Path, method: str, calibration: Path | None) -> None:
    """The folder appears under its name when it is complete, or not at all."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as scratch:
        made = Path(scratch) / out.name
        made.mkdir()
        if method in calibrated.METHODS:
            _calibrate(checkpoint, made, Path(scratch) / "dense", method, calibration)
        else:
            _round(checkpoint, made, method)
        made.rename(out)


def _round(checkpoint: Checkpoint, folder: Path, method: str) -> None:
    from inferplane.quantizing.rounding import write_rounded  # torch, as above

    with _bars() as bars:
        row = bars.add_task(method, total=None)
        write_rounded(
            checkpoint,
            folder,
            method,
            lambda done, total, name: bars.update(row, completed=done, total=total),
        )


def _calibrate(
    checkpoint: Checkpoint, folder: Path, scratch: Path, method: str, calibration: Path | None
) -> None:
    from inferplane.quantizing.perplexity import cut, sample_text  # torch, as above
    from inferplane.quantizing.rounding import copy_dense, linear_inputs
    from inferplane.tokenization.tokenizer import load_tokenizer

    text = sample_text() if calibration is None else calibration.read_text(encoding="utf-8")
    samples = cut(load_tokenizer(checkpoint).encode(text))
    source = checkpoint.root
    if checkpoint.format == "gguf":
        scratch.mkdir()
        copy_dense(checkpoint, scratch, lambda done, total, name: None)
        source = scratch
    group = calibrated.group_size(linear_inputs(checkpoint))
    calibrated.run_gptqmodel(source, folder, method, group, samples)


def _bars() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(file=sys.stderr),
    )


def _weight_bytes(model: Path) -> int:
    if model.is_file():
        return model.stat().st_size
    kinds = (".safetensors", ".gguf")
    return sum(file.stat().st_size for file in model.iterdir() if file.suffix in kinds)
