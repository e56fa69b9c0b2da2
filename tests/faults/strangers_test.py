"""Strangers at the ports of a gang: whatever they send, they learn nothing and end nothing.

The inputs follow from a seed: 2,000 by default, 10,000 with --slow.
"""

import asyncio
import copy
import errno
import json
import pathlib
import random
import re
import socket
import time

import pytest

from tests import commands, datasets
from tests.gang.links_test import TOKEN, Worker, closed, free_addresses, opened, together
from tests.gang.messages_test import GOOD
from tests.launch.isolation_test import addresses as addresses_of_this_machine
from trainer import channel
from trainer.gang import links, member, messages, proof

COUNTS = [2_000, pytest.param(10_000, marks=pytest.mark.slow)]
GREETING = {"kind": "greet", "program": "rnn-trainer", "protocol": links.PROTOCOL, "nonce": "n"}
VALUES = [
    None, True, -1, 2**70, 1.5, float("inf"), float("nan"), "", "x" * 300, "\ud800", "\x1b[2J", [],
    [[]], {}, {"a": {}}, [0, "a:1"], [[0, "a:1"]], "ready", 2, 15, 75, 143,
]  # fmt: skip


def mutated(message: dict, chance: random.Random) -> bytes:
    """Returns a line that resembles `message`: with other values, fields or bytes."""
    changed = dict(message)
    for _ in range(chance.randint(0, 3)):
        what, field = chance.random(), chance.choice(list(message))
        if what < 0.6:
            changed[field] = chance.choice(VALUES)
        elif what < 0.8:
            changed.pop(field, None)
        else:
            changed[chance.choice(["kind", "more"])] = chance.choice([*VALUES, "end", "form"])
    line = bytearray(json.dumps(changed).encode())
    for _ in range(chance.choice([0, 0, 0, 1, 5])):
        line[chance.randrange(len(line))] = chance.randrange(256)
    line = bytes(line).replace(b"\n", b" ")
    if chance.random() < 0.1:
        depth = chance.choice([5, 1_000, 100_000])
        line = chance.choice([b"[", b'["', b'{"a":', b'{"kind":[']) * depth + line
    if chance.random() < 0.1:
        line = line[: chance.randrange(len(line) + 1)]
    return line


# --- bytes at the port ----------------------------------------------------------------------------


def said(chance: random.Random) -> bytes:
    """Returns what a stranger sends on one connection."""
    greeting = messages.line(GREETING) if chance.random() < 0.6 else mutated(GREETING, chance)
    lines = [greeting, *(mutated(chance.choice(GOOD), chance) for _ in range(chance.randint(0, 3)))]
    if chance.random() < 0.3:  # Sealed, but with a token of the stranger's own.
        session = proof.Session(b"", "n", "n", calls=True)
        lines[1:] = [session.seal(line).rstrip(b"\n") for line in lines[1:]]
    if chance.random() < 0.05:
        lines.append(b"x" * (links.LONGEST_LINE + 100))
    return b"\n".join(lines) + chance.choice([b"", b"\n", b"\r\n"])


async def attack(address: str, text: bytes, chance: random.Random) -> bytes:
    """Sends `text` and returns the answer; some callers leave early, some with a reset."""
    reader, writer = await asyncio.open_connection(*address.split(":"))
    try:
        writer.write(text)
        if chance.random() < 0.2:
            writer.transport.abort()
            return b""
        writer.write_eof()
        return await asyncio.wait_for(reader.read(), 60)
    except OSError:
        return b""
    finally:
        writer.transport.abort()


@pytest.mark.parametrize("count", COUNTS)
@together
async def test_a_port_survives_strangers_and_tells_them_nothing(count, caplog):
    chance, addresses = random.Random(count), free_addresses(2)
    one, other = Worker(0, addresses, job="secret-job"), Worker(1, addresses, job="secret-job")
    await opened(one)
    began = time.monotonic()
    for _ in range(count // 20):
        texts = [said(chance) for _ in range(20)]
        for answer in await asyncio.gather(*(attack(addresses[0], text, chance) for text in texts)):
            # A greeting of fixed form, or nothing.
            assert re.fullmatch(
                rb'(\{"kind": "greet", "program": "rnn-trainer", "protocol": 3, '
                rb'"nonce": "[0-9a-f]{32}"\}\n)?',
                answer,
            )
    assert one.recorder.heard == []
    await opened(other)
    await one.until("link_up", 1)
    await closed(one, other)
    told = [record for record in caplog.records if "is not from a worker" in record.message]
    # They all have one address.
    assert 1 <= len(told) <= 1 + (time.monotonic() - began) / links.STRANGER_SECONDS
    assert not {"secret-job", TOKEN.decode()} & set(re.findall(r"[\w-]+", caplog.text))


@together
async def test_half_open_and_silent_connections_keep_no_worker_out(monkeypatch):
    addresses = free_addresses(2)
    one, other = Worker(0, addresses), Worker(1, addresses)
    await opened(one)
    host, port = addresses[0].split(":")
    callers = []
    for number in range(4 * links.MOST_UNPROVEN):
        caller = socket.create_connection((host, int(port)))
        if number % 2:
            caller.sendall(messages.line(GREETING)[: number % 60])
        callers.append(caller)
        await asyncio.sleep(0)
    await opened(other)
    await one.until("link_up", 1)
    assert len(one.links._unproven) <= links.MOST_UNPROVEN
    await closed(one, other)
    for caller in callers:
        caller.close()


@together
async def test_a_caller_that_sends_a_byte_at_a_time_is_closed_in_time(monkeypatch):
    monkeypatch.setattr(links, "HELLO_SECONDS", 0.3)
    addresses = free_addresses(2)
    (one,) = await opened(Worker(0, addresses))
    reader, writer = await asyncio.open_connection(*addresses[0].split(":"))
    with pytest.raises(OSError):
        while True:  # Each byte comes long before the limit.
            writer.write(b" ")
            await writer.drain()
            await asyncio.sleep(0.02)
    assert not one.links._unproven
    await closed(one)


@together
async def test_a_recorded_connection_says_nothing_when_it_is_played_again():
    """A forged or repeated `end` would end a job with a digest that nobody computed."""
    addresses = free_addresses(2)
    one, other = Worker(0, addresses), Worker(1, addresses)
    await opened(one)
    recorded = []
    host, port = addresses[0].split(":")

    async def relay(reader, writer):
        """Passes on both directions, and records what the caller sends."""
        to, into = await asyncio.open_connection(host, port)

        async def copy(source, sink, record):
            while block := await source.read(65536):
                record.append(block)
                sink.write(block)
            sink.write_eof()

        await asyncio.gather(copy(reader, into, recorded), copy(to, writer, []))

    middle = await asyncio.start_server(relay, "127.0.0.1", 0)
    there = middle.sockets[0].getsockname()
    other.links._roster = type(other.links._roster)(1, (f"127.0.0.1:{there[1]}", addresses[1]))
    await opened(other)
    await one.until("link_up", 1)
    other.links.send(0, {"kind": "end", "code": 0, "reason": "over", "line": "done"})
    await one.until("received", 1)
    await closed(other)
    await one.until("link_down", 1)
    heard = len(one.recorder.heard)
    again = Worker(1, addresses)
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(b"".join(recorded))
    writer.write_eof()
    answer = await reader.read()
    assert answer.count(b"\n") == 1  # Its greeting.
    assert len(one.recorder.heard) == heard
    writer.close()
    middle.close()
    await opened(again)
    await closed(one, again)


@together
async def test_a_stranger_at_a_workers_address_learns_nothing_of_the_caller():
    addresses = free_addresses(2)
    heard = []

    async def serve(reader, writer):
        heard.append(await reader.readline())
        writer.write(messages.line(GREETING) + b"\n")
        heard.append(await reader.readline())
        # Its own proof sent back, then a refusal that would end the job.
        writer.write(heard[-1])
        writer.write(b'{"kind": "refuse", "reason": "go away", "final": true}\n')
        heard.append(await reader.read())
        writer.close()

    server = await asyncio.start_server(serve, *addresses[0].split(":"))
    [other] = await opened(Worker(1, addresses, job="secret-job"))
    assert "not sealed with the token" in (await other.until("unreachable", 0))[2]
    assert {event[0] for event in other.recorder.heard} == {"unreachable"}
    assert b"secret-job" not in b"".join(heard)
    await closed(other)
    server.close()


# --- messages of a peer that can seal them --------------------------------------------------------


@pytest.mark.parametrize("count", COUNTS)
def test_a_line_is_a_whole_message_or_a_value_error(count):
    chance = random.Random(count)
    passed = 0
    for _ in range(count):
        try:
            message = messages.parse(mutated(chance.choice(GOOD), chance))
        except ValueError:
            continue
        passed += 1
        assert messages.parse(messages.line(message)) == message
    assert count / 10 < passed < count


@pytest.mark.parametrize("count", COUNTS)
def test_no_message_breaks_a_member(count):
    """Without a token file a stranger can send any message: it may end the job, never by a bug."""
    chance = random.Random(count)
    world = member.World(lambda workers: (2, 1), lambda: None, lambda: "w:1")
    kinds = [message for message in GOOD if message["kind"] not in ("hello", "beat")]
    for number in range(count // 20):
        one = member.Member(
            member.Rules(number % 3, ("a:1", "b:1", "c:1"), 1, 300.0, 60.0, 30.0, 10), world, 0.0
        )
        one.begin(0.0)
        for index in {0, 1, 2} - {number % 3}:
            one.link_up(index, 0.0)
        for now in range(20):
            try:
                message = messages.parse(mutated(chance.choice(kinds), chance))
            except ValueError:
                message = copy.deepcopy(chance.choice(kinds))
            if message["kind"] == "form":
                message["members"][0] = [number % 3, "w:1"]
            one.receive(chance.choice(list({0, 1, 2} - {number % 3})), message, float(now))
            one.tick(float(now))
            if any(isinstance(action, member.Exit) for action in one.take()):
                break


@pytest.mark.parametrize("count", COUNTS)
def test_no_bytes_break_the_channel_of_a_training_process(count):
    chance, rest = random.Random(count), b""
    beat = {"phase": "train", "step": 7}
    for _ in range(count):
        beats, rest = channel.beats(rest + mutated(beat, chance) + chance.choice([b"", b"\n"]))
        assert all(type(one["phase"]) is str and type(one["step"]) is int for one in beats)
        assert len(rest) <= channel.LONGEST_BEAT
    assert channel.beats(b'\n{"phase": "save"}\n')[0][-1] == {"phase": "save", "step": 0}


# --- TensorFlow's own port ------------------------------------------------------------------------


def children(pid: int) -> list[int]:
    """Returns the ids of the processes that process `pid` has started."""
    return list(map(int, pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


def listening(pid: int) -> set[int]:
    """Returns the TCP ports on which anything listens in the network of process `pid`."""
    rows = [
        line.split()
        for name in ("tcp", "tcp6")
        for line in pathlib.Path(f"/proc/{pid}/net/{name}").read_text().splitlines()[1:]
    ]
    return {int(row[1].rpartition(":")[2], 16) for row in rows if row[3] == "0A"}


@pytest.mark.slow
def test_no_port_of_a_local_gang_is_open_to_another_address_of_this_machine(tmp_path):
    others = [one for one in addresses_of_this_machine() if not one.startswith("127.")]
    if not others:
        pytest.skip("this machine has no address but loopback")
    datasets.write(
        tmp_path / "data", datasets.random_splits(train=200), vocabulary_size=50, classes=3
    )
    gang = commands.start(
        "submit",
        "--target=local",
        "--workers=2",
        "--",
        "train",
        f"--data_dir={tmp_path / 'data'}",
        f"--model_dir={tmp_path / 'model'}",
        "--units=4",
        "--steps=100000",
        "--save_steps=100000",
    )
    log = tmp_path / "model/logs/worker-0.log"
    commands.wait_for(lambda: log.exists() and "a step sends" in log.read_text(), gang)
    ports = listening(children(gang.pid)[0])
    assert len(ports) >= 3  # Of the supervisor that listens, and of two servers of TensorFlow.
    assert not ports & listening(gang.pid)
    for port in ports:
        for address in ("127.0.0.1", *others):
            with socket.socket() as caller:
                caller.settimeout(5)
                assert caller.connect_ex((address, port)) == errno.ECONNREFUSED, (address, port)
    gang.terminate()
    assert commands.finish(gang).code == 143
