"""Quantise a model with others' tools and write down what those tools compute with the result.

python make_checkpoints.py SOURCE FOLDER [--only NAME …] [--references]

SOURCE is a folder of bf16 safetensors (benchmarks/export_model.py writes one); FOLDER receives one
checkpoint for each recipe, with `reference.json` beside its files: token ids of a fixed text and
the log-probability of each after those before it, by the tool itself. It runs in an environment of
its own (requirements.txt) and imports nothing of ours.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from recipes import RECIPES, compared_tokens


def main() -> int:
    """One process a recipe: these libraries change each other's classes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="*", default=list(RECIPES), choices=list(RECIPES))
    parser.add_argument(
        "--references", action="store_true", help="only reference.json, of what is made already"
    )
    parser.add_argument("--here", action="store_true", help="in this process; one recipe")
    chosen = parser.parse_args()
    if chosen.here:
        write_checkpoint(chosen.source, chosen.folder, chosen.only[0], chosen.references)
        return 0
    passed = ["--references"] if chosen.references else []
    failed = []
    for name in chosen.only:
        given = [chosen.source, chosen.folder, "--here", *passed, "--only", name]
        log = chosen.folder / f"{name}.log"
        chosen.folder.mkdir(parents=True, exist_ok=True)
        with log.open("w") as out:
            command = [sys.executable, __file__, *given]
            done = subprocess.run(command, stdout=out, stderr=subprocess.STDOUT, check=False)
        print(f"{name}: {'made' if done.returncode == 0 else f'FAILED, see {log}'}", flush=True)
        failed += [name] if done.returncode else []
    return 1 if failed else 0


def write_checkpoint(source: Path, folder: Path, name: str, is_made: bool) -> None:
    """Make one checkpoint, in place of an older one, and its reference."""
    target = folder / name
    recipe = RECIPES[name]
    if not is_made:
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        recipe.make(source, target)
    content = reference(recipe.load(target), compared_tokens(source))
    if recipe.own is not None:
        content |= _own_arithmetic(recipe.own(target), content)
    (target / "reference.json").write_text(json.dumps(content) + "\n")
    told = ("perplexity", "own_delta", "own_same_best", "kernels")
    print({name: content[name] for name in told if name in content})


def reference(model: Any, ids: list[int]) -> dict[str, Any]:
    """What the tool's own model makes of the text, in one forward pass."""
    import torch

    tokens = torch.tensor([ids])
    given, best = _predicted(model, tokens)
    model.get_input_embeddings().register_forward_hook(lambda layer, args, out: out * (1 + 1e-6))
    moved, moved_best = _predicted(model, tokens)
    return {
        "token_ids": ids,
        "logprobs": [round(x, 6) for x in given.tolist()],
        "best": best.tolist(),
        "perplexity": round(float((-given.mean()).exp()), 5),
        # What rounding alone does to the tool's own result, where it quantises activations.
        "own_delta": round(float((given - moved).abs().mean()), 6),
        "own_same_best": round(float((best == moved_best).float().mean()), 6),
    }


def _own_arithmetic(model: Any, content: dict[str, Any]) -> dict[str, Any]:
    """How far the tool's 16-bit kernels are from the same weights in float32."""
    import torch

    given, best = _predicted(model, torch.tensor([content["token_ids"]]))
    wide, wide_best = torch.tensor(content["logprobs"]), torch.tensor(content["best"])
    kernels = {
        "mean_delta": round(float((given - wide).abs().mean()), 6),
        "same_best": round(float((best == wide_best).float().mean()), 6),
        "perplexity": round(float((-given.mean()).exp()), 5),
    }
    return {"kernels": kernels}


def _predicted(model: Any, tokens: Any) -> tuple[Any, Any]:
    """(log-probability of each token after the first, the most likely one in its place)."""
    import torch

    with torch.inference_mode():
        spread = model(tokens).logits[0].float().log_softmax(-1)[:-1]
    return spread.gather(1, tokens[0, 1:, None])[:, 0], spread.argmax(-1)


if __name__ == "__main__":
    sys.exit(main())
