"""The documents are true: their commands parse and run, what they name exists, links resolve.

What a document promises beyond that (results, times) is in the heads of the flagfiles.
"""

import ast
import contextlib
import dataclasses
import functools
import io
import pathlib
import re
import shlex

import pytest

from tests import classifier, commands
from trainer import main
from trainer.flags import parsing
from trainer.flags import run as configuration
from trainer.flags.prepare import SOURCES
from trainer.flags.tasks import TASKS

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "k8s/README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    ROOT / "SECURITY.md",
]
FLAGS = {name: command.sections for name, command in main.COMMANDS.items()}
# Flags of scripts and of pytest, which documents also name.
OTHER_FLAGS = {
    "push": "scripts/build_image.sh",
    "platform": "scripts/build_image.sh",
    "slow": "pytest",
    "cluster": "pytest",
    "cluster_quick": "pytest",
    "gpu_wheel": "pytest",
    "tpu_compiler": "pytest",
    "durations": "pytest",
    "record_digests": "pytest",
    "fix": "ruff",
    "tsv": "scripts/bench.py",
    "only": "scripts/prove_device.sh",
    "output": "scripts/prove_device.sh",
    "quick": "scripts/prove_device.sh",
    "keep_logs": "scripts/prove_device.sh",
    "require-hashes": "pip",
    "help": "every command",
    "version": "the program",
    "flagfile": "every command",
}


def name_of(page: pathlib.Path) -> str:
    return page.relative_to(ROOT).as_posix()


by_page = pytest.mark.parametrize("page", PAGES, ids=name_of)


# --- What a page says -----------------------------------------------------------------------


@functools.cache
def text_of(page: pathlib.Path) -> str:
    return page.read_text(encoding="utf-8")


def blocks(text: str) -> list[str]:
    """The contents of the fenced blocks."""
    return re.findall(r"^ *```\w*\n(.*?)^ *```$", text, re.MULTILINE | re.DOTALL)


def code(text: str) -> list[str]:
    """Everything that is set as code: the lines of blocks, continued ones joined, and spans."""
    lines = [line for block in blocks(text) for line in re.sub(r"\\\n *", "", block).splitlines()]
    prose = re.sub(r"^ *```.*?^ *```$", "", text, flags=re.MULTILINE | re.DOTALL)
    return [*lines, *re.findall(r"`([^`\n]+)`", prose)]


def command_lines(text: str) -> list[list[str]]:
    """The words after `python -m trainer` (or `rnn-trainer`) of every command line in `text`."""
    found = []
    for line in code(text):
        begins = re.match(r"(?:python -m trainer|rnn-trainer) (.+)", line)
        if begins:
            words = shlex.split(begins[1], comments=True)
            found.append(words[: words.index(">")] if ">" in words else words)
    return found


def parse(words: list[str]) -> None:
    """Parses a command line and makes its configuration, which checks how the values fit together.

    `...` stands for flags that are left out; then the values need not be complete. Raises
    UsageError.
    """
    name, *rest = words
    assert name in main.COMMANDS
    if "--help" in rest:
        return
    given = [word for word in rest if word != "..."]
    end = given.index("--") if name == "submit" and "--" in given else len(given)
    values = parsing.parse(name, given[:end], FLAGS).values
    if given == rest:
        check(name, values)
    if end < len(given):
        assert given[end + 1] == "train"
        check("train", parsing.parse("train", given[end + 2 :], FLAGS).values)


def check(name: str, values: dict) -> None:
    """Makes the dataclasses whose fields are the flags of a command. Raises UsageError."""
    if set(configuration.TRAIN_SECTIONS.values()) <= set(FLAGS[name]):
        configuration.from_flat(values)
    for section in set(FLAGS[name]) - set(configuration.TRAIN_SECTIONS.values()):
        own = {field.name for field in dataclasses.fields(section)}
        section(**{key: value for key, value in values.items() if key in own})


# --- Commands -------------------------------------------------------------------------------


COMMAND_LINES = [
    (name_of(page), tuple(words)) for page in PAGES for words in command_lines(text_of(page))
]


def test_the_page_on_data_says_which_sources_a_task_reads():
    page = text_of(ROOT / "docs/data.md")
    for task in TASKS:
        [cell] = re.findall(rf"^\| `{task}`[^|]*\|[^|]*\|([^|]*)\|$", page, re.MULTILINE)
        named = set(re.findall("`([^`]+)`", cell))
        read = {source for source, tasks in SOURCES.items() if task in tasks}
        assert (set(SOURCES) - named if "all but" in cell else named) == read, task


@pytest.mark.parametrize(
    "page, words", COMMAND_LINES, ids=lambda value: value if isinstance(value, str) else value[0]
)
def test_a_command_line_parses_and_its_values_fit_together(page, words):
    parse(list(words))


def test_command_lines_are_found_in_blocks_over_several_lines_and_in_spans():
    block = "```\npython -m trainer train --a=1 \\\n    --b=2  # why\n```"
    text = f"a\n{block}\n`rnn-trainer report --c`\n"
    assert command_lines(text) == [["train", "--a=1", "--b=2"], ["report", "--c"]]
    assert {words[0] for _, words in COMMAND_LINES} == set(main.COMMANDS)


@by_page
def test_every_flag_that_a_page_names_exists(page):
    known = {
        field.name
        for sections in FLAGS.values()
        for section in sections
        for field in dataclasses.fields(section)
    }
    named = {
        match[1]
        for span in code(text_of(page))
        if not span.startswith(("kubectl ", "gcloud ", "pip ", "ruff "))
        for match in re.finditer(r"(?<![\w-])--([a-z][\w-]*)", span)
    }
    unknown = {name for name in named if not {name, name.removeprefix("no")} & known}
    assert unknown <= OTHER_FLAGS.keys()


JOBS = [
    (page, words)
    for page, words in COMMAND_LINES
    if words[0] == "submit" and "--" in words and "--target=local" not in words
]


@pytest.mark.parametrize(
    "page, words", JOBS, ids=lambda value: value if isinstance(value, str) else ""
)
def test_a_job_of_a_page_can_be_printed(page, words):
    printed = [word for word in words if word not in ("--apply", "--follow")]
    # An image of a registry has a small name.
    printed = [word.replace("REGISTRY/", "registry.example/") for word in printed]
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert main.main(printed) == 0
    assert "words" in out.getvalue()


@pytest.fixture(scope="module")
def own_data(tmp_path_factory) -> pathlib.Path:
    """A folder with the raw files that the README's example reads."""
    folder = tmp_path_factory.mktemp("own_data")
    rows = "".join(f"{text},{label}\n" for text, label in classifier.sentences(300, seed=1))
    (folder / "reviews").mkdir()
    (folder / "reviews/all.csv").write_text("review,stars\n" + rows, encoding="utf-8")
    return folder


def test_the_example_for_your_own_data_runs_from_raw_files_to_an_export(own_data):
    """With smaller numbers, which come last and win; then what other pages do with the model."""
    example = text_of(ROOT / "README.md").partition("## Your own data")[2].partition("\n## ")[0]
    small = ["--units=4", "--max_length=8", "--steps=4", "--jit=off", "--threads=2", "--shards=1"]
    given = {
        name: [_inside(own_data, word) for word in rest] + small * (name == "train")
        for name, *rest in command_lines(example)
        if "--help" not in rest
    }
    assert list(given) == ["prepare", "train", "evaluate", "predict", "export"]
    answers = {name: run(name, *arguments) for name, arguments in given.items()}
    assert answers["evaluate"].lines[0] == "split test"
    assert [line.split("\t")[2] for line in answers["predict"].lines] == ["One text.", "Another."]
    assert (own_data / "export/saved_model").is_dir() and (own_data / "export/model.keras").exists()

    assert run("train", *given["train"]).digest == answers["train"].digest
    assert "goodput" in run("report", f"--model_dir={own_data}/model").out
    folders = [f"--data_dir={own_data}/data", f"--model_dir={own_data}/model"]
    assert "0 error(s)" in run("doctor", *folders, "--batch_size=64").out


def run(*arguments: str) -> commands.Answer:
    answer = commands.call(*arguments)
    assert answer.code == 0, answer.err
    return answer


def _inside(folder: pathlib.Path, word: str) -> str:
    """Returns a flag with its path inside `folder`; the raw files there are not compressed."""
    word = word.replace(".csv.gz", ".csv")
    return re.sub(r"^(--(?:raw_data|data_dir|model_dir|export_dir)=)", rf"\1{folder}/", word)


# --- What is named exists -------------------------------------------------------------------


@by_page
def test_every_path_of_the_repository_that_a_page_names_exists(page):
    named = {
        match[0].rstrip("./")
        for span in code(text_of(page))
        for match in re.finditer(r"\b(?:trainer|tests|scripts|k8s|docs)/[\w./*-]*\w", span)
        if not re.search(r"[\w./-]$", span[: match.start()])
    }
    examples = {"trainer/a/b.py", "tests/a/b_test.py"}  # Of how tests/ mirrors trainer/.
    assert sorted(path for path in named - examples if not list(ROOT.glob(path))) == []


@by_page
def test_every_name_that_a_page_places_in_a_file_is_there(page):
    placed = re.findall(r"`(?:class )?(\w+)`(?: is)? in\s+`([\w/]+\.py)`", text_of(page))
    assert [(name, path) for name, path in placed if not is_in(name, ROOT / path)] == []


def is_in(name: str, path: pathlib.Path) -> bool:
    return path.exists() and name in text_of(path)


@by_page
def test_every_link_resolves(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", text_of(page)):
        if not target.startswith("https://"):
            path, _, heading = target.partition("#")
            there = page.parent / path if path else page
            assert there.exists(), target
            assert not heading or heading in headings(text_of(there)), target


def headings(text: str) -> set[str]:
    """The anchors that a site makes of the headings."""
    titles = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def test_every_page_is_linked_from_the_readme_which_is_short():
    readme = text_of(ROOT / "README.md")
    assert len(readme.splitlines()) <= 120
    linked = {target.partition("#")[0] for target in re.findall(r"\]\(([^)\s]+)\)", readme)}
    assert {name_of(page) for page in PAGES} - {"README.md"} <= linked
    assert (ROOT / "LICENSE").exists()


# --- The map of the files -------------------------------------------------------------------

ARCHITECTURE = ROOT / "docs/architecture.md"


def modules() -> dict[str, pathlib.Path]:
    """{path from the root: file} of every module."""
    paths = (ROOT / "trainer").rglob("*.py")
    return {name_of(path): path for path in paths if not path.name.startswith("__")}


def test_the_map_has_every_module_and_no_other():
    drawn = set()
    for section in text_of(ARCHITECTURE).split("\n### ")[1:]:
        folder = re.match(r"`([\w/]+/)`", section)[1]
        drawn |= {
            folder + name for name in re.findall(r"^\| `(\w+\.py)` \|", section, re.MULTILINE)
        }
    missing, gone = modules().keys() - drawn, drawn - modules().keys()
    assert not missing and not gone, f"draw {sorted(missing)}, take out {sorted(gone)}"


def test_the_picture_of_the_packages_is_true():
    [drawing] = [block for block in blocks(text_of(ARCHITECTURE)) if "exit_codes" in block]
    rows = [re.split(r" {6,}", line.strip())[0].split() for line in drawing.splitlines()]
    rooms = {_room(path) for path in modules()}
    row_of = {room: number for number, row in enumerate(rows) for room in row if room != "|"}
    missing, gone = rooms - row_of.keys(), row_of.keys() - rooms
    assert not missing and not gone, f"draw {sorted(missing)}, take out {sorted(gone)}"
    for path, file in modules().items():
        others = rooms_imported_by(file.read_text(encoding="utf-8")) - {_room(path)}
        for other in others & rooms:  # The rest are names, such as `__version__`.
            assert row_of[other] > row_of[_room(path)], f"{path} imports {other}"


def rooms_imported_by(source: str) -> set[str]:
    """Packages, or modules that lie in no package, that `source` imports wherever in the file."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "trainer":
            rest = node.module.split(".")[1:]
            names |= {rest[0]} if rest else {alias.name for alias in node.names}
    return names


def _room(path: str) -> str:
    """`data` of trainer/data/store.py, `loop` of trainer/loop.py."""
    return path.split("/")[1].removesuffix(".py")


@by_page
def test_a_page_uses_the_words_of_the_glossary(page):
    prose = re.sub(r"```.*?```|`[^`\n]*`", "", text_of(page), flags=re.DOTALL)
    assert not re.findall(r"\b(?:figures?|trainings)\b", prose, re.IGNORECASE)
