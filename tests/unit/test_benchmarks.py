"""The page of benchmarks is what its results say, and drawing and writing it is as promised."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest
from bench import __main__ as program
from bench.numbers import number, significant, spreads
from bench.plot import plot
from bench.report import document, write
from bench.results import Results, Section, from_json, to_json
from bench.rows import Row, Target
from hypothesis import given
from hypothesis import strategies as st
from tests.tools import ROOT

DOCS = ROOT / "docs"
COMMITTED = from_json((DOCS / "benchmarks.json").read_text())
SVG = "{http://www.w3.org/2000/svg}"


def row(
    values: dict[str, list[float]], *, key: str = "jobs", targets: tuple[Target, ...] = ()
) -> Row:
    return Row(key, "a `job`", "all is warm", "ms", values, {}, list(targets))


def results(*rows: Row) -> Results:
    return Results("2026-01-02", {"memory": "8 GiB"}, [Section("Jobs", list(rows))])


def drawn(row: Row) -> ElementTree.Element:
    return ElementTree.fromstring(plot(row))


def words(picture: ElementTree.Element) -> list[str]:
    return [text.text or "" for text in picture.iter(f"{SVG}text")]


def bars(picture: ElementTree.Element) -> list[tuple[str, float]]:
    return [(bar.attrib["class"], float(bar.attrib["width"])) for bar in picture.iter(f"{SVG}rect")]


def test_the_page_and_its_pictures_are_drawn_from_the_committed_results() -> None:
    assert (DOCS / "benchmarks.md").read_text() == document(COMMITTED)
    pictures = {path.stem: path.read_text() for path in (DOCS / "benchmarks").iterdir()}
    assert pictures == {row.key: plot(row) for row in COMMITTED.rows}


def test_the_committed_results_are_complete_and_of_no_folder() -> None:
    assert [section.title for section in COMMITTED.sections] == [
        title for title, _ in program._SECTIONS.values()
    ]
    assert all(section.rows for section in COMMITTED.sections)
    assert len({row.key for row in COMMITTED.rows}) == len(COMMITTED.rows)
    text = (DOCS / "benchmarks.json").read_text()
    for folder in (ROOT, Path.home(), tempfile.gettempdir()):
        assert f"{folder}/" not in text


def test_every_picture_and_every_row_that_the_page_names_is_there() -> None:
    page = document(COMMITTED)
    for path in re.findall(r"]\((benchmarks[^)]*)\)", page):
        assert (DOCS / path).is_file()
    anchors = re.findall(r'<a id="(.*?)">', page)
    assert set(re.findall(r"\(#(.*?)\)", page)) <= set(anchors)
    assert len(set(anchors)) == len(anchors)


def test_results_are_the_same_when_read_and_written_again() -> None:
    text = (DOCS / "benchmarks.json").read_text()
    assert to_json(from_json(text)) == text
    assert from_json(text) == COMMITTED


def test_results_are_rounded_and_their_commands_plain() -> None:
    made = row({"a": [1.23456, 98765.4]})
    made.commands = {"a": f"/opt/x/bin/python -m x {'sha256:' + '0' * 64} /dev/null", "b": ""}
    written = json.loads(to_json(results(made)))["sections"][0]["rows"][0]
    assert written["values"] == {"a": [1.235, 98770]}
    assert written["commands"] == {"a": "python -m x sha256:… /dev/null", "b": ""}


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0, "0.00"), (0.04996, "0.0500"), (0.9996, "1.00"), (9.995001, "10.0"), (52.04, "52.0"),
     (99.96, "100"), (133.4, "133"), (12345, "12,300"), (-1.234, "-1.23")],
)  # fmt: skip
def test_numbers_have_three_digits(value: float, shown: str) -> None:
    assert number(value) == shown


@given(st.floats(1e-6, 1e9))
def test_a_number_is_near_its_value_and_not_more_precise(value: float) -> None:
    shown = number(value).replace(",", "")
    assert float(shown) == pytest.approx(value, rel=0.00501)
    digits = shown.replace(".", "").lstrip("0")
    assert set(digits[3:]) <= {"0"}
    assert "e" not in shown
    assert number(float(shown)) == number(value)


@given(st.floats(-1e9, 1e9).filter(lambda value: abs(value) > 1e-9), st.integers(1, 6))
def test_rounding_twice_is_rounding_once(value: float, digits: int) -> None:
    once = significant(value, digits)
    assert significant(once, digits) == once
    assert once == pytest.approx(value, rel=10 ** (1 - digits))


def test_the_spread_is_the_middle_half_of_eight_runs_and_all_of_fewer() -> None:
    eight = [float(value) for value in range(8)]
    assert spreads({"a": eight}) == ("middle half", {"a": (1.75, 5.25)})
    kind, around = spreads({"a": eight, "b": eight[:7]})
    assert (kind, around) == ("lowest to highest", {"a": (0, 7), "b": (0, 6)})


def test_a_picture_has_a_bar_for_each_median_in_proportion() -> None:
    made = row({"cdimage": [9, 10, 11], "Box.exec": [20, 20, 20], "peer": [40, 41, 39],
                "slow": [80, 80, 80]}, targets=(Target("slow", "peer", 1),))  # fmt: skip
    picture = drawn(made)
    kinds, widths = zip(*bars(picture), strict=True)
    assert kinds == ("ours", "ours", "peer", "ours")
    assert [width / widths[0] for width in widths] == pytest.approx([1, 2, 4, 8], rel=0.01)
    assert {"cdimage", "10.0 ms", "40.0 ms", "0"} <= set(words(picture))
    assert len(list(picture.iter(f"{SVG}circle"))) == 12
    assert not [word for word in words(picture) if "logarithmic" in word]


def test_many_runs_are_not_drawn_one_by_one() -> None:
    picture = drawn(row({"a": [1.0] * 100}))
    assert not list(picture.iter(f"{SVG}circle"))
    assert "dots" not in words(picture)[-1]


@pytest.mark.parametrize(("largest", "logarithmic"), [(30, False), (31, True), (5000, True)])
def test_what_is_far_apart_is_on_a_logarithmic_scale_that_says_so(
    largest: float, logarithmic: bool
) -> None:
    picture = drawn(row({"a": [1.0], "b": [largest]}))
    assert any("logarithmic" in word for word in words(picture)) is logarithmic
    (_, small), (_, large) = bars(picture)
    assert (large / small < largest / 2) is logarithmic


MEASURED = st.just(0.0) | st.floats(1e-9, 1e7)


@given(st.lists(st.lists(MEASURED, min_size=1, max_size=30), min_size=1, max_size=5))
def test_whatever_is_measured_is_drawn_inside_the_picture(values: list[list[float]]) -> None:
    picture = drawn(row({f"way {place}": each for place, each in enumerate(values)}))
    right = float(picture.attrib["width"])
    for circle in picture.iter(f"{SVG}circle"):
        assert 0 < float(circle.attrib["cx"]) < right
    for bar in picture.iter(f"{SVG}rect"):
        assert float(bar.attrib["x"]) + float(bar.attrib["width"]) < right


def test_text_is_escaped_and_nothing_is_run_or_loaded() -> None:
    made = row({"<script>&\"'": [1.0, 2.0]})
    made.title = "a <b> & `c`"
    text = plot(made)
    picture = ElementTree.fromstring(text)
    assert picture.findtext(f"{SVG}title") == "a <b> & c"
    assert words(picture).count("<script>&\"'") == 1
    assert {child.tag.removeprefix(SVG) for child in picture.iter()} <= {
        "svg", "title", "style", "path", "text", "rect", "circle",
    }  # fmt: skip
    assert not re.search(r"href|url\(|@import", text)
    assert "prefers-color-scheme: dark" in text


def test_the_page_says_which_targets_are_met() -> None:
    made = row({"ours": [1.0, 1.0, 9.0], "theirs": [2.0, 2.0, 3.0], "a | b": [1.0, 1.0, 1.0]},
               targets=(Target("ours", "theirs", 0.5), Target("ours", "", 0.9)))  # fmt: skip
    made.note = "the disk is slow"
    page = document(results(made))
    assert "1 of 2 are met" in page
    assert "| [a `job`](#jobs) | ours | theirs | 0.500 | 0.5 | yes |" in page
    assert "| ours | - | 1.00 ms | 0.9 ms | **no** |" in page
    assert "| a \\| b | a call | 1.00 | 1.00 to 1.00 | 3 |" in page
    assert "\nThe disk is slow.\n" in page
    assert "| memory | 8 GiB |\n| date | 2026-01-02 |" in page


def test_pictures_of_rows_that_are_gone_are_removed(tmp_path: Path) -> None:
    write(results(row({"a": [1.0]}, key="old"), row({"a": [1.0]}, key="kept")), tmp_path)
    write(results(row({"a": [1.0]}, key="kept"), row({"a": [1.0]}, key="new")), tmp_path)
    assert {path.name for path in (tmp_path / "benchmarks").iterdir()} == {"kept.svg", "new.svg"}
    assert "old" not in (tmp_path / "benchmarks.md").read_text()


def good(runs: int) -> Iterator[Row]:
    yield row({"a": [1.0] * runs}, key="good")


def broken(runs: int) -> Iterator[Row]:
    yield row({"a": [1.0] * runs}, key="half")
    raise ConnectionError("the daemon is gone")


def test_everything_is_written_and_drawn_and_can_be_drawn_again(tmp_path: Path) -> None:
    sections = {"good": ("Good", good)}
    assert program.main(["--runs", "3"], sections, tmp_path) == 0
    kept = from_json((tmp_path / "benchmarks.json").read_text())
    assert [(section.title, section.rows) for section in kept.sections] == [("Good", [*good(3)])]
    page = tmp_path / "benchmarks.md"
    assert page.read_text() == document(kept)
    page.unlink()
    assert program.main(["--draw"], sections, tmp_path) == 0
    assert page.read_text() == document(kept)


def test_what_is_named_is_measured_and_written_only_where_one_says(tmp_path: Path) -> None:
    sections = {"good": ("Good", good), "broken": ("Broken", broken)}
    docs = tmp_path / "docs"
    docs.mkdir()
    assert program.main(["good"], sections, docs) == 0
    assert not list(tmp_path.rglob("*.*"))
    file = tmp_path / "some.json"
    assert program.main(["good", "--json", str(file)], sections, docs) == 0
    assert [row.key for row in from_json(file.read_text()).rows] == ["good"]
    assert not list(docs.iterdir())


def test_a_section_that_fails_loses_nothing_and_leaves_the_documents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    aside = tmp_path / "aside"
    aside.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(aside))
    docs = tmp_path / "docs"
    docs.mkdir()
    sections = {"broken": ("Broken", broken), "good": ("Good", good)}
    assert program.main([], sections, docs) == 1
    assert not list(docs.iterdir())
    (file,) = aside.rglob("*.json")
    assert [row.key for row in from_json(file.read_text()).rows] == ["half", "good"]
    shown = capsys.readouterr()
    assert str(file) in shown.out
    assert "failed: broken: ConnectionError('the daemon is gone')" in shown.err


def test_a_section_that_is_not_there_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        program.main(["nosuch"], {"good": ("Good", good)})
    assert ended.value.code == 2
    assert "no section is named nosuch" in capsys.readouterr().err
