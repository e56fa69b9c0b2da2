import pytest

from trainer import exit_codes


def test_the_codes_are_those_that_clusters_and_scripts_rely_on():
    assert exit_codes.BY_NAME == {
        "done": 0,
        "bug": 1,
        "usage": 2,
        "data": 3,
        "diverged": 4,
        "in_use": 5,
        "storage": 74,
        "peer_lost": 75,
        "restart_limit": 76,
        "interrupted": 130,
        "terminated": 143,
    }
    assert len(exit_codes.TABLE) == len(exit_codes.BY_NAME) == len(set(exit_codes.BY_NAME.values()))


@pytest.mark.parametrize(
    "error, name",
    [
        (exit_codes.UsageError, "usage"),
        (exit_codes.DataError, "data"),
        (exit_codes.DivergedError, "diverged"),
        (exit_codes.FolderInUseError, "in_use"),
        (exit_codes.StorageError, "storage"),
        (exit_codes.PeerLostError, "peer_lost"),
        (exit_codes.TakenOverError, "peer_lost"),
    ],
)
def test_each_expected_failure_ends_with_its_own_code(error, name):
    assert issubclass(error, exit_codes.TrainerError)
    assert error("message").code == exit_codes.BY_NAME[name]


def test_every_expected_failure_is_in_this_file():
    assert {error.__name__ for error in exit_codes.TrainerError.__subclasses__()} == {
        "UsageError",
        "DataError",
        "DivergedError",
        "FolderInUseError",
        "PeerLostError",
        "StorageError",
        "TakenOverError",
    }
