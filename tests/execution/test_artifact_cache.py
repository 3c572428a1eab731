"""Laws of the compile cache: whole entries, no failures, locks of the dead are broken."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from inferplane.execution.artifact_cache import DiskCache


def write_folder(path: Path) -> None:
    path.mkdir()
    (path / "program").write_text("compiled")


def test_a_stored_folder_is_found_whole(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path / "acme" / "v1")
    assert cache.find("decode-t8-s8") is None
    stored = cache.store("decode-t8-s8", write_folder)
    assert cache.find("decode-t8-s8") == stored
    assert (stored / "program").read_text() == "compiled"


def test_a_failed_write_leaves_no_entry_and_no_lock(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path)

    def fail(path: Path) -> None:
        path.write_text("half")
        raise RuntimeError("compiler crashed")

    with pytest.raises(RuntimeError, match="compiler crashed"):
        cache.store("entry", fail)
    assert cache.find("entry") is None
    assert list(tmp_path.iterdir()) == []


def test_storing_again_replaces_a_damaged_entry(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path)
    cache.store("entry", write_folder)
    cache.store("entry", lambda path: path.mkdir() or (path / "program").write_text("again"))
    found = cache.find("entry")
    assert found is not None and (found / "program").read_text() == "again"
    assert [p.name for p in tmp_path.iterdir()] == ["entry"]


def dead_pid() -> int:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


BOOT = Path("/proc/sys/kernel/random/boot_id").read_text().strip()


@pytest.mark.parametrize(
    "owner",
    [
        lambda: json.dumps({"pid": dead_pid(), "boot": BOOT}),
        lambda: json.dumps({"pid": os.getpid(), "boot": "an earlier boot"}),
        lambda: "not json",
    ],
    ids=["dead process", "other boot", "damaged"],
)
def test_a_lock_without_a_living_owner_is_broken(tmp_path: Path, owner: object) -> None:
    assert callable(owner)
    (tmp_path / ".entry.lock").write_text(owner())
    stored = DiskCache(tmp_path).store("entry", lambda path: path.write_text("new") and None)
    assert stored.read_text() == "new"


WRITER = """
import sys, pathlib
from inferplane.execution.artifact_cache import DiskCache
def write(path):
    print("writing", flush=True)
    sys.stdin.readline()
    path.write_text("theirs")
DiskCache(pathlib.Path(sys.argv[1])).store("entry", write)
"""


def test_a_second_writer_waits_and_takes_what_the_first_one_wrote(tmp_path: Path) -> None:
    first = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert first.stdout and first.stdout.readline() == "writing\n"
    mine: list[Path] = []

    DiskCache(tmp_path, wait=lambda: first.communicate("\n") and None).store("entry", mine.append)

    assert first.returncode == 0
    assert (tmp_path / "entry").read_text() == "theirs" and mine == []
