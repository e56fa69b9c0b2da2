"""A Cloud TPU VM job as it runs, with a stand-in for gcloud that fails where a test wants it to."""

import json
import os
import signal
import sys
import textwrap
import threading
import time

import pytest

from trainer.exit_codes import StorageError, TrainerError, UsageError
from trainer.launch import tpu_vm, tpu_vm_run

JOB = tpu_vm.TpuVmJob(
    "imdb",
    "us-docker.pkg.dev/p/r/rnn-trainer:1-tpu",
    "us-west4-a",
    "v5litepod-8",
    "gs://b/data",
    "gs://b/model",
    ("--epochs=3", "--cell=gru"),
    project="p",
    service_account="s@p.iam.gserviceaccount.com",
    spot=True,
)
ACTIVE = {
    "state": {"state": "ACTIVE"},
    "tpu": {"nodeSpec": [{"node": {"acceleratorType": "v5litepod-8"}}]},
}
ABSENT = {
    "code": 1,
    "err": "ERROR: (gcloud.compute.tpus.queued-resources.describe) NOT_FOUND: Resource 'imdb' was "
    "not found",
}
WHOLE = ["describe", "create", "describe", "start", "follow", "result", "fetch", "delete"]

GCLOUD = textwrap.dedent("""\
    #!{python} -IS
    import json, sys, time
    folder = {folder!r}
    steps, answers = json.load(open(folder + "/steps")), json.load(open(folder + "/answers"))
    (name,) = [name for name, argv in steps.items() if argv[1:] == sys.argv[1:]]
    before = open(folder + "/calls").read().split()
    with open(folder + "/calls", "a") as file:
        file.write(name + "\\n")
    table = answers.get(name, [{{}}])
    answer = table[min(before.count(name), len(table) - 1)]
    print(answer.get("out", ""), end="", flush=True)
    print(answer.get("err", ""), end="", file=sys.stderr, flush=True)
    time.sleep(answer.get("seconds", 0))
    sys.exit(answer.get("code", 0))
    """)


class Gcloud:
    """A program `gcloud` alone on the PATH: it knows the calls of a plan, notes which came, and
    answers from a table.
    """

    def __init__(self, folder, monkeypatch):
        self.folder = folder
        program = folder / "bin/gcloud"
        program.parent.mkdir()
        program.write_text(GCLOUD.format(python=sys.executable, folder=str(folder)))
        program.chmod(0o755)
        (folder / "calls").write_text("")
        (folder / "steps").write_text(
            json.dumps({step.name: step.argv for step in tpu_vm.plan(JOB)})
        )
        monkeypatch.setenv("PATH", str(program.parent))
        monkeypatch.setattr(tpu_vm, "POLL_SECONDS", 0.01)

    def answers(self, **tables):
        """{step: [answer to its first call, to its second, ...]}; the last one goes on. Without a
        table: success.
        """
        (self.folder / "answers").write_text(
            json.dumps(
                {"describe": [ABSENT, described("ACTIVE")], "result": [{"out": "0\n"}], **tables}
            )
        )

    @property
    def calls(self) -> list[str]:
        return (self.folder / "calls").read_text().split()


def described(state: str, **more) -> dict:
    return {"out": json.dumps({**ACTIVE, "state": {"state": state, **more}})}


@pytest.fixture
def gcloud(tmp_path, monkeypatch):
    return Gcloud(tmp_path, monkeypatch)


def test_a_job_is_requested_started_followed_fetched_and_deleted(gcloud, capfd):
    gcloud.answers(follow=[{"out": "epoch 1 step 782\n"}])
    assert tpu_vm_run.run(JOB) == 0
    assert gcloud.calls == WHOLE
    assert capfd.readouterr().out == "epoch 1 step 782\n"


@pytest.mark.parametrize("code", [0, 2, 76, 143])
def test_the_exit_code_is_that_of_the_container(gcloud, code):
    gcloud.answers(result=[{"out": f"{code}\n"}])
    assert tpu_vm_run.run(JOB) == code


def test_a_queued_request_is_waited_for(gcloud):
    states = ["CREATING", "ACCEPTED", "WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"]
    gcloud.answers(describe=[ABSENT, *map(described, states)])
    assert tpu_vm_run.run(JOB) == 0
    assert gcloud.calls.count("describe") == 6 and gcloud.calls[-5:] == WHOLE[-5:]


@pytest.mark.parametrize("state", ["WAITING_FOR_RESOURCES", "ACTIVE"])
def test_a_request_of_this_name_is_used_again(gcloud, state):
    gcloud.answers(describe=[described(state), described("ACTIVE")])
    assert tpu_vm_run.run(JOB) == 0
    assert "create" not in gcloud.calls and gcloud.calls[-1] == "delete"


@pytest.mark.parametrize("state", ["FAILED", "SUSPENDED"])
def test_what_is_left_of_an_earlier_request_is_deleted_first(gcloud, state):
    gcloud.answers(describe=[described(state), described("ACTIVE")])
    assert tpu_vm_run.run(JOB) == 0
    assert gcloud.calls == ["describe", "delete", *WHOLE[1:]]


def test_a_request_of_this_name_for_another_tpu_is_left_alone(gcloud):
    gcloud.answers(
        describe=[
            {
                "out": json.dumps(
                    {**ACTIVE, "tpu": {"nodeSpec": [{"node": {"acceleratorType": "v6e-1"}}]}}
                )
            }
        ]
    )
    with pytest.raises(UsageError, match="--tpu=v5litepod-8: a request imdb exists with v6e-1"):
        tpu_vm_run.run(JOB)
    assert gcloud.calls == ["describe"]


def test_without_a_login_nothing_is_made_or_deleted(gcloud):
    gcloud.answers(
        describe=[
            {"code": 1, "err": "ERROR: You do not currently have an active account selected."}
        ]
    )
    with pytest.raises(UsageError, match="active account"):
        tpu_vm_run.run(JOB)
    assert gcloud.calls == ["describe"]


# {what fails: answers, error, what it says, calls after the ones before}
FAILURES = {
    "the request is refused": (
        {
            "create": [
                {
                    "code": 1,
                    "err": "ERROR: RESOURCE_EXHAUSTED: Quota limit 'TPUV5sLitepod' has been "
                    "exceeded.",
                }
            ]
        },
        UsageError,
        "Quota limit",
        ["describe", "create", "delete"],
    ),
    "no TPU in time": (
        {
            "describe": [
                ABSENT,
                described("FAILED", failedData={"error": {"message": "valid until expired"}}),
            ]
        },
        tpu_vm_run.LostError,
        r"FAILED \(valid until expired\)",
        ["describe", "create", "describe", "delete"],
    ),
    "taken away while it waits": (
        {"describe": [ABSENT, described("SUSPENDING")]},
        tpu_vm_run.LostError,
        "SUSPENDING",
        ["describe", "create", "describe", "delete"],
    ),
    "removed by somebody": (
        {"describe": [ABSENT]},
        tpu_vm_run.LostError,
        "gone",
        ["describe", "create", "describe", "delete"],
    ),
    "describe fails for good": (
        {"describe": [ABSENT, {"code": 1, "err": "network is down"}]},
        UsageError,
        "network is down",
        ["describe", "create", *["describe"] * 3, "delete"],
    ),
    "start fails for good": (
        {"start": [{"code": 1, "err": "pull access denied"}]},
        UsageError,
        "pull access denied",
        ["describe", "create", "describe", *["start"] * 3, "stop", "fetch", "delete"],
    ),
    "preempted": (
        {
            "follow": [{"code": 255}],
            "describe": [ABSENT, described("ACTIVE"), described("SUSPENDED")],
        },
        tpu_vm_run.LostError,
        "taken away.*Run the same command again",
        [
            "describe",
            "create",
            "describe",
            "start",
            "follow",
            "describe",
            "stop",
            "fetch",
            "delete",
        ],
    ),
    "the connection does not hold": (
        {"follow": [{"code": 255}]},
        tpu_vm_run.LostError,
        "cannot be reached",
        [
            "describe",
            "create",
            "describe",
            "start",
            *["follow", "describe"] * 3,
            "stop",
            "fetch",
            "delete",
        ],
    ),
    "the result cannot be had": (
        {"result": [{"code": 255}]},
        tpu_vm_run.LostError,
        "cannot be reached",
        [
            "describe",
            "create",
            "describe",
            "start",
            *["follow", "result", "describe"] * 3,
            "stop",
            "fetch",
            "delete",
        ],
    ),
    "fetch fails for good": (
        {"fetch": [{"code": 1, "err": "403 does not have storage.objects.create access"}]},
        StorageError,
        "403.*write access",
        [*WHOLE[:6], *["fetch"] * 3, "delete"],
    ),
    "fetch fails after another failure": (
        {"start": [{"code": 1, "err": "no such image"}], "fetch": [{"code": 1}]},
        UsageError,
        "no such image",
        ["describe", "create", "describe", *["start"] * 3, "stop", *["fetch"] * 3, "delete"],
    ),
    "delete fails for good": (
        {"delete": [{"code": 1, "err": "permission denied"}]},
        TrainerError,
        "permission denied.*COSTS MONEY.*gcloud compute tpus queued-resources delete imdb",
        [*WHOLE[:-1], *["delete"] * 3],
    ),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_whatever_fails_the_request_is_deleted_at_the_end(gcloud, failure):
    answers, error, told, calls = FAILURES[failure]
    gcloud.answers(**answers)
    with pytest.raises(error, match=f"(?s){told}"):
        tpu_vm_run.run(JOB)
    assert gcloud.calls == calls


@pytest.mark.parametrize(
    "answers, calls",
    [
        ({"start": [{"code": 255}, {}]}, [*WHOLE[:4], "start", *WHOLE[4:]]),
        (
            {"describe": [ABSENT, {"code": 1}, described("ACTIVE")]},
            [*WHOLE[:3], "describe", *WHOLE[3:]],
        ),
        ({"follow": [{"code": 255}, {}]}, [*WHOLE[:5], "describe", *WHOLE[4:]]),
        (
            {
                "follow": [{"code": 255}, {}],
                "describe": [ABSENT, described("ACTIVE"), {"code": 1}, described("ACTIVE")],
            },
            [*WHOLE[:5], "describe", "describe", *WHOLE[4:]],
        ),
        ({"fetch": [{"code": 255}, {}]}, [*WHOLE[:7], "fetch", "delete"]),
        ({"delete": [{"code": 1, "err": "UNAVAILABLE"}, {}]}, [*WHOLE, "delete"]),
        ({"delete": [{"code": 1, "err": "NOT_FOUND"}]}, WHOLE),
    ],
)
def test_one_lost_connection_changes_nothing(gcloud, answers, calls):
    gcloud.answers(**answers)
    assert tpu_vm_run.run(JOB) == 0
    assert gcloud.calls == calls


def test_connections_that_lasted_long_may_be_lost_any_number_of_times(gcloud, monkeypatch):
    monkeypatch.setattr(tpu_vm_run, "CALM_SECONDS", 0.0)
    gcloud.answers(follow=[{"code": 255}] * 2 * tpu_vm_run.TRIES + [{}])
    assert tpu_vm_run.run(JOB) == 0


@pytest.mark.parametrize(
    "busy_with, calls",
    [
        ("create", ["describe", "create", "delete"]),
        ("start", ["describe", "create", "describe", "start", "stop", "fetch", "delete"]),
        (
            "follow",
            ["describe", "create", "describe", "start", "follow", "stop", "fetch", "delete"],
        ),
    ],
)
def test_ctrl_c_stops_the_container_fetches_and_deletes(gcloud, busy_with, calls):
    gcloud.answers(**{busy_with: [{"seconds": 60}]})
    with interrupted_at(gcloud, busy_with), pytest.raises(KeyboardInterrupt):
        tpu_vm_run.run(JOB)
    assert gcloud.calls == calls


def test_a_second_ctrl_c_does_not_keep_the_tpu(gcloud):
    gcloud.answers(follow=[{"seconds": 60}], stop=[{"seconds": 1}])
    with (
        interrupted_at(gcloud, "follow"),
        interrupted_at(gcloud, "stop"),
        pytest.raises(KeyboardInterrupt),
    ):
        tpu_vm_run.run(JOB)
    assert gcloud.calls[-3:] == ["stop", "fetch", "delete"]


class interrupted_at:
    """Sends SIGINT to this process when the stand-in is at a call of `name`."""

    def __init__(self, gcloud: Gcloud, name: str):
        self._thread = threading.Thread(target=self._wait_and_send, args=(gcloud, name))

    def _wait_and_send(self, gcloud, name):
        deadline = time.monotonic() + 30
        while name not in gcloud.calls and time.monotonic() < deadline:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    def __enter__(self):
        self._thread.start()

    def __exit__(self, *problem):
        self._thread.join()


def test_without_gcloud_the_error_names_its_download(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        UsageError, match="gcloud is not on the PATH.*cloud.google.com/sdk/docs/install"
    ):
        tpu_vm_run.run(JOB)
