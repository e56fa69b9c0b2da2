"""What CI runs, with a stand-in for scripts/test.sh."""

import pathlib
import shutil
import subprocess

import pytest

RUN = pathlib.Path(__file__).resolve().parents[2] / ".ci/run"
TESTS = """\
#!/bin/sh
case "$*" in
"") echo dots; echo "==== closing line ===="; exit $SUITE ;;
*) echo "on a cluster: $*"; echo "==== another line ===="; exit $CLUSTER ;;
esac
"""


@pytest.fixture
def ran(tmp_path):
    """Returns a function that runs .ci/run: exit codes of both parts, seconds -> code, lines."""
    for folder in (".ci", "scripts"):
        (tmp_path / folder).mkdir()
    shutil.copy(RUN, tmp_path / ".ci/run")
    (tmp_path / "scripts/test.sh").write_text(TESTS)
    (tmp_path / "scripts/test.sh").chmod(0o755)

    def run(suite: int, cluster: int = 0, seconds: int = 0) -> tuple[int, list[str]]:
        done = subprocess.run(
            [tmp_path / ".ci/run"],
            capture_output=True,
            text=True,
            # Bash counts SECONDS on from there.
            env={
                "PATH": "/usr/local/bin:/usr/bin:/bin",
                "SUITE": str(suite),
                "CLUSTER": str(cluster),
                "SECONDS": str(seconds),
            },
        )
        return done.returncode, done.stdout.splitlines()

    return run


@pytest.mark.parametrize(
    "suite, cluster, seconds, code, told",
    [
        (0, 0, 0, 0, "on a cluster: --cluster_quick"),
        (0, 1, 1200, 1, "on a cluster: --cluster_quick"),
        (1, 0, 0, 1, "left out: the suite failed"),
        (0, 1, 1480, 1, "on a cluster: --cluster_quick"),
        (0, 1, 1510, 0, "left out: the suite took 151"),
        (0, 124, 0, 0, "cut short: not done after 480 s"),
        (0, 124, 1445, 0, "cut short: not done after 29"),
    ],
)
def test_the_suite_comes_first_and_last_and_a_cluster_takes_only_time_that_is_left(
    ran, suite, cluster, seconds, code, told
):
    found, lines = ran(suite, cluster, seconds)
    assert found == code
    assert lines[-1] == "==== closing line ===="
    assert any(told in line for line in lines), lines
