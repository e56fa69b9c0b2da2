"""Rows of CSV files become the steps of sequences."""

import pytest

from tests.numeric_files import CSV, rows
from trainer.data import fields
from trainer.exit_codes import DataError


def test_rows_of_a_csv_file_become_steps_sorted_by_time(csv):
    dataset = csv(time_column="t")
    assert dataset.input is fields.FRAMES and dataset.frame == (2,)
    assert dataset.features == ("speed", "force") and dataset.labels == ("down", "up")
    assert rows(dataset) == [([[0.5, 10], [1.5, 20]], 1), ([[2.5, 30]], 0)]


def test_several_columns_may_be_the_values_of_a_regression(csv):
    content = CSV.replace("kind", "gain").replace("up", "-1").replace("down", "2e0")
    dataset = csv(content, label_column="cost, gain", task="regression", data_dir="values")
    assert dataset.task == "regression" and dataset.values == ("cost", "gain")
    assert rows(dataset)[0] == ([[1.5, 20], [0.5, 10]], [3, -1])
    assert dataset.standardise.mean.tolist() == [3.75, 0.5]
    assert dataset.standardise.deviation.tolist() == [0.75, 1.5]


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("0.5,10", "nan,10", "raw.csv:3: step 1 (from 0), feature 'speed' is missing (nan). Fill"),
        ("0.5,10", ",10", "raw.csv:3: step 1 (from 0), feature 'speed' is missing"),
        ("2.5,30", "2.5,-inf", "raw.csv:4: step 0 (from 0), feature 'force' is -inf, which must"),
        ("2.5,30", "2.5,1e39", "feature 'force' is 1e+39, which is too large for float32. Scale"),
        ("2.5,30", "2.5,fast", "raw.csv:4: column 'force' is 'fast', which is no number. Correct"),
        ("2.5,30", "2.5,1_0", "raw.csv:4: column 'force' is '1_0', which is no number"),
        ("10,up", "10,down", "raw.csv:3: 'kind' is 'down', but 'up' in line 2 of the same sequen"),
        ("b,1,2.5,30,down,4.5", "b,1,2.5", "raw.csv:4: 3 fields, but the header line has 6"),
        ("speed,", "pace,", "raw.csv:1: no columns 'speed'; the header line has"),
        ("down,4.5\n", "down,4.5\na,3,1,1,up,3\n", "raw.csv:5: the sequence 'a' again, after row"),
        ("down", "", "raw.csv:4: the label is empty"),
        ("b,1,2.5,30,down,4.5", "run,t,speed,force,kind,cost", "raw.csv:4: the header line again"),
    ],
)
def test_a_bad_row_of_steps_is_named_with_its_line(csv, tmp_path, old, new, message):
    with pytest.raises(DataError) as refusal:
        csv(CSV.replace(old, new))
    assert message in str(refusal.value)
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize(
    "early, late",
    [
        ("2024-05-01T12:30:00.000000001", "2024-05-01T12:30:00.000000002"),
        ("2024-05-01 12:30:00.9999999991Z", "2024-05-01 12:30:00.9999999992Z"),
        ("2024-05-01T12:30:00.1234567+02:00", "2024-05-01T10:30:00.12345671+00:00"),
        ("20240501T123000.0000001", "20240501T123000.00000011"),
        ("2024-05-01T12:30:00", "2024-05-01T12:30:00.000000001"),
        ("2024-05-01T12:30", "2024-05-01T12:30:00.25"),
        ("2024-05-01T12:30:00.9", "2024-05-01T12:30:01"),
        ("1714566600000000001", "1714566600000000002"),
        ("1714566600.000000001", "1714566600.000000002"),
        ("9999999999999999998.5", "9999999999999999999"),
        ("-1e-400", "0.5"),
        ("1e-99999999999999999999", "1"),
        ("-2", "1e3"),
    ],
)
def test_times_are_compared_with_all_their_digits(csv, early, late):
    content = CSV.replace("a,2,1", f"a,{late},1").replace("a,1,0", f"a,{early},0")
    assert rows(csv(content, time_column="t"))[0] == ([[0.5, 10], [1.5, 20]], 1)


@pytest.mark.parametrize(
    "times, message",
    [
        ("1,1", "raw.csv:3: the time '1' is that of line 2 of the same sequence. Two steps need"),
        ("1,1.0", "raw.csv:3: the time '1.0' is that of line 2"),
        (
            "2024-05-01T12:30:00.1000000010Z,2024-05-01T14:30:00.100000001+02:00",
            "raw.csv:3: the time '2024-05-01T14:30:00.100000001+02:00' is that of line 2",
        ),
        ("1,2024-05-01T12:30:00.5.5", "raw.csv:3: the time '2024-05-01T12:30:00.5.5' is neither"),
        ("1,noon", "raw.csv:3: the time 'noon' is neither a number nor a date such as"),
        (
            "1,2024-05-01",
            "raw.csv:3: the time '2024-05-01' is written in another way than '1' in line 2",
        ),
        (
            "2024-05-01T12:00Z,2024-05-01",
            "raw.csv:3: the time '2024-05-01' is written in another way",
        ),
    ],
)
def test_times_that_do_not_sort_steps_are_refused(csv, times, message):
    one, other = times.split(",")
    content = CSV.replace("a,2,1", f"a,{one},1").replace("a,1,0", f"a,{other},0")
    with pytest.raises(DataError) as refusal:
        csv(content, time_column="t")
    assert message in str(refusal.value)
