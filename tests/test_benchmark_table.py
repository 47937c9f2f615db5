"""The table of measurements: a missed figure is marked as missed, and a ratio is to the same run."""

from benchmarks import __main__ as bench
from benchmarks import table


def samples(memory: float, baseline: float) -> table.Samples:
    return {
        table.MEMORY: {"wide": [memory, memory * 9, memory / 9]},
        table.BASELINE: {"wide": [baseline]},
    }


def test_a_figure_is_judged_by_the_median_and_against_the_baseline() -> None:
    (missed,) = table.judge(samples(memory=499.0, baseline=100.0))
    (reached,) = table.judge(samples(memory=500.0, baseline=100.0))
    assert missed.startswith("MISSED")
    assert reached.startswith("reached")


def test_a_figure_may_be_a_multiple_of_another_engines() -> None:
    measured: table.Samples = {table.NORMAL: {"chain": [1400.0]}, table.DBOS: {"chain": [10.0]}}
    (reached,) = [line for line in table.judge(measured) if table.DBOS in line]
    assert reached.startswith("reached")
    measured[table.DBOS]["chain"] = [10.1]
    (missed,) = [line for line in table.judge(measured) if table.DBOS in line]
    assert missed.startswith("MISSED")


def test_a_subject_that_was_not_measured_is_neither_reached_nor_missed() -> None:
    assert table.judge({table.BASELINE: {"wide": [100.0]}}) == []


def test_each_line_of_the_table_has_every_subject_and_the_ratio() -> None:
    text = table.render(samples(memory=250.0, baseline=100.0), [table.MEMORY, table.BASELINE], ["wide"])
    header, rule, line, registering, busy, busy_line = text.splitlines()
    assert [part.strip() for part in line.split("|")[3:5]] == ["250 (2.5)", "100"]
    assert {row.count("|") for row in (header, rule, line, registering, busy, busy_line)} == {5}


def test_every_required_figure_is_measured_on_the_subjects_it_names() -> None:
    row_of = {metric.key: row for row, metrics in table.METRICS.items() for metric in metrics}
    rows_of = {subject.name: subject.rows for subject in bench.SUBJECTS + bench.PEERS}
    for goal in table.GOALS:
        for subject in filter(None, (goal.subject, goal.against)):
            assert row_of[goal.key] in rows_of[subject], f"{goal.key} of {subject}"


def test_every_line_has_a_key_of_its_own_and_a_subject() -> None:
    keys = [prefix + metric.key for prefix, metric in table.lines(list(table.METRICS))]
    assert len(keys) == len(set(keys))
    measured = {row for subject in bench.SUBJECTS for row in subject.rows}
    assert measured == set(table.METRICS)
