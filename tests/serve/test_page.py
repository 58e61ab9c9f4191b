"""The live page: safe headers, names escaped, and in a browser it shows what the server does."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from jouleflow.load.run import Load, run_load
from jouleflow.runtime.meter import TICKS_PER_S, CpuTimeMeter, RaplMeter, machine_busy_core_s, open_meter
from jouleflow.serve.page import standalone
from tests.runtime.models import affine
from tests.serve.conftest import serving

BROWSER = next((p for n in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(n))), None)


def test_headers_and_data(tmp_path: Path) -> None:
    affine(tmp_path / "double.onnx")
    with serving(tmp_path) as server:
        for path in ("/", "/live.css", "/live.js"):
            status, headers, _ = server.ask("GET", path)
            assert status == 200
            assert "default-src 'none'" in headers["content-security-policy"]
            assert headers["x-content-type-options"] == "nosniff"
        run_load(Load(f"http://127.0.0.1:{server.port}", "double", None, 2, 0.2))
        server.inside(server.app.history.sample)
        live = json.loads(server.ask("GET", "/live.json")[2])
        sample = live["samples"][-1]["models"]["double"]
        assert sample["completed"] > 0
        assert 0 < sample["p50_s"] <= sample["p99_s"]
        assert live["samples"][-1]["power_w"] >= 0
        assert live["meter"]["provenance"] in ("measured", "modelled")
        assert server.ask("POST", "/")[0] == 405


def test_a_saved_page_escapes_names() -> None:
    live = {"models": {}, "samples": [], "problems": {"</script><b>x": "<i>"}, "meter": {}, "policy": "", "n_cores": 1}
    page = standalone(live)
    assert "</script><b>x" not in page
    assert 'src="' not in page


needs_browser = pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine: apt-get install chromium")


def browse(profile: Path, url: str, *options: str) -> str:
    """What the browser prints about a page, once it has drawn itself. profile: its folder."""
    assert BROWSER is not None
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}", "--virtual-time-budget=3000", *options, url]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


@needs_browser
def test_in_a_browser(tmp_path: Path) -> None:
    affine(tmp_path / "models" / "double.onnx")
    with serving(tmp_path / "models") as server:
        run_load(Load(f"http://127.0.0.1:{server.port}", "double", None, 2, 0.2))
        server.inside(server.app.history.sample)
        dom = browse(tmp_path / "profile", f"http://127.0.0.1:{server.port}/", "--dump-dom")
        for text in (
            "double",
            "answers a second",
            "version 1",
            "ready",
            "no SLO",
            "modelled" if "modelled" in dom else "measured",
        ):
            assert text in dom
        assert dom.count("<path") >= 5
        assert re.search(r'aria-label="answers a second, scale from 0 to [0-9,.]+k?/s"', dom)
        assert 'style="' not in dom


@needs_browser
def test_charts_have_a_scale_with_its_unit(tmp_path: Path) -> None:
    affine(tmp_path / "models" / "double" / "model.onnx")
    (tmp_path / "models" / "double" / "jouleflow.toml").write_text("slo_ms = 50\n")
    with serving(tmp_path / "models") as server:
        server.inside(server.app.history.sample)
        live = json.loads(server.ask("GET", "/live.json")[2])
    first = live["samples"][-1]
    of_model = first["models"]["double"] | {
        "completed": 1130,
        "p50_s": 0.003,
        "p99_s": 0.004,
        "batch": 7,
        "rejected": 0,
    }
    live["samples"] = [
        {**first, "power_w": power_w, "j_per_request": 19e-6, "models": {"double": {**of_model, "waiting": n_waiting}}}
        for power_w, n_waiting in ((1.0, 30_000), (7.3, 0))
    ]
    moment = tmp_path / "moment.html"
    moment.write_text(standalone(live))
    dom = browse(tmp_path / "profile", moment.as_uri(), "--dump-dom")
    charts = re.findall(r'<div class="scale" aria-hidden="true">(.*?)</div><svg[^>]* aria-label="(.*?)"', dom)
    told = {name: re.findall("<span>(.*?)</span>", labels) for labels, name in charts}
    assert {name.partition(", ")[0]: labels for name, labels in told.items()} == {
        "power": ["8 W", "4 W", "0"],
        "energy a request": ["20 µJ", "10 µJ", "0"],
        "answers a second": ["1,200/s", "600/s", "0"],
        "latency": ["50 ms", "25 ms", "0"],  # as far as the SLO
        "waiting requests": ["30k", "15k", "0"],
        "rows a batch": ["8", "4", "0"],
        "refused a second": ["", "", "0"],
        "power for nothing": ["", "", "0"],
    }
    assert "latency, p50 and p99, scale from 0 to 50 ms" in told


@needs_browser
def test_both_colour_schemes_are_drawn(tmp_path: Path) -> None:
    affine(tmp_path / "models" / "double.onnx")
    with serving(tmp_path / "models") as server:
        run_load(Load(f"http://127.0.0.1:{server.port}", "double", None, 2, 0.2))
        server.inside(server.app.history.sample)
        moment = tmp_path / "moment.html"  # of one moment, so that nothing but the scheme can differ
        moment.write_text(standalone(json.loads(server.ask("GET", "/live.json")[2])))
    pictures = []
    for name, scheme in (("dark", 0), ("light", 1), ("light again", 1)):
        picture = tmp_path / f"{name}.png"
        browse(tmp_path / "profile", moment.as_uri(), f"--blink-settings=preferredColorScheme={scheme}", f"--screenshot={picture}")  # fmt: skip
        pictures.append(picture.read_bytes())
    dark, light, again = pictures
    assert dark.startswith(b"\x89PNG")
    assert light.startswith(b"\x89PNG")
    assert light == again
    assert dark != light


def test_cpu_time_is_a_model_and_says_so(tmp_path: Path) -> None:
    import os

    meter = CpuTimeMeter(lambda: [os.getpid(), 999_999_999], core_w=2.0)
    first = meter.read_j()
    busy = sum(i * i for i in range(2_000_000))
    assert busy
    assert meter.read_j() - first > 0
    assert open_meter(lambda: [], root=tmp_path / "none").provenance == "modelled"


def test_rapl_counts_past_its_end(tmp_path: Path) -> None:
    zone = tmp_path / "intel-rapl:0"
    zone.mkdir()
    (zone / "max_energy_range_uj").write_text("999999\n")
    (zone / "energy_uj").write_text("900000\n")
    busy_core_s = iter((10.0, 10.05, 10.05))
    meter = RaplMeter([zone], lambda: next(busy_core_s))
    assert meter.provenance == "measured"
    (zone / "energy_uj").write_text("100000\n")
    assert meter.read_j() == pytest.approx(0.2)
    assert meter.core_w == pytest.approx(4.0)
    meter.read_j()
    assert meter.core_w == pytest.approx(4.0)  # nothing was busy: what was known stays


def test_what_is_in_a_package_or_around_it_is_not_counted_again(tmp_path: Path) -> None:
    """Of a laptop whose psys is a zone beside its package, and of a machine with two dies."""
    for zone, name in (
        ("0", "package-0"),
        ("0:0", "core"),
        ("0:1", "dram"),
        ("1", "psys"),
        ("10", "package-1-die-0"),
        ("2", ""),
    ):
        place = tmp_path / f"intel-rapl:{zone}"
        place.mkdir()
        (place / "max_energy_range_uj").write_text("999999\n")
        (place / "energy_uj").write_text("0\n")
        if name:
            (place / "name").write_text(f"{name}\n")
    meter = open_meter(lambda: [], root=tmp_path)
    assert isinstance(meter, RaplMeter)
    assert [z.name for z in meter.zones] == ["intel-rapl:0", "intel-rapl:10"]
    for zone in tmp_path.iterdir():
        (zone / "energy_uj").write_text("100000\n")
    assert meter.read_j() == pytest.approx(0.2)
    for name in ("0", "10"):
        (tmp_path / f"intel-rapl:{name}" / "name").write_text("psys\n")
    assert open_meter(lambda: [], root=tmp_path).provenance == "modelled"


def test_busy_core_seconds_leave_idle_and_waiting_out(tmp_path: Path) -> None:
    (tmp_path / "stat").write_text("cpu  100 20 30 4000 500 6 7 8 9 0\ncpu0 1 2 3 4\n")
    assert machine_busy_core_s(tmp_path / "stat") == (100 + 20 + 30 + 6 + 7 + 8) / TICKS_PER_S
    assert machine_busy_core_s() > 0
