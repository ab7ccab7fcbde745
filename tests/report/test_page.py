from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml

from dicenas.pareto import Direction
from dicenas.report import write_report
from dicenas.runs import RunFolder, TrialRecord
from dicenas.space import SpaceSpec

WriteRun = Callable[..., RunFolder]
OBJECTIVES: dict[str, Direction] = {"accuracy": "maximize", "latency_ms": "minimize"}
VOID = {"meta", "br", "hr", "img", "link", "input"}


@dataclass
class Page(HTMLParser):
    """A parsed page; it fails on a tag that is not closed."""

    source: str
    open_tags: list[str] = field(default_factory=list)
    tags: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self.feed(self.source)
        self.close()
        assert self.open_tags == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open_tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open_tags.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & set(self.open_tags):
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    def attributes(self, name: str) -> list[str]:
        return [attributes[name] for _, attributes in self.tags if name in attributes]


def read(path: Path) -> Page:
    return Page(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def run(write_run: WriteRun, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    run = write_run(tmp_path_factory.mktemp("runs") / "two", OBJECTIVES, 24, 2)
    write_report(run)
    return run


@pytest.fixture(scope="module")
def page(run: RunFolder) -> Page:
    return read(run.report_path)


def test_the_path_is_returned(run: RunFolder) -> None:
    assert write_report(run) == run.report_path


def test_every_trial_of_the_front_is_drawn_and_linked(run: RunFolder, page: Page) -> None:
    front = run.front(OBJECTIVES)
    assert len(front) > 1
    assert {f"trial-{trial.number}" for trial in front} <= set(page.attributes("id"))
    drawings = [
        attributes for tag, attributes in page.tags if tag == "svg" and attributes.get("class") == "architecture"
    ]
    assert len(drawings) >= len(front)
    for trial in front:
        assert page.attributes("href").count(f"#trial-{trial.number}") >= 2  # from the plot and from the table


@pytest.mark.parametrize("objectives", [{"accuracy": "maximize"}, OBJECTIVES, {**OBJECTIVES, "macs": "minimize"}])
def test_every_link_within_the_page_has_a_target(
    objectives: dict[str, Direction], write_run: WriteRun, tmp_path: Path
) -> None:
    page = read(write_report(write_run(tmp_path / "run", objectives, 20)))
    targets = {href.removeprefix("#") for href in page.attributes("href") if href.startswith("#")}
    assert targets
    assert targets <= set(page.attributes("id"))
    plots = [attributes for tag, attributes in page.tags if tag == "svg" and attributes.get("class") == "scatter"]
    assert len(plots) == max(1, len(objectives) - 1)


def test_every_complete_trial_is_a_point_of_the_plot(run: RunFolder, page: Page) -> None:
    circles = [attributes for tag, attributes in page.tags if tag == "circle"]
    complete = [trial for trial in run.trials() if trial.state == "complete"]
    assert {int(attributes["data-trial"]) for attributes in circles} == {trial.number for trial in complete}
    front = {int(attributes["data-trial"]) for attributes in circles if attributes["class"] == "front"}
    assert front == {trial.number for trial in run.front(OBJECTIVES)}


def test_the_page_needs_no_other_resource(page: Page) -> None:
    assert "//" not in re.sub(r"^.*?</style>", "", page.source, flags=re.DOTALL).replace("</", "")
    assert "url(" not in page.source
    assert "@import" not in page.source
    assert page.attributes("src") == []
    assert "link" not in {tag for tag, _ in page.tags}


def test_latency_is_given_for_the_chosen_runtime_with_spread_and_for_eager(run: RunFolder, page: Page) -> None:
    best = run.best(OBJECTIVES).metrics
    for title in (
        "Latency, kernels (ms) ↓",
        "Latency, eager (ms)",
        "Accuracy (%) ↑",
        "FLOPs (MACs), M",
        "Peak memory (MB)",
    ):
        assert title in page.text
    low, high = best["latency_p25_ms"], best["latency_p75_ms"]
    assert f"{best['latency_ms']:.1f} {low:.1f}–{high:.1f} {best['latency_eager_ms']:.1f}" in page.text


def test_failed_trials_stand_with_their_reasons(page: Page) -> None:
    assert page.text.count("training diverged: loss is nan in epoch 2") == 2


def test_what_was_searched_and_where(page: Page) -> None:
    for text in ("Example CPU @ 2.00 GHz", "torch 2.15.0", "FLOPs (MACs) ≤ 60.0 M", "4.5 minutes", "26 tried"):
        assert text in page.text


def test_a_search_from_python(write_run: WriteRun, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", OBJECTIVES, 3)
    spec = SpaceSpec("shufflenetv2", num_classes=10, stems=("small",), resolutions=(32,))
    settings = {"name": "mine", "space": spec.to_dict(), "objectives": OBJECTIVES, "latency": "function"}
    run.config_path.write_text(yaml.safe_dump(settings), encoding="utf-8")
    page = read(write_report(run))
    assert "Latency (ms) ↓" in page.text
    assert "architectures, 3 tried" in page.text


def test_a_bound_on_latency_changes_the_winner(run: RunFolder, page: Page) -> None:
    text = page.text.split("What a bound on latency buys")[1].split("The architectures")[0]
    bounds = [float(bound) for bound in re.findall(r"≤ ([\d.]+) ms", text)]
    assert bounds == sorted(bounds, reverse=True)
    assert len(bounds) == 3
    for bound in bounds:
        kept = [trial for trial in run.trials() if trial.metrics.get("latency_ms", 1e9) <= bound]
        winner = max(kept, key=lambda trial: trial.metrics["accuracy"])
        row = text.split(f"≤ {bound:.3g}")[1].split("≤")[0]
        assert f"#{winner.number} {100 * winner.metrics['accuracy']:.2f}" in row
    assert "different networks win" in text


def test_names_and_errors_are_escaped(write_run: WriteRun, tmp_path: Path) -> None:
    attack = "<script>alert('x')</script>\"&"
    run = write_run(tmp_path / "run", OBJECTIVES, 3, 1, name=attack, error=attack)
    page = read(write_report(run))
    assert [tag for tag, _ in page.tags].count("script") == 1
    assert page.text.count(attack) >= 3  # title, heading, reason


@pytest.mark.parametrize(("failed", "message"), [(0, "No trial has finished."), (3, "All 3 trials failed.")])
def test_a_run_without_a_complete_trial_says_so(failed: int, message: str, write_run: WriteRun, tmp_path: Path) -> None:
    page = read(write_report(write_run(tmp_path / "run", OBJECTIVES, 0, failed)))
    assert "No complete trial yet" in page.text
    assert message in page.text


def test_one_trial(write_run: WriteRun, tmp_path: Path) -> None:
    page = read(write_report(write_run(tmp_path / "run", OBJECTIVES, 1)))
    assert "trial-0" in page.attributes("id")
    assert "What a bound" not in page.text


def test_a_mobilenet_is_drawn(write_run: WriteRun, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", OBJECTIVES, 4, space={"backbone": "mobilenetv2", "stem": "small"})
    assert "inverted_residual" in write_report(run).read_text(encoding="utf-8")


def test_without_environment_and_with_unknown_metrics(write_run: WriteRun, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", {"energy_mj": "minimize"}, 0)
    run.environment_path.unlink()
    space: dict[str, Any] = yaml.safe_load(run.config_path.read_text(encoding="utf-8"))["space"]
    architectures = SpaceSpec.from_config(space, num_classes=3, image_size=32).enumerate()
    for number, architecture in zip(range(3), architectures, strict=False):
        run.write_trial(TrialRecord(number, architecture, "complete", {"energy_mj": 7.25 - number}))
    page = read(write_report(run))
    assert "energy_mj" in page.text
    assert "5.250" in page.text


def test_an_exported_network_is_listed(write_run: WriteRun, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", OBJECTIVES, 2)
    assert "Nothing is exported yet" in read(write_report(run)).text
    run.export_path.mkdir()
    (run.export_path / "model.py").write_text("x = 1\n", encoding="utf-8")
    assert "export/model.py" in read(write_report(run)).attributes("href")


def test_a_folder_that_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no run folder.*config\.yaml"):
        write_report(RunFolder(tmp_path))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["{", "[1, 2]", "name: x", "objectives: {}"])
def test_a_damaged_configuration(text: str, tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.config_path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"config\.yaml is damaged"):
        write_report(run)


def test_a_damaged_environment_is_named(write_run: WriteRun, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", OBJECTIVES, 1)
    run.environment_path.write_text(json.dumps({"a": 1})[:-1], encoding="utf-8")
    with pytest.raises(ValueError, match=r"environment\.json is damaged"):
        write_report(run)
