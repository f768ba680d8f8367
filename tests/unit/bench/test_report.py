"""Medians, ratios and CPU times of measurements, and the plots made of them."""

from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from bench import plots, report
from bench.meter import Measurement

ONE = Measurement("cairnfs", "mkdir", 0, amount=1000, wall_s=1.0, client_cpu_s=0.5, server_cpu_s=0.25)


def some() -> list[Measurement]:
    ours = [replace(ONE, round=number, wall_s=wall_s) for number, wall_s in enumerate((0.5, 2.0, 1.0))]
    theirs = [replace(found, system="moosefs", wall_s=found.wall_s * 4) for found in ours]
    tree = replace(ONE, row="untar", amount=100, wall_s=2.0)
    return [*ours, *theirs, tree, replace(tree, system="moosefs", wall_s=6.0)]


def test_the_median_of_a_rate_counts_operations_per_second() -> None:
    assert report.Results(some()).median("mkdir", "cairnfs") == 1000


def test_a_ratio_above_one_means_faster_for_rates_and_for_times() -> None:
    results = report.Results(some())
    assert results.ratios("mkdir") == {"moosefs": 4.0}
    assert results.ratios("untar") == {"moosefs": 3.0}


def test_cpu_time_is_counted_per_operation() -> None:
    assert report.Results(some()).cpu_ms("mkdir", "cairnfs") == pytest.approx((0.5, 0.25))


def test_cpu_time_of_bytes_is_counted_per_megabyte() -> None:
    results = report.Results([replace(ONE, row="write", amount=10_000_000)])
    assert results.cpu_ms("write", "cairnfs") == pytest.approx((50.0, 25.0))


def test_the_median_latency_counts_for_appends_not_the_whole() -> None:
    found = replace(ONE, row="append", amount=200, wall_s=1.0, latency_s=0.002)
    assert report.Results([found]).median("append", "cairnfs") == 2.0


def test_what_failed_is_told_and_does_not_count() -> None:
    results = report.Results([*some(), Measurement("moosefs", "rmdir", 2, error="OSError: it broke")])
    assert results.median("rmdir", "moosefs") is None
    assert "failed: rmdir of moosefs in round 3: OSError: it broke" in report.markdown(results, {})


def test_runs_are_merged_into_one_table_and_a_plot(tmp_path: Path) -> None:
    for number in range(2):
        report.write_json(tmp_path / f"{number}.json", {"machine": "a small one"}, some())
    text = report.write(tmp_path, "both", [tmp_path / "0.json", tmp_path / "1.json"])
    assert "- rounds: 6" in text
    assert "- machine: a small one" in text
    assert (tmp_path / "both.md").read_text() == text
    ElementTree.parse(tmp_path / "both.svg")


def test_ratios_lie_left_and_right_of_the_middle_line() -> None:
    drawn = ElementTree.fromstring(plots.ratios("<title>", ["A"], {"slow": {"A": 0.5}, "fast": {"A": 2.0}}))
    places = [float(dot.attrib["cx"]) for dot in drawn.iter() if dot.tag.endswith("circle")][1:]
    middle = plots._LABEL_PX + plots._PLOT_PX / 2
    assert places[0] < middle < places[1]
    assert middle - places[0] == pytest.approx(places[1] - middle)


def test_curves_with_a_single_point_can_be_drawn() -> None:
    ElementTree.fromstring(plots.curves("t", "clients", {"A": [(1, 5.0)], "B": [(1, 0.0)]}, "/s"))
