"""Forest plots and formatted findings show what is in `result.json`."""

import pytest

from experiments.studies import forest, study_page
from experiments.studies.claims import VERDICTS, Claim
from experiments.studies.evidence import Evidence
from experiments.studies.finding_rows import (
    MEANINGS,
    SIGNS,
    finding_row,
    format_evidence,
    format_value,
    notes,
    reaches_floor,
    summarise,
)

SHARE = Claim("One $head$ stops loops", "76 %", "share", 0.5, paper_value=0.76, unit="%")
LOGITS = Claim(
    "Noise moves the model", "none", "shift", least=0.3, unit="logits", units="sentences"
)
COST = Claim("Speech is unchanged", "none", "cost", 0.02, "below", least=0.02, unit="%")


def rows() -> dict[str, dict]:
    """Returns findings of all five verdicts."""
    return {
        "undecided": finding_row(SHARE.judge_share([True] * 8 + [False] * 2)),
        "supported": finding_row(SHARE.judge(Evidence(0.75, 0.7, 0.8, 90, error=0.02, floor=0.8))),
        "weaker": finding_row(SHARE.judge(Evidence(0.6, 0.55, 0.65, 90, error=0.02, floor=0.5))),
        "contradicted": finding_row(LOGITS.judge(Evidence(-1.0, -1.5, -0.5, 90, error=0.2))),
        "untestable": finding_row(LOGITS.judge(None, "no model")),
    }


def texts(figure) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def test_the_verdict_is_a_word_and_every_number_has_its_unit():
    found = texts(forest.draw_forest({"base": rows()}))
    assert "base   undecided   8 of 10 recordings, 80 % [44, 97]" in found
    assert "base   supported °   75 % [70, 80], 90 recordings" in found
    assert "92 % or more would be detected; fewer than 20 recordings" in found
    assert "no model" in found
    assert r"One \$head\$ stops loops" in found


def test_units_and_extents_have_panels():
    findings = rows() | {"cost": finding_row(COST.judge(Evidence(0, -0.01, 0.01, 90, error=0.01)))}
    figure = forest.draw_forest({"": findings})
    assert [axes.get_xlabel() for axes in figure.axes] == ["%", "%", "logits", ""]


@pytest.mark.parametrize("verdict", ["supported", "contradicted", "undecided"])
def test_the_interval_has_the_colour_of_the_verdict(verdict):
    from matplotlib.colors import to_hex

    row = rows()[verdict]
    (axes,) = forest.draw_forest({"": {"a": row}}).axes
    colours = [to_hex(lines.get_colors()[0]) for lines in axes.collections]
    assert forest.COLOURS[verdict] in colours
    estimate = axes.lines[-1].get_xdata()[0]
    assert estimate == pytest.approx(row["ours"]["value"] * (100 if row["unit"] == "%" else 1))


def test_findings_without_estimates_have_a_figure():
    figure = forest.draw_forest({"": {"a": rows()["untestable"]}})
    assert forest.png(figure).startswith(b"\x89PNG")
    assert figure.get_figwidth() == forest.WIDTH


def test_each_verdict_has_a_sign_and_a_meaning():
    assert set(SIGNS) == set(MEANINGS) == set(forest.COLOURS) == set(VERDICTS)
    assert len(set(SIGNS.values())) == len(VERDICTS)


def test_numbers_have_two_digits_of_the_width_of_the_interval():
    def shown(value: float, low: float, high: float, unit: str = "%") -> str:
        row = {"ours": {"value": value, "low": low, "high": high, "n": 50, "counts": None}}
        return format_evidence(row | {"unit": unit, "units": "loops"}, adjusted=False)

    assert shown(0.5, 0.31, 0.69) == "50 % [31, 69], 50 loops"
    assert shown(0.992, 0.981, 0.999) == "99.2 % [98.1, 99.9], 50 loops"
    assert shown(-0.00001, -0.01, 0.01, "") == "0.000 [-0.010, 0.010], 50 loops"
    assert shown(0.5, None, None) == "50 %, no interval, 50 loops"
    assert format_value(0.5, "") == "0.5"


def test_clustered_counts_name_both_numbers():
    outcomes, speakers = [True, False] * 20, [number // 2 for number in range(40)]
    row = finding_row(SHARE.judge_share(outcomes, clusters=speakers))
    assert format_evidence(row, adjusted=False).startswith("20 of 40, 50 %")
    assert format_evidence(row, adjusted=False).endswith("], 20 recordings")
    assert "fewer than 20 recordings" not in notes(row)


@pytest.mark.parametrize(("floor", "reached"), [(0.8, True), (0.71, True), (0.69, False)])
def test_a_baseline_within_the_interval_or_beyond_it_is_marked(floor, reached):
    row = finding_row(SHARE.judge(Evidence(0.75, 0.7, 0.8, 90, error=0.02, floor=floor)))
    assert reaches_floor(row) is reached
    assert any(note.startswith("° ") for note in notes(row)) is reached


def test_counts_of_verdicts():
    expected = (
        "1 claim supported (1 of them no better than a baseline), 1 weaker, 1 contradicted, "
        "1 undecided, 1 untestable."
    )
    assert summarise(rows().values()) == expected


def test_results_of_earlier_versions_have_no_verdict():
    old = {"findings": {"a": {"verdict": "replicates", "null": 0.0}}}
    assert "run the study again" in study_page.outdated_format(old)
    assert not study_page.outdated_format({"findings": rows()})
