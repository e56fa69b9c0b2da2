"""Preparations of sequences of numbers in a temporary folder."""

import pytest

from tests import numeric_files
from trainer.flags.prepare import Prepare
from trainer.prepare import command


@pytest.fixture
def prepared(tmp_path):
    """Returns a function that prepares raw files into the folder d, with paths in `tmp_path`."""

    def run(source, raw_data, data_dir="d", **flags):
        for flag in ("validation_data", "test_data"):
            if flag in flags:
                flags[flag] = str(tmp_path / flags[flag])
        return command.prepare(
            Prepare(
                data_dir=str(tmp_path / data_dir),
                source=source,
                raw_data=str(tmp_path / raw_data),
                **flags,
            )
        )

    return run


@pytest.fixture
def csv(tmp_path, prepared):
    """Returns a function that prepares the text of a CSV file with steps."""

    def written(content=numeric_files.CSV, **flags):
        (tmp_path / "raw.csv").write_text(content)
        flags = {"sequence_column": "run", "label_column": "kind", **flags}
        return prepared("csv", "raw.csv", feature_columns="speed,force", **flags)

    return written
