import gzip

import pytest

from trainer.exit_codes import DataError, UsageError
from trainer.flags.prepare import Prepare
from trainer.prepare import folders


def make(root, files):
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return str(root)


def read(root, max_line_bytes=1000):
    """Returns [(split, label, line, text)] of a folder."""
    flags = Prepare(
        data_dir="unused", source="folder", raw_data=root, max_line_bytes=max_line_bytes
    )
    source = folders.source_of(folders.find(root, "train", "raw_data"), flags)
    return [
        (rows.split, label, place[1], text)
        for rows in source.read(lambda count: None)
        for place, text, label in zip(rows.places, rows.texts, rows.labels)
    ]


def test_a_file_per_class_has_an_example_per_line(tmp_path):
    root = make(
        tmp_path,
        {
            "Czech.txt": b"Abl\r\n\r\nAdsit\n",
            "Arabic.txt.gz": gzip.compress(b"\xef\xbb\xbfKhoury"),
            "README.md": b"no class",
            ".hidden.txt": b"no class",
            "Czech.txt.bak": b"no class",
        },
    )
    assert read(root) == [
        ("train", "Arabic", 1, b"Khoury"),
        ("train", "Czech", 1, b"Abl"),
        ("train", "Czech", 3, b"Adsit"),
    ]


def test_a_folder_per_class_has_an_example_per_file(tmp_path):
    root = make(
        tmp_path,
        {
            "pos/2": b"one\r\ntwo\n",
            "pos/1.txt": b"\xef\xbb\xbffine",
            "neg/1.txt": b"",
            "neg/.DS_Store": b"\0",
        },
    )
    assert read(root) == [
        ("train", "neg", 1, b""),
        ("train", "pos", 1, b"fine"),
        ("train", "pos", 1, b"one\ntwo"),
    ]


def test_the_extracted_acl_imdb_has_given_splits_and_no_unlabelled_texts(tmp_path):
    root = make(
        tmp_path,
        {
            "README": b"",
            "imdbEr.txt": b"0.1",
            "train/urls_pos.txt": b"http",
            "train/pos/0_9.txt": b"fine",
            "train/neg/0_1.txt": b"bad",
            "train/unsup/0_0.txt": b"?",
            "test/pos/0_8.txt": b"good",
            "test/neg/0_2.txt": b"dull",
        },
    )
    assert read(root) == [
        ("test", "neg", 1, b"dull"),
        ("test", "pos", 1, b"good"),
        ("train", "neg", 1, b"bad"),
        ("train", "pos", 1, b"fine"),
    ]


def test_given_splits_may_hold_a_file_per_class(tmp_path):
    root = make(tmp_path, {"train/a.txt": b"1\n2\n", "dev/a.txt": b"3"})
    assert read(root) == [
        ("validation", "a", 1, b"3"),
        ("train", "a", 1, b"1"),
        ("train", "a", 2, b"2"),
    ]


def test_an_example_file_must_not_exceed_the_line_limit(tmp_path):
    root = make(tmp_path, {"pos/1.txt": b"x" * 1000, "pos/2.txt": b"x" * 1001})
    with pytest.raises(DataError, match="pos/2.txt:1: the text is longer than 1000 bytes"):
        read(root)


def test_the_source_knows_the_files_of_each_split(tmp_path):
    root = make(tmp_path, {"train/a.txt": b"1\n", "train/b.txt": b"2\n", "test/a.txt": b"3\n"})
    flags = Prepare(data_dir="unused", source="folder", raw_data=root)
    source = folders.source_of(folders.find(root, "train", "raw_data"), flags)
    assert source.paths == {
        "train": [f"{root}/train/a.txt", f"{root}/train/b.txt"],
        "test": [f"{root}/test/a.txt"],
    }
    counts = []
    list(source.read(counts.append))
    assert sum(counts) == source.size == 6


@pytest.mark.parametrize("files", [{}, {"notes.md": b"x"}, {"unsup/1.txt": b"x"}])
def test_a_folder_without_a_class_is_refused(tmp_path, files):
    with pytest.raises(DataError, match=f"{tmp_path}: no class in it"):
        folders.find(make(tmp_path, files), "train", "raw_data")


def test_a_missing_folder_is_a_usage_error(tmp_path):
    with pytest.raises(UsageError, match="--test_data=.*no such folder"):
        folders.find(str(tmp_path / "none"), "test", "test_data")


def test_names_of_splits_and_endings_may_be_written_in_capitals(tmp_path):
    root = make(tmp_path, {"Train/a.TXT": b"1\n", "Train/b.txt": b"2\n", "TEST/a.txt": b"3\n"})
    assert read(root) == [("test", "a", 1, b"3"), ("train", "a", 1, b"1"), ("train", "b", 1, b"2")]


@pytest.mark.parametrize(
    "files, message",
    [
        (["train/a/1", "test/a/1", "docs/1.md"], "'test', 'train'. beside 'docs'"),
        (["train/a/1", "test/a/1", "b.txt"], "'test', 'train'. beside 'b.txt'"),
        (["good.txt", "bad.txt", "old/good.txt"], "'bad.txt', 'good.txt'. beside folders .'old'"),
        (["set-train/a/1", "set-test/a/1"], "without a file.*'set-test', 'set-train'.*--test_data"),
        (["a/1", "group/b/1"], "folders without a file, but with folders in them .'group'."),
    ],
)
def test_a_folder_in_two_forms_is_refused(tmp_path, files, message):
    root = make(tmp_path, dict.fromkeys(files, b"x"))
    with pytest.raises(DataError, match=f"{root}: .*{message}"):
        folders.find(root, "train", "raw_data")


def test_what_is_not_read_is_logged_with_its_count(tmp_path, caplog):
    files = ["a/1", "a/more/2", "b/1", "README.txt", "table.csv"]
    root = make(tmp_path, dict.fromkeys(files, b"x"))
    for name in ("away", "gone"):
        (tmp_path / "b" / name).symlink_to("nowhere")
    (tmp_path / "c").mkdir()
    assert [row[:2] for row in read(root)] == [("train", "a"), ("train", "b")]
    for said in (
        f"{root}: 2 not read (files beside folders of classes): 'README.txt', 'table.csv'",
        f"{root}/a: 1 not read (folders in a folder of a class): 'more'",
        f"{root}/b: 2 not read (links that lead nowhere, or no files): 'away', 'gone'",
        f"{root}/c: no file in it, so it is not a class",
    ):
        assert said in caplog.text


def test_a_file_without_a_line_is_logged(tmp_path, caplog):
    root = make(tmp_path, {"a.txt": b"1\n", "b.txt": b"2\n", "c.txt": b"\n", "d.text": b"x"})
    assert {row[1] for row in read(root)} == {"a", "b"}
    assert f"{root}/c.txt: no line in it, so it is not a class" in caplog.text
    assert f"{root}: 1 not read (names that do not end in .txt or .txt.gz" in caplog.text


def test_what_systems_leave_behind_is_no_class_and_no_text(tmp_path, caplog):
    files = ["a/1", "b/1", "__MACOSX/._1", "a/Thumbs.db", "b/desktop.ini", "a/.DS_Store"]
    root = make(tmp_path, dict.fromkeys(files, b"x"))
    assert [row[:2] for row in read(root)] == [("train", "a"), ("train", "b")]
    assert not caplog.text


def test_folders_of_splits_are_given_as_a_whole(tmp_path):
    root = make(tmp_path, {"train/a.txt": b"x", "test/a.txt": b"x"})
    with pytest.raises(UsageError, match="--test_data=.*holds folders of splits"):
        folders.find(root, "test", "test_data")


def test_folders_of_classes_without_any_file_are_no_class(tmp_path):
    for name in ("train/a", "test/a"):
        (tmp_path / name).mkdir(parents=True)
    with pytest.raises(DataError, match="no class in it"):
        folders.find(str(tmp_path), "train", "raw_data")


def test_a_file_in_a_folder_of_a_class_must_be_text(tmp_path):
    root = make(tmp_path, {"a/1": b"x", "a/2": "x y z".encode("utf-16")})
    with pytest.raises(DataError, match="a/2:1: this is not text but UTF-16 text"):
        read(root)
