"""Every way in which a run can end: the last line of its journal and the exception that leaves."""

import signal

import pytest
import tensorflow as tf

from tests import fake_run
from trainer import outcome
from trainer.exit_codes import DivergedError, PeerLostError, StorageError
from trainer.model_folder import journal
from trainer.stopping import StopRequest


def ended(folder, problem=None, code=0, stop=None, workers=1) -> tuple[BaseException | None, dict]:
    """(the exception that leaves, the last line of the journal) of a run that ends like this."""
    path, left = folder / "journal.jsonl", None
    try:
        with outcome.recorded(
            journal.Journal(path, 1), stop or StopRequest(), folder, (0, workers)
        ) as end:
            if problem:
                raise problem
            end.code = code
    except BaseException as found:
        left = found
    [line] = journal.read(path)
    assert line["event"] == "stop" and line["seconds"] >= 0
    return left, line


def test_a_run_that_is_done_says_so(tmp_path):
    left, line = ended(tmp_path, code=0)
    assert left is None and (line["code"], line["reason"]) == (0, "done")


def test_a_stopped_run_names_the_signal(tmp_path):
    left, line = ended(tmp_path, code=143, stop=fake_run.stopped(signal.SIGTERM))
    assert left is None and (line["code"], line["reason"]) == (143, "SIGTERM")


def test_workers_that_form_a_new_gang_are_not_a_failure(tmp_path):
    left, line = ended(tmp_path, code=75, stop=fake_run.stopped(signal.SIGHUP))
    assert left is None
    assert (line["code"], line["reason"], line["meets_again"]) == (
        75,
        "the workers meet again",
        True,
    )


def test_an_expected_error_keeps_its_code_and_message(tmp_path):
    problem = DivergedError("step 3: the loss is nan")
    left, line = ended(tmp_path, problem)
    assert left is problem and (line["code"], line["reason"]) == (4, "step 3: the loss is nan")


LOST = tf.errors.UnavailableError(None, None, "Collective ops is aborted by: no peer\nmore")


def test_a_lost_worker_ends_the_others_with_its_own_error(tmp_path):
    left, line = ended(tmp_path, LOST, workers=3)
    assert isinstance(left, PeerLostError) and left.__cause__ is LOST
    assert "worker 0 of 3 lost another worker (no peer)" in str(left)
    assert (line["code"], line["reason"]) == (75, "no peer")


def test_the_same_error_without_other_workers_is_a_bug(tmp_path):
    left, line = ended(tmp_path, LOST, workers=1)
    assert left is LOST and (line["code"], line["reason"]) == (1, "unexpected exception")


def test_a_failed_write_is_a_storage_error_that_names_the_folder(tmp_path):
    left, line = ended(tmp_path, OSError(28, "No space left on device"))
    assert isinstance(left, StorageError)
    assert f"No space left on device; the model folder {tmp_path} must stay writable" in str(left)
    assert line["code"] == 74 and "No space left on device" in line["reason"]


def test_a_bug_leaves_the_last_lines_of_its_traceback(tmp_path):
    problem = ValueError("two\nlines")
    left, line = ended(tmp_path, problem)
    assert left is problem and (line["code"], line["reason"]) == (1, "ValueError: two\nlines")
    assert line["last_lines"][-2:] == ["ValueError: two", "lines"]
    assert len(line["last_lines"]) <= outcome.LAST_LINES


def test_a_second_interrupt_is_recorded_as_a_stop_without_checkpoint(tmp_path):
    left, line = ended(tmp_path, KeyboardInterrupt())
    assert isinstance(left, KeyboardInterrupt)
    assert (line["code"], line["reason"]) == (130, "stopped at once, without a checkpoint")


@pytest.mark.parametrize("problem", [SystemExit(9), GeneratorExit()])
def test_any_other_end_is_a_bug(tmp_path, problem):
    left, line = ended(tmp_path, problem)
    assert left is problem and (line["code"], line["reason"]) == (1, "unexpected exception")
