import json
from dataclasses import replace
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path

import numpy as np
from rich.console import Console

from jouleflow.record.run import no_events
from jouleflow.report.figures import MAX_BARS, voltage_figure
from jouleflow.report.page import write_page
from jouleflow.report.summary import summary
from jouleflow.report.text import print_run
from tests.report.sample_run import sample_run

HOSTILE = '</script><script>alert(1)</script><img src=x onerror="x">'


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loads += [value or "" for name, value in attrs if name in ("src", "href")]


def test_page_loads_nothing(tmp_path: Path) -> None:
    text = write_page(sample_run(), tmp_path / "page.html").read_text()
    tags = Tags()
    tags.feed(text)
    assert tags.loads == []
    assert "Content-Security-Policy" in text
    assert "synthetic" in text


def test_hostile_names_are_inert(tmp_path: Path) -> None:
    run = replace(sample_run(names=(HOSTILE,)), model=HOSTILE, harvest=HOSTILE, answers=(HOSTILE,))
    text = write_page(run, tmp_path / "page.html").read_text()
    tags = Tags()
    tags.feed(text)
    assert "img" not in tags.tags
    assert "<script>alert" not in text
    for part in text.split('type="application/json"')[1:]:
        json.loads(part[part.index(">") + 1 : part.index("</script>")])


def test_extremes(tmp_path: Path) -> None:
    nothing = replace(
        sample_run(),
        events=no_events(),
        voltage_time_s=np.zeros(0),
        voltage_v=np.zeros(0),
        layers=(),
        latency_s=(),
        n_inferences=0,
        complete=False,
    )
    assert "partial result" in write_page(nothing, tmp_path / "a.html").read_text()
    large = sample_run(n_tiles=2500, n_charges=40)
    assert len(large.events) > 100_000
    page = write_page(large, tmp_path / "b.html")
    assert page.stat().st_size < 12 << 20
    bars = [t for t in voltage_figure(large).data if t.type == "bar"]
    assert sum(len(t.x) for t in bars) <= MAX_BARS


def test_summary_is_json_and_complete() -> None:
    found = json.loads(json.dumps(summary(sample_run())))
    for key in (
        "planner",
        "n_inferences",
        "outputs_match_reference",
        "n_power_failures",
        "peak_sram_bytes",
        "nvm_bytes",
        "flash_bytes",
        "instructions",
        "cycles",
    ):
        assert key in found
    assert set(found["latency_s"]) == {"p50", "p99", "max"}
    assert found["deadline_misses"] == sum(t > 10 for t in sample_run().latency_s)
    assert {"latency_s", "energy_j"} <= set(found["predicted"])
    assert found["energy_imbalance_frac"] < 1e-9


def test_terminal_report_shows_names_as_they_are() -> None:
    out = StringIO()
    print_run(replace(sample_run(), model="[red]evil[/]"), Console(file=out, width=120))
    assert "[red]evil[/]" in out.getvalue()
