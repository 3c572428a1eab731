"""Fetch a model from the Hugging Face hub into that library's own cache."""

from __future__ import annotations

from pathlib import Path
from threading import Lock
from typing import Any

from huggingface_hub import constants, errors, snapshot_download
from huggingface_hub.utils.tqdm import tqdm as hub_bar

from inferplane.errors import ModelError
from inferplane.model_wheel import Progress, check_disk_space

__all__ = ["fetch_hub_model"]

_WANTED = ("*.json", "*.safetensors", "*.jinja", "tokenizer.model")


def fetch_hub_model(name: str, *, offline: bool, progress: Progress | None) -> Path:
    """Folder of ORG/NAME[@REVISION], or the file of ORG/NAME/FILE.gguf[@REVISION].

    Weights are taken as safetensors only. Raises ModelError saying what to do.
    """
    name_and_file, _, revision = name.partition("@")
    owner, model, *rest = name_and_file.split("/")
    file = "/".join(rest)
    wanted: dict[str, Any] = {
        "repo_id": f"{owner}/{model}",
        "revision": revision or None,
        "allow_patterns": [file] if file else list(_WANTED),
    }
    try:
        folder = _fetch(name, wanted, offline, progress)
    except errors.GatedRepoError:
        raise ModelError(
            f"model {name!r} is gated: accept its licence on its page, then log in with "
            "'hf auth login' or set HF_TOKEN"
        ) from None
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError):
        raise ModelError(
            f"the hub has no model {name!r}, or it is private: check name and revision, or log in "
            "with 'hf auth login'"
        ) from None
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled):
        why = "--offline forbids fetching it" if offline else "the hub cannot be reached"
        raise ModelError(
            f"model {name!r} is not in the local cache and {why}: give the path of a model, a "
            "name of the catalogue such as smollm2-135m, or try again with a connection"
        ) from None
    except (errors.HfHubHTTPError, OSError) as error:
        raise ModelError(
            f"model {name!r}: the hub answered: {str(error).splitlines()[0]}"
        ) from None
    return _checked(name, folder, file)


def _fetch(name: str, wanted: dict[str, Any], offline: bool, progress: Progress | None) -> Path:
    if offline:
        return Path(snapshot_download(**wanted, local_files_only=True))
    try:
        planned = snapshot_download(**wanted, dry_run=True)
    except errors.DryRunError:  # no answer from the hub: the cache may still have all of it
        return Path(snapshot_download(**wanted, local_files_only=True))
    missing_bytes = sum(entry.file_size for entry in planned if entry.will_download)
    cache = Path(constants.HF_HUB_CACHE)
    cache.mkdir(parents=True, exist_ok=True)
    check_disk_space(name, cache, missing_bytes)
    return Path(snapshot_download(**wanted, tqdm_class=_reporting_bar(progress, missing_bytes)))


def _reporting_bar(progress: Progress | None, total: int) -> type[Any]:
    """A progress bar for the hub's client that draws nothing and tells `progress` instead."""
    lock, received = Lock(), [0]

    class Bar(hub_bar):
        def __init__(self, *args: object, **kwargs: Any) -> None:
            # the byte counter of what reaches the disk; the others count files and transfers
            self._counts = kwargs.get("name") == "huggingface_hub.snapshot_download"
            super().__init__(*args, **{**kwargs, "disable": True})  # type: ignore[no-untyped-call]

        def update(self, n: float | None = 1) -> None:
            if self._counts and progress is not None and n:
                with lock:
                    received[0] += int(n)
                    progress("download", min(received[0], total), total)

    return Bar


def _checked(name: str, folder: Path, file: str) -> Path:
    if file:
        if not (folder / file).is_file():
            raise ModelError(f"model {name!r}: the hub has no file {file!r} there")
        return folder / file
    if not (folder / "config.json").is_file() or not any(folder.glob("*.safetensors")):
        raise ModelError(
            f"model {name!r} has no config.json with safetensors weights; for a GGUF file give its "
            f"name too: {name.partition('@')[0]}/FILE.gguf"
        )
    return folder
