"""Files of the UEA and UCR archives become sequences."""

import pytest

from tests.numeric_files import TS, rows
from trainer.exit_codes import DataError


def test_a_ts_file_gives_channels_as_features_and_keeps_unequal_lengths(tmp_path, prepared):
    (tmp_path / "two.ts").write_text(TS)
    dataset = prepared("ts", "two.ts")
    assert dataset.labels == ("run", "walk")
    assert rows(dataset) == [([[1, 4], [2, 5], [3, 6]], 1), ([[7, 9], [8, 10]], 0)]
    values = TS.replace("classLabel true walk run", "targetLabel true")
    (tmp_path / "values.ts").write_text(values.replace(":walk", ":1").replace(":run", ":3"))
    dataset = prepared("ts", "values.ts", task="regression", data_dir="values")
    assert dataset.values == ("target",) and [target for _, target in rows(dataset)] == [[1], [3]]


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("7,8:9,10:run", "7,8:run", "two.ts:9: 1 channels, but there must be 2"),
        ("7,8:9,10:run", "7,8:9:run", "two.ts:9: its channels have 1, 2 steps, but all channels"),
        ("7,8:9,10:run", "::run", "two.ts:9: a sequence without a step"),
        ("7,8:9", "7,x:9", "two.ts:9: channel 0, step 1 (from 0) is 'x', which is no number"),
        ("7,8:9", "7,?:9", "two.ts:9: step 1 (from 0), feature 0 is missing (nan). Fill it in"),
        ("10:run", "10:ran", "two.ts:9: the label 'ran', but the header's @classLabel has 'walk'"),
        ("timeStamps false", "timeStamps true", "two.ts:7: the header says @timeStamps true"),
        ("7,8:9,10:run", "(0,7),(1,8):9,10:run", "channel 0 (from 0) holds '(0,7),(1,8)': time"),
        ("@data\n", "", "two.ts:7: '1,2,3:4,5,6:walk' before the line @data"),
        (TS, "", "two.ts:1: no line @data, so this is not a .ts file"),
        ("classLabel true walk run", "classLabel false", "no @classLabel true, so the sequences"),
        ("classLabel true walk run", "targetLabel true", "Use --task=regression"),
        ("univariate false", "univariate maybe", "the header says @univariate 'maybe', but it"),
    ],
)
def test_a_bad_ts_file_is_named_with_its_line(tmp_path, prepared, old, new, message):
    (tmp_path / "two.ts").write_text(TS.replace(old, new))
    with pytest.raises(DataError) as refusal:
        prepared("ts", "two.ts")
    assert message in str(refusal.value)
