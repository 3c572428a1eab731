import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from inferplane.errors import ConfigError, DeviceUnavailableError, ModelError
from inferplane.interfaces import EngineConfig
from inferplane.launch import LaunchPlan, LaunchSettings
from inferplane.planner import make_plan, run_planner, run_survey

PLUGIN = """
from inferplane import Register, hookimpl
INTERFACE_VERSION = (1, 0)

@hookimpl
def register_platforms(register: Register) -> None:
    register("{name}", "{name}_platform:Device")
"""
PLATFORM = """
from inferplane.interfaces import Capabilities, Change, Platform, Probe, Topology

class Device(Platform):
    def probe(self, env):
        return Probe(True, "two cards", score={score}, device_count=2)

    def capabilities(self, probe, model):
        return Capabilities(options={"speed": "how fast"})

    def resolve(self, config, caps, model):
        return (Change("block_size", 32, "it likes that"),) if config.block_size != 32 else ()

    def topology(self, config, caps):
        return Topology(config.tensor_parallel)

    def worker_env(self, config, rank):
        return {"ACME_RANK": str(rank)}
"""

Make = Callable[..., None]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 1000,
        "max_position_embeddings": 512,
        "torch_dtype": "bfloat16",
        "rms_norm_eps": 1e-5,
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Write a plugin of two modules that a child process can import."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def write(name: str, plugin: str = PLUGIN, platform: str = PLATFORM, score: int = 50) -> None:
        (tmp_path / f"{name}.py").write_text(plugin.replace("{name}", name))
        (tmp_path / f"{name}_platform.py").write_text(platform.replace("{score}", str(score)))

    return write


def settings(model: Path, *plugins: str, **config: object) -> LaunchSettings:
    return LaunchSettings(EngineConfig(str(model), **config), plugins=plugins)  # type: ignore[arg-type]


def test_a_plan_holds_every_decision(make, model) -> None:
    make("fast")
    make("slow", score=10)
    plan = run_planner(settings(model, "fast", "slow", tensor_parallel=2, options={"speed": "9"}))
    assert (plan.device, plan.plugin, plan.probe.reason) == ("fast", "fast", "two cards")
    assert plan.config.device == "fast" and plan.config.block_size == 32
    assert plan.config.dtype == "float32" and plan.model.dtype == "bfloat16"
    assert plan.config.max_model_len == 512 and not plan.fit_context
    assert {change.key: change.reason for change in plan.changes} == {
        "dtype": "the device does not compute bfloat16",
        "max_model_len": "the model allows no more",
        "block_size": "it likes that",
    }
    assert plan.topology.processes == 2
    assert plan.worker_env == ({"ACME_RANK": "0"}, {"ACME_RANK": "1"})
    assert [report.name for report in plan.devices] == ["fast", "slow"]
    assert plan.catalogue()["models"].get("LlamaForCausalLM")
    assert plan.weight_bytes == 0


def test_a_plan_survives_the_wire_unchanged(make, model) -> None:
    make("fast")
    plan = run_planner(settings(model, "fast"))
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(plan), type=LaunchPlan) == plan


def test_the_context_left_to_us_is_the_model_s_own(make, model) -> None:
    make("fast")
    plan = run_planner(settings(model, "fast", max_model_len=0))
    assert plan.config.max_model_len == 512 and plan.fit_context


def test_planning_in_this_process_gives_the_same_plan(model) -> None:
    asked = settings(model, "inferplane.testing.null", device="null_sync")
    assert make_plan(asked) == run_planner(asked)


# ── which device ──


def test_equal_scores_stop_and_name_both(make, model) -> None:
    make("left")
    make("right")
    with pytest.raises(ConfigError, match="left and right are equally good") as tie:
        run_planner(settings(model, "left", "right"))
    assert tie.value.exit_code == 2
    assert run_planner(settings(model, "left", "right", device="right")).device == "right"


def test_no_usable_device_lists_every_reason(make, model) -> None:
    make("absent", platform=PLATFORM.replace('True, "two cards"', 'False, "no card found"'))
    make("broken", plugin="raise OSError('no library')")
    with pytest.raises(DeviceUnavailableError) as none:
        run_planner(settings(model, "absent", "broken"))
    assert "absent: no card found" in str(none.value)
    assert "broken: plugin failed to load: OSError: no library" in str(none.value)


@pytest.mark.case("silent-cpu")
def test_a_requested_device_that_is_absent_is_fatal_with_its_own_reason(make, model) -> None:
    make("absent", platform=PLATFORM.replace('True, "two cards"', 'False, "no card found"'))
    make("good", score=10)
    with pytest.raises(DeviceUnavailableError, match="device absent: no card found") as fatal:
        run_planner(settings(model, "absent", "good", device="absent"))
    assert fatal.value.exit_code == 3
    assert str(fatal.value).endswith("no card found; usable here: --device good")


@pytest.mark.case("silent-cpu")
@pytest.mark.parametrize(
    ("plugin", "reason"),
    [
        ("raise OSError('no library')", "OSError: no library"),
        ("import os; os._exit(7)", "ended with code 7 at: load plugin broken"),
    ],
    ids=["raises", "exits"],
)
def test_a_requested_device_whose_plugin_is_broken_is_fatal(make, model, plugin, reason) -> None:
    make("broken", plugin=plugin)
    make("good", score=10)
    with pytest.raises(DeviceUnavailableError, match=reason):
        run_planner(settings(model, "broken", "good", device="broken"))


def test_an_unknown_device_lists_the_known_ones(make, model) -> None:
    make("good")
    with pytest.raises(
        DeviceUnavailableError, match=r"no plugin offers device 'gold' \(known: good\)"
    ):
        run_planner(settings(model, "good", device="gold"))


# ── the zoo ──

ZOO = {
    "raises": "raise RuntimeError('broken')",
    "syntax": "def (",
    "leaves": "import sys; sys.exit(3)",
    "vanishes": "import os; os._exit(0)",
    "segfaults": "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)",
    "hangs": "import threading; threading.Event().wait()",
    "too_new": PLUGIN.replace("(1, 0)", "(1, 99)"),
    "misspelt": PLUGIN.replace("register_platforms", "register_platfrom"),
}
QUIRKS = {
    "prints": "print('{\"plan\": 1}' * 1000, flush=True)\n",
    "prints_bytes": "import os; os.write(1, b'\\xff' * 100_000)\n",
    "threads": "import threading\nthreading.Thread(target=threading.Event().wait).start()\n",
    "forks": "import subprocess; subprocess.Popen(['sleep', '600'])\n",
    "changes_cwd": "import os; os.chdir('/')\n",
    "closes_stdout": "import os; os.close(1); os.close(2)\n",
}


@pytest.mark.case("broken-plugin")
@pytest.mark.case("plugin-zoo")
@pytest.mark.parametrize("kind", ZOO)
def test_planning_survives_a_plugin_that_breaks_at_import(make, model, kind) -> None:
    make(kind, plugin=ZOO[kind])
    make("good")
    plan = run_planner(settings(model, kind, "good"))
    assert plan.device == "good" and list(plan.failed) == [kind]
    assert plan.failed[kind]


@pytest.mark.case("plugin-zoo")
@pytest.mark.parametrize("kind", QUIRKS)
def test_planning_survives_what_a_plugin_does_besides(make, model, kind) -> None:
    make(kind, plugin=QUIRKS[kind] + PLUGIN)
    plan = run_planner(settings(model, kind))
    assert plan.device == kind and not plan.failed


PROBES = {
    "raises": "raise RuntimeError('broken probe')",
    "leaves": "import sys; sys.exit(3)",
    "lies": "return 'yes'",
    "garbage": "return Probe('maybe', 42, score='high')",
}


@pytest.mark.case("plugin-zoo")
@pytest.mark.parametrize("kind", PROBES)
def test_a_probe_that_breaks_is_a_row_or_a_named_refusal(make, model, kind) -> None:
    body = PLATFORM.replace(
        'return Probe(True, "two cards", score={score}, device_count=2)', PROBES[kind]
    )
    make(kind, platform=body)
    make("good")
    asked = settings(model, kind, "good", device="good")
    if kind == "garbage":
        with pytest.raises(ConfigError, match="something else than asked"):
            run_planner(asked)
        return
    plan = run_planner(asked)
    broken = next(report for report in plan.devices if report.name == kind)
    assert broken.probe is None and broken.error
    with pytest.raises(DeviceUnavailableError, match=f"device {kind}: "):
        run_planner(replace(asked, config=replace(asked.config, device=kind)))


def test_a_probe_that_kills_the_child_costs_only_its_plugin(make, model) -> None:
    body = PLATFORM.replace("return Probe(", "import os; os._exit(1); return Probe(")
    make("killer", platform=body)
    make("good")
    plan = run_planner(settings(model, "killer", "good"))
    assert plan.device == "good"
    assert plan.failed == {"killer": "ended with code 1 at: probe device killer"}


def test_plugins_left_out_are_never_imported(make, model, tmp_path) -> None:
    marker = tmp_path / "imported"
    make("good")
    make("unwanted", plugin=f"open({str(marker)!r}, 'w')")
    asked = replace(settings(model, "good", "unwanted"), without=("unwanted",))
    assert run_planner(asked).device == "good"
    assert not marker.exists()


# ── settings ──


def test_an_unknown_option_is_refused_with_the_known_ones(make, model) -> None:
    make("good")
    with pytest.raises(ConfigError, match=r"no option 'sped' \(known: speed\)"):
        run_planner(settings(model, "good", options={"sped": "1"}))


def test_a_dtype_the_device_lacks_is_refused(make, model) -> None:
    make("good")
    with pytest.raises(ConfigError, match="no dtype 'float16'"):
        run_planner(settings(model, "good", dtype="float16"))


def test_more_devices_than_there_are_is_refused(make, model) -> None:
    make("good")
    with pytest.raises(DeviceUnavailableError, match="4 needed, 2 found"):
        run_planner(settings(model, "good", tensor_parallel=4))


@pytest.mark.parametrize("method", ["capabilities", "resolve", "topology", "worker_env"])
def test_an_exception_of_a_plugin_names_it_and_the_method(make, model, method) -> None:
    lines = PLATFORM.splitlines()
    at = next(i for i, line in enumerate(lines) if f"def {method}(" in line)
    lines.insert(at + 1, "        raise ValueError('oops')")
    make("good", platform="\n".join(lines))
    with pytest.raises(ConfigError, match=f"plugin good: {method} of device good failed: .*oops"):
        run_planner(settings(model, "good"))


def test_a_change_of_no_setting_is_refused(make, model) -> None:
    make("good", platform=PLATFORM.replace('"block_size"', '"block_sise"'))
    with pytest.raises(ConfigError, match="plugin good changes 'block_sise'"):
        run_planner(settings(model, "good"))


def test_a_missing_model_keeps_its_own_error(make, tmp_path) -> None:
    make("good")
    with pytest.raises(ModelError, match="nowhere"):
        run_planner(settings(tmp_path / "nowhere", "good"))


# ── the survey ──


def test_a_survey_shows_working_and_broken_plugins_alike(make) -> None:
    make("good")
    make("raises", plugin=ZOO["raises"])
    make("vanishes", plugin=ZOO["vanishes"])
    seen = run_survey(("good", "raises", "vanishes"))
    assert [plugin.name for plugin in seen.plugins] == ["good", "raises", "vanishes"]
    assert set(seen.failed) == {"raises", "vanishes"}
    assert [report.name for report in seen.devices] == ["good"]
    assert seen.capabilities["good"].options == {"speed": "how fast"}


def test_every_first_party_plugin_answers_the_survey() -> None:
    seen = run_survey()
    assert {"cpu", "cuda", "gaudi", "neuron", "rocm", "tpu", "triton"} <= {
        plugin.name for plugin in seen.plugins
    }
    assert not seen.failed
    assert all(report.probe is not None and report.probe.reason for report in seen.devices)


def test_a_trace_of_plugins_goes_to_the_error_output(capsys) -> None:
    run_survey(("inferplane.testing.null",), trace=True)
    told = capsys.readouterr().err.splitlines()
    assert any(line.startswith("plugins: null: probe -> Probe(ok=True") for line in told)
    assert any(line.startswith("plugins: null: capabilities -> Capabilities(") for line in told)
    run_survey(("inferplane.testing.null",))
    assert capsys.readouterr().err == ""
