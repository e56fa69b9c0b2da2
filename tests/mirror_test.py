"""`tests/` mirrors `trainer/`: every module has its tests, and a new module brings some."""

import pathlib

import pytest

TESTS = pathlib.Path(__file__).resolve().parent
PACKAGE = TESTS.parent / "trainer"

# Tests of the whole program or of the repository, each with the question that it answers.
WHOLE_PROGRAM = {
    "cli_bad_input_test.py": "does every mistake on a command line end with a message and code 2?",
    "cluster/copies_test.py": "do a real cluster's pods copy what they need and what they made?",
    "cluster/faults_test.py": "does a real cluster's job survive what clusters do?",
    "cluster/shapes_test.py": "does a real cluster accept every shape of job?",
    "cluster/waiting_test.py": "is it said why a real cluster does not start a job?",
    "devices/gpu_kernels_test.py": "does a step run on a GPU, and not on its host?",
    "devices/tpu_compiler_test.py": "does a step compile for real TPUs?",
    "digests_test.py": "are the results those of the version before?",
    "durability_test.py": "does the kernel see writes, syncs and renames in the safe order?",
    "docs_test.py": "is what the documents say true?",
    "faults/failing_storage_test.py": "is nothing lost or wrong when the storage fails?",
    "faults/flipped_bits_test.py": "is a flipped bit of a small file noticed, or without effect?",
    "faults/full_disk_test.py": "is nothing lost or wrong when the disk is really full?",
    "faults/gang_faults_test.py": "does a gang recover from a hundred faults?",
    "faults/kills_test.py": "is nothing lost by a kill at any call that changes files?",
    "faults/signals_test.py": "does Ctrl-C on a local gang save, in whatever order it arrives?",
    "faults/strangers_test.py": "does a stranger at a port learn nothing and end nothing?",
    "gang/network_cut_test.py": "does a gang survive a cut network?",
    "launch/image_test.py": "does the image hold what a pod needs?",
    "layers_test.py": "do imports point down?",
    "models/conformance_test.py": "does every recurrence have every property?",
    "mirror_test.py": "has every module its tests?",
    "packaging_test.py": "does the package install and carry its files?",
    "prepare/language_model_test.py": "does a text become what a language model learns from?",
    "prepare/tagging_test.py": "do tagged sentences become what a tagger learns from?",
    "prepare/translation_test.py": "do pairs of texts become what a translator learns from?",
    "resume_test.py": "is a resumed run the same run?",
    "scripts/ci_test.py": "does CI end with the closing line of the suite, and in its time?",
    "scripts/moving_mnist_test.py": "do digits move as the published recipe says?",
    "scripts/ngram_test.py": "is the 3-gram that language models must beat the right one?",
    "scripts/prove_checks_test.py": "do the checks of a GPU notice its faults?",
    "scripts/prove_device_test.py": "does the device proof keep working?",
    "scripts/prove_judge_test.py": "does the device proof judge right?",
    "smoke_test.py": "do the scripts work for a newcomer?",
    "steps/frames_test.py": "do steps over frames agree in any division?",
    "steps/pairs_test.py": "do steps over pairs agree in any division?",
    "steps/streams_test.py": "do steps carry the states of streams as one long pass does?",
    "takeover_test.py": "is a model folder never written by two runs?",
    "workers_test.py": "do several workers compute what one does?",
}


def modules() -> set[str]:
    """Paths below `trainer/` of all modules."""
    paths = {path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py")}
    return {path for path in paths if not path.endswith("__init__.py")}


def collected() -> set[str]:
    """Paths below `tests/` of all files that pytest collects."""
    return {path.relative_to(TESTS).as_posix() for path in TESTS.rglob("*_test.py")}


@pytest.mark.parametrize("module", sorted(modules()))
def test_every_module_has_its_test_file(module):
    assert module.replace(".py", "_test.py") in collected()


@pytest.mark.parametrize("path", sorted(collected()))
def test_every_test_file_has_its_module_or_tests_the_whole_program(path):
    assert (path in WHOLE_PROGRAM) != (path.replace("_test.py", ".py") in modules())


def test_no_whole_program_test_is_named_that_is_not_there():
    assert WHOLE_PROGRAM.keys() <= collected()
