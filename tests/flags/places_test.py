"""Places that no shell has expanded are refused, for every flag that is one."""

import dataclasses
import re

import pytest

from trainer.exit_codes import UsageError
from trainer.flags.prepare import Prepare
from trainer.flags.run import TRAIN_SECTIONS, Folders
from trainer.flags.use import Evaluate, Export, Predict, Report


@pytest.mark.parametrize(
    "value, told",
    [
        ("gs://bucket/data", "mount the bucket"),
        ("a.csv,s3://bucket/b.csv", "mount the bucket"),
        ("file:///data", "mount the bucket"),
        ("~/data", "~ is not expanded"),
        ("~anna/data", "~ is not expanded"),
        ("$HOME/data", "Variables are not expanded"),
        ("/data/${RUN}", "Variables are not expanded"),
        ('"my data"', "leave them out"),
        ("'data", "leave them out"),
        ("data  # the first one", "a line of its own"),
        ("data ", "spaces at its ends"),
        ("da\nta", "control characters"),
        ("da\udcffta", "not valid UTF-8"),
        ("x" * 256, "longer than 255 bytes"),
    ],
)
def test_a_place_that_no_shell_has_expanded_is_refused(value, told):
    for make in (
        lambda: Folders(data_dir=value).refuse_addresses(),
        lambda: Export(export_dir=value),
        lambda: Predict(input=value),
        lambda: Prepare(raw_data=value),
    ):
        with pytest.raises(UsageError, match="must be a plain path") as raised:
            make()
        assert told in str(raised.value) and len(str(raised.value)) < 500


@pytest.mark.parametrize(
    "value",
    ["", ".", "../a b/c", "/data/*.csv,b[1].csv", "./~", "a~b", "5$", "it's/data", "a#b", "C:/x"],
)
def test_other_places_are_taken_as_they_are(value):
    assert Folders(model_dir=value).model_dir == value
    assert Prepare(raw_data=value or "x").raw_data == (value or "x")


def test_every_flag_that_is_a_place_has_its_rule():
    sections = [*TRAIN_SECTIONS.values(), Prepare, Export]
    sections += [Evaluate, Predict, Report]
    for section in sections:
        for field in dataclasses.fields(section):
            if field.type is str and re.search(
                "(?i)^(folder|file|globs?) ", field.metadata["help"]
            ):
                assert field.metadata["rule"].text.startswith("must be a plain path"), field.name


@pytest.mark.parametrize("name", ["e[1]/v", "a*", "what?", "a\\b"])
def test_an_export_goes_to_no_folder_that_tensorflow_takes_for_a_pattern(name):
    with pytest.raises(UsageError, match="part of a pattern"):
        Export(export_dir=name)
