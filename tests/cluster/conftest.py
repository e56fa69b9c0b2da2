import subprocess

import pytest

from tests.cluster import kit


@pytest.fixture(scope="session", autouse=True)
def cluster(request):
    """Starts the cluster and builds the image of this tree; a cluster that was up stays up.

    With --cluster_quick a cluster that does not start is no failure: CI runs on any machine.
    """
    if kit.why_not():
        pytest.skip(kit.why_not())
    was_up = kit.is_up()
    try:
        if not was_up:
            kit.kit("up")
        kit.kit(
            "build", kit.IMAGE.partition("/")[2], ".", "-f", "k8s/Dockerfile", "--target", "cpu"
        )
        yield
    except (subprocess.SubprocessError, OSError) as problem:
        if not request.config.getoption("--cluster_quick"):
            raise
        pytest.skip(f"no cluster: {problem}")
    finally:
        if not was_up:
            kit.kit("down")


@pytest.fixture(scope="module")
def namespace(cluster):
    """Makes a namespace for the tests of a module."""
    made = kit.Namespace.make("restricted")
    yield made
    made.delete()


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory):
    """Returns a function: number of workers -> digest of an undisturbed run on this machine."""
    folder, known = tmp_path_factory.mktemp("undisturbed"), {}

    def of(workers: int) -> str:
        if workers not in known:
            known[workers] = kit.local_digest(workers, folder)
        return known[workers]

    return of
