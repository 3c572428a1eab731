"""GET /metrics: every row of the table, no more, and figures that move."""

import re

from inferplane.server.metric_names import METRICS


def samples(http):
    found = {}
    for line in http.get("/metrics").text.splitlines():
        if not line.startswith("#"):
            name, _, value = line.rpartition(" ")
            found[name] = float(value)
    return found


def of(found, name):
    return sum(v for key, v in found.items() if key.split("{")[0] == name)


def test_every_exported_metric_is_in_the_table(http):
    http.post("/v1/completions", json={"prompt": "a", "max_tokens": 1})
    kinds = {"counter": "_total", "histogram": "", "gauge": "", "info": "_info"}
    known = {"inferplane_" + m.name + kinds[m.type]: m for m in METRICS.values()}
    text = http.get("/metrics").text
    types = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE))
    exported = {name for name in types if not name.endswith("_created")}
    assert exported <= set(known)
    always = {n for n, m in known.items() if not m.labels or m.type == "info"}
    assert always - exported == set()
    for name in exported:
        want = known[name].type
        assert types[name] == ("gauge" if want == "info" else want), name


def test_names_have_no_colon_and_every_series_its_model_and_engine(http):
    for key in samples(http):
        assert ":" not in key.split("{")[0]
        assert 'model="tiny"' in key and 'engine="0"' in key


def test_a_request_moves_its_counters(http):
    before = samples(http)
    body = {"prompt": [41] * 64, "max_tokens": 5, "ignore_eos": True}
    for _ in range(2):
        http.post("/v1/completions", json=body)
    after = samples(http)

    def moved(name):
        return of(after, name) - of(before, name)

    assert moved("inferplane_generation_tokens_total") == 10
    assert moved("inferplane_prompt_tokens_total") == 128
    assert moved("inferplane_prompt_tokens_cached_total") >= 32
    assert moved("inferplane_requests_finished_total") == 2
    assert moved("inferplane_time_to_first_token_seconds_count") == 2
    assert moved("inferplane_request_generation_tokens_sum") == 10
    assert moved("inferplane_steps_total") >= 10
    assert of(after, "inferplane_ready") == 1
    assert of(after, "inferplane_kv_cache_usage_ratio") == 0


def test_route_labels_are_templates_and_no_text_of_a_client(http):
    http.get("/v1/models/tiny")
    http.get("/some/secret/path")
    routes = {m for key in samples(http) for m in re.findall(r'route="([^"]*)"', key)}
    assert "/v1/models/{id}" in routes and "unmatched" in routes
    assert not any("secret" in route for route in routes)


def test_notices_are_counted_by_code(http):
    before = of(samples(http), "inferplane_warnings_total")
    http.post("/v1/completions", json={"prompt": "a", "max_tokens": 1, "zzz": 1})
    assert of(samples(http), "inferplane_warnings_total") == before + 1


def test_aliases_tell_the_same_figures_under_the_other_names(start):
    server = start(metrics_alias="vllm")
    server.wait_ready()
    with server.client() as client:
        client.get("/v1/absent")
        asked = {"prompt": "a", "max_tokens": 1, "ignore_eos": True}
        client.post("/v1/completions", json=asked).raise_for_status()
        found = samples(client)
    endings = {"counter": "_total", "histogram": "_count", "gauge": "", "info": "_info"}
    for row in METRICS.values():
        ours = f"inferplane_{row.name}{endings[row.type]}"
        if not row.alias or not of(found, ours):
            continue
        prefix = "" if row.alias.startswith("http_") else "vllm:"
        theirs = prefix + row.alias + ("_count" if row.type == "histogram" else "")
        assert of(found, theirs) == of(found, ours), row.name
    names = {key.split("{")[0] for key in found}
    assert {"vllm:num_requests_running", "vllm:kv_cache_usage_perc"} <= names
    assert 'finished_reason="length"' in " ".join(k for k in found if "request_success" in k)
    running = next(key for key in found if key.startswith("vllm:num_requests_running"))
    assert 'model_name="tiny"' in running and 'model="' not in running.replace("model_name", "")
    statuses = {key for key in found if key.startswith("http_requests_total")}
    assert any('status="4xx"' in key for key in statuses)
    assert all('handler="' in key and "engine" not in key for key in statuses)
