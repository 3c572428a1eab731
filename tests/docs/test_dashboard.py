"""The Grafana dashboard is made from the table of metrics: each has a panel, none is unknown."""

import json
import re
from pathlib import Path

from inferplane.server.dashboard import dashboard
from inferplane.server.metric_names import METRICS

FILE = Path(__file__).parents[2] / "docs" / "dashboards" / "grafana.json"
ENDINGS = {"counter": "_total", "gauge": "", "histogram": "_bucket", "info": "_info"}


def test_the_file_is_what_the_table_says() -> None:
    assert json.loads(FILE.read_text(encoding="utf-8")) == dashboard(), "run scripts/dashboard"


def test_every_metric_has_one_panel_and_every_query_a_known_metric() -> None:
    panels = [panel for panel in dashboard()["panels"] if panel["type"] != "row"]
    assert sorted(panel["title"] for panel in panels) == sorted(METRICS)
    known = {f"inferplane_{row.name}{ENDINGS[row.type]}" for row in METRICS.values()}
    for panel in panels:
        for target in panel["targets"]:
            named = set(re.findall(r"inferplane_\w+", target["expr"]))
            assert named and named <= known, target["expr"]


def test_panels_do_not_lie_on_each_other() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in dashboard()["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        across = range(place["x"], place["x"] + place["w"])
        cells = {(x, y) for x in across for y in range(place["y"], place["y"] + place["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells
