"""Trains a small classifier of sentences with the commands that a user would give."""

import random

from tests import commands

WORDS = {
    "drama": "tears love family loss".split(),
    "comedy": "laugh joke funny clown".split(),
    "science fiction": "robot space laser mars".split(),
}
COMMON = "the a film with of and about some".split()


def sentences(count: int, seed: int) -> list[tuple[str, str]]:
    """Returns [(text, label)]; most texts, but not all, hold words of their label only."""
    chance = random.Random(seed)
    rows = []
    for _ in range(count):
        label = chance.choice(sorted(WORDS))
        words = chance.choices(COMMON, k=chance.randint(1, 9))
        words += chance.choices(WORDS[label], k=chance.randint(0, 2))
        chance.shuffle(words)
        rows.append((" ".join(words), label))
    return rows


def write_csv(path, rows) -> None:
    path.write_text(
        "text,label\n" + "".join(f"{text},{label}\n" for text, label in rows), encoding="utf-8"
    )


def trained(folder, test_rows) -> None:
    """Makes FOLDER/data, with `test_rows` as test split, and FOLDER/model, trained on it.

    The best checkpoint is not the newest.
    """
    write_csv(folder / "train.csv", sentences(200, seed=1))
    write_csv(folder / "validation.csv", sentences(50, seed=2))
    write_csv(folder / "test.csv", test_rows)
    run(
        "prepare",
        f"--raw_data={folder / 'train.csv'}",
        f"--validation_data={folder / 'validation.csv'}",
        f"--test_data={folder / 'test.csv'}",
        f"--data_dir={folder / 'data'}",
    )
    # The learning rate is so large that the last evaluation is not the best.
    run(
        "train",
        f"--data_dir={folder / 'data'}",
        f"--model_dir={folder / 'model'}",
        "--units=8",
        "--embedding_size=4",
        "--max_length=10",
        "--batch_size=20",
        "--learning_rate=0.05",
        "--steps=30",
        "--eval_steps=5",
        "--jit=off",
        "--threads=2",
        "--shards=1",
    )


def run(*arguments) -> None:
    """Runs `trainer ARGUMENTS`, which must succeed."""
    answer = commands.call(*arguments)
    assert answer.code == 0, answer.err
