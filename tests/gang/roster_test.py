"""The roster of a gang, from flags, TF_CONFIG and the variables of Kubernetes."""

import dataclasses
import json

import pytest

from trainer.exit_codes import UsageError
from trainer.flags.run import Gang
from trainer.gang import roster
from trainer.gang.roster import Roster


def tf_config(tasks, kind="worker", index=0, **more) -> dict[str, str]:
    return {
        "TF_CONFIG": json.dumps({"cluster": tasks, "task": {"type": kind, "index": index}, **more})
    }


THREE = {"worker": ["a:2222", "b:2222", "c:2222"]}
CHIEF = {"worker": ["a:2222", "b:2222"], "chief": ["m:2222"]}
FLAGS = {"num_workers": 3, "hosts": "w-{index}.w:2222"}
ADDRESSES = ("w-0.w:2222", "w-1.w:2222", "w-2.w:2222")


@pytest.mark.parametrize(
    "flags, environ, expected",
    [
        ({}, {}, Roster(0, ())),
        ({"num_workers": 1}, {}, Roster(0, ())),
        (
            {"num_workers": 1, "hosts": "w-{index}:2222"},
            {"JOB_COMPLETION_INDEX": "0"},
            Roster(0, ()),
        ),
        # an Indexed Job of independent runs
        ({}, {"JOB_COMPLETION_INDEX": "3"}, Roster(0, ())),
        ({**FLAGS, "worker_index": 2}, {}, Roster(2, ADDRESSES)),
        (
            {"num_workers": 2, "worker_index": 0, "hosts": "localhost:1,localhost:2"},
            {},
            Roster(0, ("localhost:1", "localhost:2")),
        ),
        (
            {"num_workers": 2, "worker_index": 1, "hosts": "127.0.0.1:700{index}"},
            {},
            Roster(1, ("127.0.0.1:7000", "127.0.0.1:7001")),
        ),
        (
            {"num_workers": 2, "worker_index": 1, "hosts": "[::1]:1,[::1]:2"},
            {},
            Roster(1, ("[::1]:1", "[::1]:2")),
        ),
        # an Indexed Job of Kubernetes
        (FLAGS, {"JOB_COMPLETION_INDEX": "1"}, Roster(1, ADDRESSES)),
        ({**FLAGS, "worker_index": 2}, {"JOB_COMPLETION_INDEX": "1"}, Roster(2, ADDRESSES)),
        (
            {**FLAGS, "chief_address": "w-chief:2222"},
            {"JOB_COMPLETION_INDEX": "1", "POD_IP": "10.1.2.3"},
            Roster(1, ADDRESSES, "w-chief:2222", "10.1.2.3"),
        ),
        (
            FLAGS,
            {"JOB_COMPLETION_INDEX": "1", "POD_IP": "FD00::0:1"},
            Roster(1, ADDRESSES, "", "fd00::1"),
        ),
        # workers that only this machine reaches, in whatever pod
        (
            {"num_workers": 2, "worker_index": 0, "hosts": "localhost:1,localhost:2"},
            {"POD_IP": "10.1.2.3"},
            Roster(0, ("localhost:1", "localhost:2")),
        ),
        # SkyPilot users, and TFJob without a chief
        ({}, tf_config(THREE, index=1), Roster(1, THREE["worker"])),
        ({}, tf_config(THREE, index=1, environment="cloud"), Roster(1, THREE["worker"])),
        ({}, tf_config(THREE, index=1) | {"JOB_COMPLETION_INDEX": "2"}, Roster(1, THREE["worker"])),
        # TFJob, Vertex AI
        ({}, tf_config(CHIEF, "chief"), Roster(0, ("m:2222", "a:2222", "b:2222"))),
        ({}, tf_config(CHIEF, "worker", 1), Roster(2, ("m:2222", "a:2222", "b:2222"))),
        (
            {},
            tf_config({"master": ["m:1"], "worker": ["a:1"]}, "worker", 0),
            Roster(1, ("m:1", "a:1")),
        ),
        # Vertex AI, one machine
        (
            {},
            tf_config(
                {"chief": ["cmle-training-workerpool0-1:2222"]}, "chief", environment="cloud"
            ),
            Roster(0, ()),
        ),
        ({}, tf_config({"worker": ["a:2222"]}), Roster(0, ())),
        ({}, tf_config({"worker": {"0": "a:1", "1": "b:1"}}, index=1), Roster(1, ("a:1", "b:1"))),
        ({}, tf_config({"worker": ["a:1", "b:1"], "ps": []}, index=1), Roster(1, ("a:1", "b:1"))),
        ({}, {"TF_CONFIG": ""}, Roster(0, ())),
        ({}, {"TF_CONFIG": "{}"}, Roster(0, ())),
        (
            FLAGS,
            {"TF_CONFIG": '{"environment": "cloud"}', "JOB_COMPLETION_INDEX": "1"},
            Roster(1, ADDRESSES),
        ),
        (
            {"num_workers": 3, "worker_index": 1, "hosts": "a:2222,b:2222,c:2222"},
            tf_config(THREE, index=1),
            Roster(1, THREE["worker"]),
        ),
    ],
)
def test_flags_and_environment_describe_a_roster(flags, environ, expected):
    found = roster.resolve(Gang(**flags), environ)
    assert found == dataclasses.replace(expected, addresses=tuple(expected.addresses))
    assert found.workers == max(1, len(expected.addresses))


@pytest.mark.parametrize(
    "flags, environ, message",
    [
        (
            {"num_workers": 3, "worker_index": 1},
            {},
            "--num_workers=3: several workers need --hosts",
        ),
        (FLAGS, {}, "--worker_index=-1: each of several workers needs its index"),
        (
            {**FLAGS, "worker_index": 3},
            {},
            r"worker index 3: with 3 worker\(s\) it must lie in \[0, 3\)",
        ),
        ({"worker_index": 1}, {}, r"worker index 1: with 1 worker\(s\)"),
        (FLAGS, {"JOB_COMPLETION_INDEX": "3"}, "worker index 3"),
        (FLAGS, {"JOB_COMPLETION_INDEX": "x"}, "JOB_COMPLETION_INDEX=x: it must be a whole number"),
        (
            {"num_workers": 3, "hosts": "a:1,b:1", "worker_index": 0},
            {},
            r"names 2 worker\(s\), but --num_workers=3 means 3",
        ),
        (
            {"hosts": "a:1,b:1", "worker_index": 0},
            {},
            r"names 2 worker\(s\), but --num_workers=0 means 1",
        ),
        (
            {"num_workers": 2, "hosts": "a,b", "worker_index": 0},
            {},
            "a: the address of a worker must be HOST:PORT",
        ),
        (
            {"num_workers": 2, "hosts": "a:1,b:99999", "worker_index": 0},
            {},
            "b:99999: the address of a worker must be HOST:PORT",
        ),
        (
            {**FLAGS, "worker_index": 0, "chief_address": "w-chief"},
            {},
            "w-chief: the address of a worker must be HOST:PORT. Correct --hosts, --chief_address",
        ),
        (
            {**FLAGS, "worker_index": 0},
            {"POD_IP": "$(POD_IP)"},
            r"POD_IP=\$\(POD_IP\): it must be the IP address of this worker",
        ),
        (
            {"num_workers": 2, "hosts": "a:1,a:1", "worker_index": 0},
            {},
            "two workers cannot have the same address",
        ),
        (
            {**FLAGS, "worker_index": 0, "min_workers": 4},
            {},
            r"--min_workers=4: the job has 3 worker\(s\)",
        ),
        ({"num_workers": 2}, tf_config(THREE), "--num_workers=2: TF_CONFIG has 3"),
        ({"worker_index": 1}, tf_config(THREE), "--worker_index=1: TF_CONFIG has 0"),
        (
            {"hosts": "w-{index}:1"},
            tf_config(THREE),
            "--hosts=w-0:1,w-1:1,w-2:1: TF_CONFIG has a:2222,b:2222,c:2222",
        ),
        ({}, tf_config({**THREE, "ps": ["p:1"]}), "type ps: parameters live on the workers"),
        (
            {},
            tf_config({"worker": ["a:1", "b:1"]}, "evaluator"),
            "type evaluator: the workers evaluate",
        ),
        ({}, tf_config({**THREE, "evaluator": ["e:1"]}), "type evaluator"),
        (
            {},
            tf_config({"trainer": ["a:1"]}, "trainer"),
            "type trainer: it must be one of master, chief, worker",
        ),
        ({}, tf_config(THREE, index=3), "its task is worker 3, but its cluster lists 3"),
        ({}, tf_config(THREE, "chief"), "its task is chief 0, but its cluster lists 0"),
        ({}, {"TF_CONFIG": "{"}, "TF_CONFIG={: cannot be read"),
        ({}, {"TF_CONFIG": "[]"}, "cannot be read"),
        ({}, {"TF_CONFIG": '{"cluster": {"worker": "a:1"}}'}, "'a:1' is not a list of addresses"),
    ],
)
def test_incomplete_or_contradicting_settings_are_refused(flags, environ, message):
    with pytest.raises(UsageError, match=message):
        roster.resolve(Gang(**flags), environ)


@pytest.mark.parametrize(
    "address, expected",
    [
        ("a.b:22", ("a.b", 22)),
        ("10.0.0.1:2222", ("10.0.0.1", 2222)),
        ("[fe80::1]:5", ("fe80::1", 5)),
    ],
)
def test_an_address_is_host_and_port(address, expected):
    assert roster.host_and_port(address) == expected


@pytest.mark.parametrize(
    "strategy, workers, message",
    [
        ("auto", 1, None),
        ("auto", 3, None),
        ("multi_worker", 2, None),
        ("one_device", 1, None),
        ("mirrored", 1, None),
        ("tpu", 1, None),
        ("multi_worker", 1, "there is one worker"),
        ("one_device", 2, "it is for one worker, but there are 2"),
        ("mirrored", 2, "Use --strategy=multi_worker"),
        ("tpu", 3, "there are 3"),
    ],
)
def test_a_strategy_fits_the_number_of_workers(strategy, workers, message):
    if message is None:
        roster.check_strategy(strategy, workers)
    else:
        with pytest.raises(UsageError, match=message):
            roster.check_strategy(strategy, workers)
