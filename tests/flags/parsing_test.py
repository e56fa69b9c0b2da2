import dataclasses

import pytest

from trainer.exit_codes import UsageError
from trainer.flags import parsing
from trainer.flags import run as configuration
from trainer.flags.knobs import at_least, knob, one_of
from trainer.main import COMMANDS


@dataclasses.dataclass(frozen=True)
class Cooking:
    """How to cook."""

    minutes: int = knob(3, "How long.", at_least(1))
    heat: float = knob(0.5, "Share of the full power.")
    dish: str = knob("soup", "What.", one_of("soup", "cake"))
    sizes: tuple[int, ...] = knob((1,), "Of each pot.")
    lid: bool = knob(True, "Whether it is covered.")
    salt: bool = knob(False, "Whether it is salted.")
    herb: tuple[str, ...] = knob((), "What goes in; once for each.")
    stir: bool | None = knob(None, "Whether to stir; without the flag the dish decides.")


@dataclasses.dataclass(frozen=True)
class Washing:
    """How to wash."""

    minutes: int = knob(5, "How long.")
    soap: str = knob("green", "Which.")
    rinse: bool = knob(True, "Whether to rinse.")


TABLES = {"cook": (Cooking,), "wash": (Washing,)}
DEFAULTS = {
    "minutes": 3,
    "heat": 0.5,
    "dish": "soup",
    "sizes": (1,),
    "lid": True,
    "salt": False,
    "herb": (),
    "stir": None,
}


def parse(*arguments) -> parsing.Parsed:
    return parsing.parse("cook", arguments, TABLES)


def changed(*arguments) -> dict:
    """The values that differ from the defaults."""
    return {
        name: value for name, value in parse(*arguments).values.items() if value != DEFAULTS[name]
    }


@pytest.mark.parametrize(
    "arguments, expected",
    [
        ([], {}),
        (["--minutes=7"], {"minutes": 7}),
        (["--minutes", "7"], {"minutes": 7}),
        (["-minutes=7"], {"minutes": 7}),
        (["--minutes=7", "--minutes=8"], {"minutes": 8}),
        (["--heat=1e-3"], {"heat": 0.001}),
        (["--heat=1"], {"heat": 1.0}),
        (["--sizes=2,3"], {"sizes": (2, 3)}),
        (["--dish=cake"], {"dish": "cake"}),
        (["--nolid", "--salt"], {"lid": False, "salt": True}),
        (["--lid=false", "--salt=true"], {"lid": False, "salt": True}),
        (["--herb=dill", "--minutes=7", "--herb", "a,b"], {"herb": ("dill", "a,b"), "minutes": 7}),
        (["--stir"], {"stir": True}),
        (["--nostir"], {"stir": False}),
    ],
)
def test_flags_become_values_of_their_fields(arguments, expected):
    assert changed(*arguments) == expected


def test_an_argument_that_is_not_a_flag_is_a_word_in_any_place():
    parsed = parse(
        "one", "--minutes=7", "two", "--", "--dish=mud", "--flagfile=nowhere", "--undefok=x"
    )
    assert parsed.words == ("one", "two", "--dish=mud", "--flagfile=nowhere", "--undefok=x")
    assert parsed.values["minutes"] == 7 and parsed.values["dish"] == "soup"


@pytest.mark.parametrize(
    "argument, told",
    [
        ("--minutes=soon", "--minutes=soon: must be a whole number. Default: 3."),
        ("--minutes=1.5", "--minutes=1.5: must be a whole number"),
        ("--minutes=", "--minutes=: must be a whole number"),
        ("--minutes=0", "--minutes=0: must be at least 1. Default: 3."),
        ("--heat=hot", "--heat=hot: must be a finite number"),
        ("--heat=nan", "--heat=nan: must be a finite number"),
        ("--heat=-inf", "--heat=-inf: must be a finite number"),
        ("--sizes=1,", "--sizes=1,: must be whole numbers separated by commas"),
        ("--dish=mud", "--dish=mud: must be one of soup | cake"),
        ("--lid=perhaps", "--lid=perhaps: must be true or false"),
        ("--nolid=1", "--nolid=1 does not take an argument"),
        ("--minutes", "Missing value for flag --minutes"),
        (
            "--minuets=7",
            "--minuets: no such flag of `cook`. Did you mean --minutes? `cook --help` lists them "
            "all.",
        ),
        ("--zzz", "--zzz: no such flag of `cook`. `cook --help`"),
        ("--undefok=zzz", "--undefok: no such flag"),
        ("--soap=red", "--soap: is not a flag of `cook` but of `wash`. Leave it out."),
        ("--norinse", "--rinse: is not a flag of `cook` but of `wash`"),
    ],
)
def test_a_mistake_is_answered_with_value_rule_and_remedy(argument, told):
    with pytest.raises(UsageError) as refusal:
        parse(argument)
    assert told in str(refusal.value)


# --- flagfiles ------------------------------------------------------------------------------------


def test_a_flagfile_stands_where_it_is_named(tmp_path):
    file = tmp_path / "soup.flags"
    file.write_text("# A comment.\n--minutes=7\n\n--nolid\n")
    assert (
        changed(f"--flagfile={file}")
        == changed("--flagfile", str(file))
        == {"minutes": 7, "lid": False}
    )
    assert changed(f"--flagfile={file}", "--minutes=9") == {"minutes": 9, "lid": False}
    assert changed("--minutes=9", f"--flagfile={file}") == {"minutes": 7, "lid": False}


def test_one_flagfile_serves_several_commands(tmp_path):
    file = tmp_path / "house.flags"
    file.write_text("--minutes=7\n--dish=cake\n--soap=red\n")
    assert changed(f"--flagfile={file}") == {"minutes": 7, "dish": "cake"}
    assert parsing.parse("wash", [f"--flagfile={file}"], TABLES).values == {
        "minutes": 7,
        "soap": "red",
        "rinse": True,
    }


@pytest.mark.parametrize(
    "content, told",
    [
        (b"--minutes=soon", "--minutes=soon: must be a whole number"),
        (b"--zzz=1", "--zzz: no such flag"),
        (b"--undefok=zzz\n--zzz=1", "--undefok: no such flag"),
        (b"--flagfile=nowhere.flags", "nowhere.flags"),
        (b"--dish=\xff", "can't decode byte"),
    ],
)
def test_mistakes_in_a_flagfile_are_mistakes(tmp_path, content, told):
    (tmp_path / "x.flags").write_bytes(content)
    with pytest.raises(UsageError, match=told):
        parse(f"--flagfile={tmp_path / 'x.flags'}")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--flagfile=nowhere.flags"],
        ["--flagfile", "nowhere.flags"],
        ["--flagfile="],
        ["--flagfile"],
    ],
)
def test_a_flagfile_that_is_missing_names_those_that_come_with_the_package(arguments):
    with pytest.raises(UsageError, match="no such file.*named runs: .*imdb_seed.flags"):
        parse(*arguments)


def test_a_named_run_is_found_by_its_name_unless_a_file_of_that_name_lies_here(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(parsing, "NAMED_RUNS", tmp_path / "package")
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "quick.flags").write_text("--minutes=7\n")
    assert changed("--flagfile=quick.flags") == changed("--flagfile=quick") == {"minutes": 7}
    (tmp_path / "quick.flags").write_text("--minutes=8\n")
    assert changed("--flagfile=quick.flags") == {"minutes": 8}


@pytest.mark.parametrize("name", sorted(path.name for path in parsing.NAMED_RUNS.glob("*.flags")))
def test_every_named_run_is_a_configuration(name):
    sections = {command: row.sections for command, row in COMMANDS.items()}
    configuration.from_flat(parsing.parse("train", [f"--flagfile={name}"], sections).values)
    parsing.parse("prepare", [f"--flagfile={name}"], sections)


# --- help -----------------------------------------------------------------------------------------


def test_help_shows_every_flag_with_default_meaning_and_rule():
    lines = parsing.help_text("cook [flags]", (Cooking,)).splitlines()
    assert "  --[no]stir" in lines
    assert lines[:15] == [
        "cook [flags]",
        "",
        "How to cook.",
        "  --minutes=3",
        "      How long. (must be at least 1)",
        "  --heat=0.5",
        "      Share of the full power.",
        "  --dish=soup",
        "      What. (must be one of soup | cake)",
        "  --sizes=1",
        "      Of each pot.",
        "  --[no]lid",
        "      Whether it is covered. (default: --lid)",
        "  --[no]salt",
        "      Whether it is salted. (default: --nosalt)",
    ]
