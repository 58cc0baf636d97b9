"""Pages about runs, from run directories written by hand."""

import base64
import csv
import html as entities
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import imageio.v3 as imageio
import numpy as np
import pytest
import yaml
from markdown_it import MarkdownIt
from matplotlib.figure import Figure

from reverie.mistake import Mistake
from reverie.training.report import __main__ as command
from reverie.training.report.__main__ import report
from reverie.training.report.figures import Painter
from reverie.training.report.groups import Run, find, group_runs, read
from reverie.training.report.page import Section, Table, as_html, as_markdown
from reverie.training.report.tables import cell
from tests.browser import brightness, look, needs_browser
from tests.keyboard import browser
from tests.training.report.conftest import EVIL, MODEL, Checked


def tables(text):
    """{first cell of the row: its other cells} of all tables of a page, the first row's if many."""
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")]
    return {row[0]: row[1:] for row in reversed(rows)}


def test_the_table_says_what_metrics_csv_says(tmp_path, write):
    places = [write(seed=seed, level=level) for seed, level in enumerate([10.0, 20.0, 60.0])]
    html, markdown, *_ = report([tmp_path / "runs"], tmp_path / "out")
    last, final, best = [], [], []
    for place in places:
        with open(place / "metrics.csv") as file:
            scores = [float(r["value"]) for r in csv.DictReader(file) if r["metric"] == "score"]
        last.append(np.mean(scores[-10:]))
        final.append(scores[-1])
        best.append(max(scores))
    seeds, *found = tables(markdown.read_text())["mopo"]  # of the first table
    assert seeds == "3"
    assert [text.split(" [")[0] for text in found] == [
        f"{np.mean(v):.1f}" for v in (last, final, best)
    ]
    low, high = map(float, found[0].split("[")[1].rstrip("]").split(", "))
    # The smallest and largest means of three draws have a chance of 1/27 each, more than 2.5 %.
    assert (low, high) == (min(last), max(last))
    assert "7.5" in tables(markdown.read_text())["data: mean, best episode"]
    page = Checked(html.read_text())
    assert page.open == [] and found[0] in page.text


def test_a_log_without_an_environment_is_not_scored_in_none(tmp_path, write):
    place = write()
    summary = json.loads((place / "summary.json").read_text()) | {"environment": None}
    (place / "summary.json").write_text(json.dumps(summary))
    _, markdown, *_ = report([tmp_path / "runs"], tmp_path / "out")
    assert "no environment is named" in markdown.read_text()
    assert " in None" not in markdown.read_text()


def test_one_seed_never_looks_like_a_mean(tmp_path, write):
    write()
    html, markdown, *_ = report([tmp_path / "runs"], tmp_path / "out")
    assert tables(markdown.read_text())["mopo"][:2] == ["1", "51.0 (one seed)"]
    first = html.read_text()
    report([tmp_path / "runs"], tmp_path / "out")
    assert html.read_text() == first  # a page says nothing of when it was written
    assert cell([]) == "-"
    assert cell([1.0, float("nan")]) == "not finite in 1 of 2 seeds"


def test_seeds_of_a_run_count_and_variants_are_told_apart(tmp_path, write):
    write(seeds=4, level=40.0, penalty=0.5)
    write(seed=1, seeds=4, level=60.0, penalty=0.5)
    write(seeds=2, level=90.0, penalty=2.0)
    write(name="td3_bc", seeds=2, level=10.0, order=["critic"], _partial_=True)
    _, markdown, *_ = report([tmp_path / "runs"], tmp_path / "out")
    text = markdown.read_text()
    assert "# 4 runs on 1 task" in text
    found = tables(text)
    assert "| mopo, penalty=0.5 | 8 | 66.0 [" in text
    assert found["penalty"] == ["0.5", "2.0", "-"]
    assert "\nOnly td3_bc has: order=[critic].\n" in text
    # Of the row over the column: mopo with 0.5, with 2.0, td3_bc.
    better = [row for row in text.splitlines() if row.startswith("| mopo, penalty=2.0 |")][-1]
    assert better.split(" | ")[2:4] == ["-", "1.00 [1.00, 1.00] |"]
    assert "| mopo, penalty=0.5 on toy | 4 | 20 | 24 | 2 | 4 | some CPU |" in text  # by stage


def test_seeds_of_a_population_are_experiments_of_their_own(tmp_path, write):
    for seed in (0, 1):
        place = write(seed=seed, seeds=4, level=20.0 * seed, penalty=[0.5, 0.5, 2.0, 5.0])
        summary = json.loads((place / "summary.json").read_text())
        summary["population"] = {"penalty": [0.5, 0.5, 2.0, 5.0]}
        (place / "summary.json").write_text(json.dumps(summary))
        model = {**MODEL, "one_step": {"rmse_median": [0.1, 0.2, 0.3, 0.4]}}
        (place / "world_model.json").write_text(json.dumps(model))
        (place / "evaluation.json").write_text(
            json.dumps({"scores": [[replica] for replica in range(4)]})
        )
    _, markdown, *_ = report([tmp_path / "runs"], tmp_path / "out")
    text = markdown.read_text()
    assert "# 2 runs on 1 task" in text
    # Means of seeds 0, 1 (levels 0 and 10) and of seed 3 (level 30), each of both runs.
    assert "| mopo, penalty=0.5 | 4 | 16.0 [" in text and "| mopo, penalty=5.0 | 2 | 41.0 [" in text
    assert "| mopo, penalty=5.0 on toy | 0.400 [0.400, 0.400] |" in text
    assert "| mopo, penalty=2.0 on toy | 4 | 20 | 24 | 2 | 4 | some CPU |" in text
    assert tables(text)["penalty"] == ["0.5", "2.0", "5.0"]


def test_seeds_of_a_shared_model_are_no_repetitions(tmp_path, write):
    place = write(seeds=3, world_model={"per_seed": False})
    model = {**MODEL, "one_step": {"rmse_median": [0.2] * 3}}
    (place / "world_model.json").write_text(json.dumps(model))
    _, markdown, *_ = report([tmp_path / "runs"], tmp_path / "out")
    assert "| mopo on toy | 0.200 (one seed) |" in markdown.read_text()


def test_a_collection_of_data_is_no_run(tmp_path, write):
    write()
    place = write(name="collect")
    (place / "summary.json").write_text('{"datasets": {}, "seed": 0}')
    _, markdown, *_ = report([tmp_path / "runs"], tmp_path / "out")
    assert "# 1 run on 1 task" in markdown.read_text()


def test_tasks_are_not_mixed(tmp_path, write):
    for task in ("a", "b"):
        for seed in (0, 1):
            write(task=task, seed=seed)
            if task == "a":
                write(name="sac", task=task, seed=seed)
    write(task="a", seed=7, fingerprint="other")
    _, markdown, *_ = report([tmp_path / "runs"], tmp_path / "out")
    text = markdown.read_text()
    assert "# 7 runs on 3 tasks" in text
    assert "**a (f): normalised score" in text and "**a (other): normalised score" in text
    assert "Aggregates cover the tasks on which every method has a score: a (f)." in text


def test_a_method_tuned_for_each_task_is_one_method(tmp_path, write):
    for task, penalty in (("a", 0.5), ("b", 2.0)):
        write(task=task, penalty=penalty, init=None)
        write(name="sac", task=task, penalty=0.0, init="there")
    _, markdown, *_ = report([tmp_path / "runs"], tmp_path / "out")
    text = markdown.read_text()
    assert "over 2 tasks" in text
    assert "mopo has settings of its own on each task, listed below: penalty." in text
    assert "sac has settings" not in text
    assert "| penalty | 0.5 on a; 2.0 on b | 0.0 |" in text
    assert "| init | null | there |" in text


def test_the_same_seed_twice_and_unfinished_runs_are_left_out_aloud(tmp_path, write):
    write()
    write(level=80.0)
    write(seed=1, level=30.0).joinpath("summary.json").unlink()
    _, markdown, *_ = report([tmp_path / "runs", tmp_path / "runs" / "mopo"], tmp_path / "out")
    text = markdown.read_text()
    assert "with the same seed and is left out" in text
    assert "1-30.0 is not finished and is left out" in text
    assert "# 1 run on 1 task" in text


def test_a_run_of_an_earlier_version_is_left_out_aloud(tmp_path, write):
    write()
    old = write(seed=1) / "summary.json"
    summary = json.loads(old.read_text())
    del summary["format"]
    old.write_text(json.dumps(summary))
    _, markdown, *_ = report([tmp_path / "runs"], tmp_path / "out")
    text = markdown.read_text()
    assert f"{old.parent} was written by another version of Reverie and is left out" in text
    assert "# 1 run on 1 task" in text
    with pytest.raises(ValueError, match=r"by another version of Reverie.*in another folder"):
        report([old.parent], tmp_path / "out")


def test_everything_a_run_may_hold_is_shown_and_the_page_needs_no_other_file(tmp_path, write):
    for seed in (0, 1):
        place = write(name="a<b>&", seed=seed, seeds=1, level=20.0 + seed)
        (place / "world_model.json").write_text(json.dumps(MODEL))
        (place / "evaluation.json").write_text(json.dumps({"scores": [[30.0 * seed] * 4]}))
        (place / "video-seed0.mp4").touch()
        (place / ".video-seed1-123.mp4").touch()
        with open(place / "metrics.csv", "a") as file:
            file.writelines(f"{u},0,start/return,{20.0 + seed}\n" for u in (10, 20, 30))
    (place / "imagined-seed0.mp4").write_bytes(b"a video")
    (place / "dreams.png").write_bytes(b"dreams")
    html, markdown, *_ = report([tmp_path / "runs"], tmp_path / "out")
    page = Checked(html.read_text())
    assert page.open == []
    *pictures, video = page.sources
    pictures.remove("data:image/png;base64," + base64.b64encode(b"dreams").decode())
    assert len(pictures) == 6 and all(s.startswith("data:image/svg") for s in pictures)
    assert video == "data:video/mp4;base64," + base64.b64encode(b"a video").decode()
    assert "imagined-seed0.mp4>)" in markdown.read_text()
    found = [
        (html.parent / unquote(link)).resolve().is_file() for link in page.links if link[0] != "#"
    ]
    assert found == [True, True]
    rows = [
        line
        for line in markdown.read_text().splitlines()
        if line.startswith("| a&lt;b>&amp; on toy")
    ]
    # Values are three times the scores 22 and 23; the return of the starts is 20 and 21.
    values, models = rows[0].strip("| ").split(" | "), rows[1].strip("| ").split(" | ")
    assert values[1:3] == ["30", "67.50 [66.00, 69.00]"] and values[4] == "47.00 [46.00, 48.00]"
    assert models[1] == "0.200 [0.200, 0.200]" and models[6] == "not finite in 2 of 2 seeds"
    # Two policies with four episodes each; one of them scores 0, the other 30.
    assert "| a&lt;b>&amp; | 2 | 4 | " in markdown.read_text()
    assert "| 30.0 [30.0, 30.0] |" in markdown.read_text()


def test_a_single_evaluation_is_drawn_as_a_point_with_its_interval(tmp_path, write):
    places = [write(seed=seed, level=20.0 + seed) for seed in (0, 1)]
    for place in places:
        lines = (place / "metrics.csv").read_text().splitlines()
        once = [line for line in lines if line.startswith(("update", "30,"))]
        (place / "metrics.csv").write_text("\n".join(once) + "\n")
    (group,), _ = group_runs([read(place) for place in places])
    axes = Figure().add_subplot()
    Painter([group.method])._curve(axes, group, "score", "curve")
    (point,), (whisker,) = axes.lines, axes.collections
    assert point.get_marker() == "o" and point.get_xydata().tolist() == [[30, 22.5]]
    assert whisker.get_segments()[0].tolist() == [[30, 22], [30, 23]]


def test_runs_that_nobody_scored_have_a_report_too(tmp_path, write):
    place = write()
    summary = json.loads((place / "summary.json").read_text())
    (place / "summary.json").write_text(json.dumps({**summary, "result": {}}))
    (place / "metrics.csv").write_text("update,seed,metric,value\n")
    _, markdown, *_ = report([place], tmp_path / "out")
    assert tables(markdown.read_text())["mopo"] == ["1", "-", "-", "-"]
    assert "toy, where nothing has a normalised score" in markdown.read_text()


def test_curves_keep_the_updates_that_all_seeds_have(tmp_path, write):
    places = [write(seed=0), write(seed=1, level=70.0)]
    with open(places[1] / "metrics.csv", "a") as file:
        file.write("40,0,score,1.0\n")
    (group,), _ = group_runs([read(place) for place in places])
    updates, seeds = group.curves("score")
    assert updates.tolist() == [10, 20, 30] and seeds.tolist() == [[50, 51, 52], [70, 71, 72]]


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda place: (place / "summary.json").unlink(), "no finished run in"),
        (lambda place: (place / "summary.json").write_text("{"), "summary.json is damaged"),
        (lambda place: (place / "summary.json").write_text("[]"), "summary.json is damaged"),
        (lambda place: (place / "summary.json").write_text('{"a": 1}'), "by another program"),
        (lambda place: (place / "metrics.csv").write_text("a,b\n1,2\n"), "cannot be read"),
        (lambda place: (place / "config.yaml").unlink(), "cannot be read"),
        (lambda place: (place / "world_model.json").write_text("{"), "world_model.json is damaged"),
    ],
)
def test_mistakes_end_with_one_line(tmp_path, write, monkeypatch, capsys, break_it, message):
    break_it(write())
    monkeypatch.setattr(sys, "argv", ["report", str(tmp_path / "runs"), "--output", str(tmp_path)])
    with pytest.raises(SystemExit) as ended, command.mistakes.one_line_errors():
        command.main()
    printed = capsys.readouterr().err
    assert ended.value.code == 1 and printed.count("\n") == 1
    assert printed.startswith("error: ") and message in printed


def test_an_empty_output_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["report", str(tmp_path), "--output", ""])
    with pytest.raises(Mistake, match="--output= is empty"):
        command.main()


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(Mistake, match="nowhere is no folder"):
        find([tmp_path / "nowhere"])


def test_intervals_keep_to_a_line_and_long_names_may_be_broken():
    rows = [["mopo", "-1.5 [-2, -1], not converged"], ["a.b", "reverie.world_models.<filters>"]]
    page = as_html("t", [Section("s", [Table(["", "x"], rows)])])
    assert "<td>-1.5 <span>[-2, -1],</span> not converged</td>" in page
    assert "<td>reverie.<wbr>world_<wbr>models.<wbr>&lt;filters&gt;</td>" in page
    assert "<td>a.b</td>" in page


def test_cells_cannot_break_a_markdown_table():
    text = as_markdown("t", [Section("s", [Table(["a"], [["x | y\nz"]])])])
    assert text.endswith("| x \\| y z |\n")


BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
PROBE = """<pre id="probe"></pre><script>
addEventListener("load", () => setTimeout(() => {
  const all = (what) => [...document.querySelectorAll(what)];
  document.getElementById("probe").textContent = JSON.stringify({
    pictures: all("img").map((each) => each.naturalWidth),
    videos: all("video").map((each) => [each.videoWidth, each.error && each.error.message]),
    headings: all("h2").map((each) => each.textContent),
    rows: all("tbody tr").length,
    overflow: document.documentElement.scrollWidth - innerWidth,
  });
}, 300));
</script></body>"""


def browse(page, *options):
    done = subprocess.run(
        [
            BROWSER,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-background-networking",
            "--disable-component-update",
            "--no-first-run",
            "--virtual-time-budget=5000",
            f"--user-data-dir={page.parent / 'profile'}",
            "--window-size=1300,3000",
            *options,
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return done.stdout


@pytest.mark.skipif(not BROWSER, reason="no Chromium is installed")
@pytest.mark.slow
def test_a_browser_shows_every_picture_table_and_video(tmp_path, write):
    for name in ("mopo", "a<b>&"):
        for seed in (0, 1):
            place = write(name=name, seed=seed, seeds=2, level=20.0 + seed)
            (place / "world_model.json").write_text(json.dumps(MODEL))
            (place / "evaluation.json").write_text(json.dumps({"scores": [[3.0, 4.0]] * 2}))
    frames = np.random.default_rng(0).integers(0, 255, (6, 64, 128, 3), dtype=np.uint8)
    imageio.imwrite(place / "imagined-seed0.mp4", frames, plugin="pyav", codec="libx264", fps=10)
    page, *_ = report([tmp_path / "runs"], tmp_path / "out")

    probed = tmp_path / "probed.html"
    probed.write_text(page.read_text().replace("</body>", PROBE))
    seen = json.loads(
        entities.unescape(re.search(r'id="probe">(.*?)</pre>', browse(probed, "--dump-dom"))[1])
    )
    assert len(seen["pictures"]) == 6 and min(seen["pictures"]) > 100
    assert seen["videos"] == [[128, None]]
    assert seen["overflow"] <= 0, "the page is wider than the window"
    assert seen["rows"] > 10 and "Videos" in seen["headings"]

    picture = tmp_path / "page.png"
    browse(page, f"--screenshot={picture}")
    pixels = imageio.imread(picture)
    assert pixels.shape[1] == 1300
    painted = (pixels[..., :3] < 200).any(-1)  # text and curves, from top to bottom
    assert all(band.any() for band in np.array_split(painted, 6))


def test_what_a_stranger_named_his_run_is_inert_in_both_pages(tmp_path, write):
    for seed in (0, 1):
        place = write(seed=seed, **{"<b>key": EVIL if seed else "x", "other": EVIL})
        summary = json.loads((place / "summary.json").read_text())
        summary |= {"name": EVIL, "device": EVIL, "environment": EVIL, "versions": {EVIL: EVIL}}
        summary["dataset"]["name"] = EVIL
        summary["seconds"] = {EVIL: 1.0}
        (place / "summary.json").write_text(json.dumps(summary))
        config = yaml.safe_load((place / "config.yaml").read_text()) | {"name": EVIL}
        (place / "config.yaml").write_text(yaml.safe_dump(config))
        (place / "world_model.json").write_text(json.dumps(MODEL))
    (place / "video-seed0](http:evil) <b>.mp4").write_bytes(b"a video")
    html, markdown, *_ = report([tmp_path / "runs"], tmp_path / "out")
    page, text = Checked(html.read_text()), markdown.read_text()
    assert page.open == [] and not any(link.startswith(("http", "java")) for link in page.links)
    assert all(source.startswith("data:") for source in page.sources)
    for written in (html.read_text(), text):
        assert not set(written) & set("\x1b\u202e") and "alert(1)" in written
    rendered = MarkdownIt("commonmark").enable("table").render(text)
    assert not re.search(r"<(img|script|em|code)|href=\"(?!\.\./runs)", rendered)
    assert rendered.count("<a ") == 1 and "://evil" not in text and "www.evil" not in text
    below_headers = re.findall(r"^\| --- \|", text, re.MULTILINE)
    assert rendered.count("<h1>") == 1 and rendered.count("<table>") == len(below_headers)
    assert "<script>alert" not in html.read_text() and "<img src=x" not in html.read_text()


BROKEN = (
    b"",
    b"\xff\xfe",
    b"\0" * 40,
    b"[" * 100_000,
    b'["a"]',
    b"42",
    b'{"a": {"b": [1, {"c": null}]}, "format": 2, "name": 3, "result": []}',
    b'{"open_loop": {"horizons": [1]}, "one_step": 3}',
    b"update,seed,metric,value\n10,0,score\n",
    b"update,seed,metric,value\nx,0,score,1\n",
    b"update,seed,metric,value\n10,7,score,1\n",
    b"update,seed,metric,value\n" + b"9" * 5000 + b",0,score,1\n",
    b"update,seed,metric,value\n10,0," + b"x" * 200_000 + b",1\n",
    b'update,seed,metric,value\n10,0,"score\n',
    b"update,seed,metric,value\n10,0,score,1",
    b"a: &a [1]\nb: [*a, *a]\n",
)


def test_broken_runs_are_left_out_aloud_and_do_not_end_the_report(tmp_path, write, caplog):
    write()
    broken = {}
    for name in ("summary.json", "config.yaml", "metrics.csv", "world_model.json"):
        for text in BROKEN:
            if name == "world_model.json" and b'"a": {"b"' in text:  # nothing that is drawn
                continue
            place = write(seed=len(broken) + 1)
            summary = json.loads((place / "summary.json").read_text())
            (place / "summary.json").write_text(json.dumps(summary | {"updates": 30}))
            (place / name).write_bytes(text)
            broken[place] = name
    _, markdown, *_ = report([tmp_path / "runs"], tmp_path / "out")
    assert "# 1 run on 1 task" in markdown.read_text()
    told = dict(zip(sorted(map(str, broken)), sorted(caplog.messages), strict=True))
    for place, name in broken.items():
        line = told[str(place)]
        assert f"warning: {place} " in line and line.endswith("is left out") and "\n" not in line
        assert f"{place / name} is damaged (" in line or "by another" in line, line
        with pytest.raises(Mistake, match=re.escape(str(place))):  # alone it is the error
            find_and_read(place)


def find_and_read(place):
    return [read(directory) for directory in find([place])[0]]


def test_numbers_that_no_json_has_are_refused(tmp_path, write):
    place = write()
    whole = (place / "summary.json").read_text()
    for wrong in ("NaN", "Infinity", "1e999", "1" * 30, "1" * 5000, "[1]", '"1"', "{}", "true"):
        changed = re.sub(r'"score_final": [0-9.]+', f'"score_final": {wrong}', whole)
        assert changed != whole
        (place / "summary.json").write_text(changed)
        with pytest.raises(Mistake, match=r"summary.json is damaged"):
            read(place)
    (place / "summary.json").write_text(whole.replace('"seed": 0', '"seed": 0, "seed": 1'))
    with pytest.raises(Mistake, match="says 'seed' twice"):
        read(place)


def test_files_of_one_run_agree(tmp_path, write):
    place = write(seed=3)
    config = (place / "config.yaml").read_text()
    (place / "config.yaml").write_text(config.replace("seed: 3", "seed: 2"))
    with pytest.raises(Mistake, match=r"config.yaml is damaged \(it says seed=2"):
        read(place)
    (place / "config.yaml").write_text(config)
    (place / "config.yaml").write_text(config.replace("updates: 30", "updates: 40"))
    summary = json.loads((place / "summary.json").read_text())
    (place / "summary.json").write_text(json.dumps(summary | {"updates": 40}))
    with pytest.raises(Mistake, match="it ends at update 30, the run ended at 40"):
        read(place)


def test_files_of_others_are_not_called_damaged(tmp_path, write, caplog):
    write()
    other = tmp_path / "runs" / "other"
    other.mkdir()
    (other / "summary.json").write_text("a summary of my own")
    report([tmp_path / "runs"], tmp_path / "out")
    assert "damaged" not in caplog.text and "other holds no run of Reverie" in caplog.text


def test_a_video_that_lies_elsewhere_is_no_part_of_the_page(tmp_path, write):
    place = write()
    (tmp_path / "secret").write_bytes(b"a secret")
    (place / "video-seed0.mp4").symlink_to(tmp_path / "secret")
    (place / "video-seed1.mp4").symlink_to(tmp_path / "nowhere")
    (place / "video-seed2.mp4").mkdir()
    html, *_ = report([place], tmp_path / "out")
    assert base64.b64encode(b"a secret").decode() not in html.read_text()


def test_alarms_of_runs_stand_on_the_page(write, tmp_path):
    place = write()
    summary = json.loads((place / "summary.json").read_text())
    said = ["it has blown up", "try python -m training.ope run=... fqe.updates=20000"]
    (place / "summary.json").write_text(json.dumps(summary | {"alarms": said}))
    write(seed=1)
    report([tmp_path / "runs"], tmp_path / "report")
    text = (tmp_path / "report" / "report.md").read_text()
    assert "Alarms" in text and text.count("it has blown up") == 1 and str(place) in text
    assert f"training.ope {shlex.quote(f'run={place}')} fqe.updates=20000" in text


def test_runs_below_the_working_folder_are_named_from_there(write, tmp_path, monkeypatch):
    place = write()
    summary = json.loads((place / "summary.json").read_text())
    said = ["try python -m training.ope run=... fqe.updates=20000"]
    (place / "summary.json").write_text(json.dumps(summary | {"alarms": said}))
    monkeypatch.chdir(tmp_path)
    report([place], tmp_path / "report")
    text = (tmp_path / "report" / "report.md").read_text()
    below = place.relative_to(tmp_path)
    assert f"{below}: try python -m training.ope {shlex.quote(f'run={below}')} fqe" in text
    assert str(tmp_path) not in text


def test_names_begin_no_formulas(write, tmp_path):
    write(name="a$x_{$", task="$y$ $\\frac{$")
    report([tmp_path / "runs"], tmp_path / "report")
    assert (tmp_path / "report" / "report.html").is_file()


@pytest.mark.parametrize("name", ["report.md", "report.html"])
def test_pages_of_somebody_are_left_alone_and_earlier_reports_replaced(write, tmp_path, name):
    write(seed=0)
    out = tmp_path / "out"
    report([tmp_path / "runs"], out)
    before = (out / name).read_text()
    (out / name).write_text(before + "old")
    report([tmp_path / "runs"], out)
    assert (out / name).read_text() == before
    for mine in ("# Report on 3 runs of the plant\n", "", "# 1 run on 1 task of mine\n"):
        (out / name).write_text(mine)
        with pytest.raises(Mistake, match=f"{name} is no report of this command") as caught:
            report([tmp_path / "runs"], out)
        assert "\n" not in str(caught.value) and "--output" in str(caught.value)
        assert (out / name).read_text() == mine


def test_results_come_as_csv_and_latex(tmp_path, write):
    write(seeds=2, level=40.0)
    write(name="td3_bc", seeds=1, level=60.0, order=["critic"])
    *_, table, latex = report([tmp_path / "runs"], tmp_path / "out")
    lines = list(csv.DictReader(table.open()))
    assert [line["method"] for line in lines[::3]] == ["mopo", "td3_bc"]
    assert lines[0]["measure"] == "last 10 evaluations" and lines[0]["seeds"] == "2"
    assert float(lines[0]["low"]) <= float(lines[0]["mean"]) <= float(lines[0]["high"])
    assert lines[3]["low"] == "" and lines[3]["seeds"] == "1"
    assert r"td3\_bc & \textbf{" in latex.read_text()
    assert latex.read_text().count(r"\textbf") == 1
    report([tmp_path / "runs"], tmp_path / "out")  # its own files are replaced
    table.write_text("method,mine\n")
    with pytest.raises(Mistake, match=r"results\.csv is no report of this command"):
        report([tmp_path / "runs"], tmp_path / "out")


@pytest.mark.slow
@needs_browser
@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_reads_well_in_a_browser(tmp_path, write, width):
    write(seeds=2, level=40.0, penalty=0.5)
    write(seeds=2, level=90.0, penalty=2.0)
    html, *_ = report([tmp_path / "runs"], tmp_path / "out")
    for dark in (False, True):
        scratch = tmp_path / str(dark)
        seen = look(html.parent, html.name, scratch, width=width, dark=dark)
        assert seen.width <= width
        assert not seen.broken and not seen.unnamed and not seen.asked
        assert (brightness(seen.background) < brightness(seen.colour)) == dark


@pytest.mark.slow
@needs_browser
@pytest.mark.parametrize("width", [390, 1280])
def test_keys_alone_reach_all_of_the_page(tmp_path, write, width):
    for name, settings in {"mopo": {"penalty": 0.5}, "td3_bc": {"alpha": 2.5}}.items():
        place = write(name=name, seeds=2, **settings)
        (place / "world_model.json").write_text(json.dumps(MODEL))
    html, *_ = report([tmp_path / "runs"], tmp_path / "out")
    with browser(tmp_path, width=width) as page:
        page.open(html.as_uri())
        walk = page.walk()
        assert not walk.trapped and not walk.missed and not walk.unreachable
        assert all(stop.visible and stop.name for stop in walk.stops)
        assert "Skip" in walk.stops[0].name and "Results" in {stop.name for stop in walk.stops}

        page.tab()
        page.press("Enter")  # past the links to the sections
        assert 'class="wide"' in page.tab().element
        while not (stop := page.tab()).element.startswith("<summary"):
            pass
        page.press("Enter")
        assert page.value("document.querySelector('details').open"), stop


@pytest.mark.slow
@needs_browser
def test_a_page_that_traps_or_hides_the_focus_is_found_out(tmp_path):
    page = tmp_path / "page.html"
    page.write_text(
        "<a href='#1'>one</a><a href='#2' style='position: fixed; left: -9rem'>outside</a>"
        "<a href='#3' style='outline: none'>unmarked</a>"
        "<div style='overflow-x: auto; width: 5rem'><pre>far too wide for such a box</pre></div>"
        "<button onkeydown='event.preventDefault()'>trap</button><button>behind it</button>"
    )
    with browser(tmp_path, width=1280) as window:
        window.open(page.as_uri())
        walk = window.walk()
    hidden = {stop.name for stop in walk.stops if not stop.visible}
    assert walk.trapped and hidden >= {"outside", "unmarked"} and "one" not in hidden
    assert len(walk.missed) == len(walk.unreachable) == 1 and "behind it" in walk.missed[0]


def test_runs_that_extend_one_each_repeat_one_experiment():
    def experiment(**settings):
        known = {"updates": 4, **settings}
        return Run(Path("x"), {}, known, {}, {}, {}, []).experiment

    assert experiment(extend="runs/a/0") == experiment(extend="runs/a/1")
    assert experiment(extend="runs/a/0") != experiment(extend=None) == experiment()
