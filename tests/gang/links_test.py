"""Connections between workers, over real sockets of this machine."""

import asyncio
import json
import socket

import pytest

from trainer.exit_codes import UsageError
from trainer.gang import links
from trainer.gang.roster import Roster

SECONDS = 30
TOKEN = b"t" * 32


def saying(reason):
    """A message that carries a text."""
    return {"kind": "found", "reason": str(reason)}


def free_addresses(count: int) -> tuple[str, ...]:
    with_port = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    addresses = tuple(f"127.0.0.1:{server.getsockname()[1]}" for server in with_port)
    for server in with_port:
        server.close()
    return addresses


class Recorder:
    """A listener that keeps the events."""

    def __init__(self, different=""):
        self.different, self.heard = different, []

    def differs(self, hello):
        return self.different

    def __getattr__(self, name):
        return lambda *what: self.heard.append((name, *what))

    def count(self, name, *what):
        return self.heard.count((name, *what))


class Worker:
    """The links of one worker and their events."""

    def __init__(
        self, index, addresses, job="job", silence=10.0, different="", token=TOKEN, chief="", ip=""
    ):
        self.recorder = Recorder(different)
        self.hello = links.Hello(index, f"instance{id(self)}", job, {}, ip)
        self.links = links.Links(
            Roster(index, addresses, chief, ip), self.hello, self.recorder, silence, lambda: token
        )

    async def until(self, name, *what):
        """Waits for an event and returns it; `what` may leave out its last values."""

        async def poll():
            while not any(heard[: 1 + len(what)] == (name, *what) for heard in self.recorder.heard):
                await asyncio.sleep(0.005)

        await asyncio.wait_for(poll(), SECONDS)
        return next(
            heard for heard in self.recorder.heard if heard[: 1 + len(what)] == (name, *what)
        )


async def read_all(reader) -> bytes:
    """What arrives before the end of a connection, which may be a reset."""
    try:
        return await reader.read()
    except ConnectionResetError:
        return b""


def together(test):
    """Runs the coroutine function `test`; an exception in any callback or task fails it."""

    def run(*arguments, **named):
        async def guarded():
            problems = []
            asyncio.get_running_loop().set_exception_handler(
                lambda loop, context: problems.append(context)
            )
            await test(*arguments, **named)
            assert not problems

        asyncio.run(guarded())

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    import inspect

    run.__signature__ = inspect.signature(test)
    return run


async def opened(*workers):
    for worker in workers:
        await worker.links.open()
    return workers


async def closed(*workers):
    await asyncio.gather(*(worker.links.close() for worker in workers))


@together
async def test_each_pair_has_one_link_and_messages_arrive_in_order():
    addresses = free_addresses(3)
    workers = await opened(*(Worker(index, addresses) for index in (2, 0, 1)))
    for worker in workers:
        for other in workers:
            if worker is not other:
                await worker.until("link_up", other.hello.index)
                for number in range(100):
                    worker.links.send(other.hello.index, saying(number))
    for worker in workers:
        for other in {0, 1, 2} - {worker.hello.index}:
            await worker.until("received", other, saying(99))
            assert [
                int(heard[2]["reason"])
                for heard in worker.recorder.heard
                if heard[:2] == ("received", other)
            ] == list(range(100))
            assert worker.recorder.count("link_up", other) == 1
    await closed(*workers)


@together
async def test_workers_whose_names_lead_nowhere_meet_by_the_other_address_of_the_chief():
    addresses = free_addresses(3)
    # As a pod sees it before the DNS knows the names of the others, or while it knows old ones.
    nowhere = [f"nobody.invalid:{address.rpartition(':')[2]}" for address in addresses]
    seen = [(*nowhere[:index], addresses[index], *nowhere[index + 1 :]) for index in range(3)]
    workers = await opened(
        *(Worker(index, seen[index], chief=addresses[0], ip="127.0.0.1") for index in (2, 1, 0))
    )
    for worker in workers:
        for other in workers:
            if worker is not other:
                await worker.until("link_up", other.hello.index)
                assert worker.recorder.count("link_up", other.hello.index) == 1
    await closed(*workers)


@together
async def test_a_worker_that_answers_for_another_one_keeps_its_links():
    addresses = free_addresses(3)
    # Worker 2 finds worker 1 at the other address of worker 0, as when an address changes hands.
    two = Worker(2, addresses, chief=addresses[1])
    one, two = await opened(Worker(1, addresses), two)
    await one.until("link_up", 2)
    reason = (await two.until("unreachable", 0, f"worker 1 is there instead at {addresses[1]}"))[2]
    assert "refused" not in reason
    [zero] = await opened(Worker(0, addresses))
    for worker in (one, two):
        await worker.until("link_up", 0)
        assert not any(heard[0] in ("link_down", "refused") for heard in worker.recorder.heard)
    await closed(zero, one, two)


@together
async def test_a_worker_is_looked_for_at_its_last_address_and_at_its_name():
    addresses = free_addresses(2)
    # Nobody listens at 127.0.0.2 when the worker comes back, so only its name leads there.
    first, other = await opened(Worker(0, addresses, ip="127.0.0.2"), Worker(1, addresses))
    await other.until("link_up", 0)
    await closed(first)
    await other.until("link_down", 0)
    [again] = await opened(Worker(0, addresses))
    await again.until("link_up", 1)
    await closed(again, other)


@together
async def test_a_worker_that_leaves_delivers_its_last_message_and_its_link_ends_at_once():
    addresses = free_addresses(2)
    one, other = await opened(Worker(0, addresses), Worker(1, addresses))
    await one.until("link_up", 1)
    await other.until("link_up", 0)
    for number in range(1000):
        other.links.send(0, saying(number))
    one.links.send(1, saying("last"))
    await closed(one)
    await other.until("received", 0, saying("last"))
    await other.until("link_down", 0, "it closed the connection")
    await closed(other)


@together
async def test_a_missing_worker_is_dialled_until_it_answers():
    addresses = free_addresses(2)
    [other] = await opened(Worker(1, addresses))
    await other.until("unreachable", 0)
    assert "refused" in (await other.until("unreachable", 0))[2]
    [one] = await opened(Worker(0, addresses))
    await other.until("link_up", 0)
    await closed(one)
    await other.until("link_down", 0)
    [again] = await opened(Worker(0, addresses))
    await again.until("link_up", 1)
    await closed(again, other)


@together
async def test_silence_ends_a_link(monkeypatch):
    monkeypatch.setattr(links, "BEAT_SECONDS", 0.05)
    addresses = free_addresses(2)
    one, other = Worker(0, addresses, silence=0.5), Worker(1, addresses, silence=1000)
    await opened(one, other)
    await one.until("link_up", 1)
    await asyncio.sleep(0.7)  # With beats the link lives for longer than the limit.
    assert not one.recorder.count("link_down", 1, "silent for 0.5 s")
    other.links._links[0].send = lambda message: None
    await one.until("link_down", 1, "silent for 0.5 s")
    await closed(one, other)


@pytest.mark.parametrize(
    "said",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 50 + b"\n",
        b"{}\n",
        b"[1, 2]\n",
        b"null\n",
        b"\n",
        b"x" * (links.LONGEST_LINE + 10),
        b'{"kind": "greet", "program": "other", "protocol": 2, "nonce": "x"}\n',
        b'{"kind": "greet", "program": "rnn-trainer", "protocol": "x", "nonce": "x"}\n',
        b'{"kind": "hello", "program": "rnn-trainer", "protocol": 1, "index": 1}\n',
        b'{"kind": "greet"',
        b'["' * 200_000 + b"\n",
        b"",
    ],
)
@together
async def test_a_foreign_program_on_the_port_does_no_harm(said):
    addresses = free_addresses(2)
    one, other = Worker(0, addresses), Worker(1, addresses)
    await opened(one)
    reader, writer = await asyncio.open_connection(*addresses[0].split(":"))
    writer.write(said)
    writer.write_eof()
    assert await asyncio.wait_for(read_all(reader), SECONDS) == b""
    writer.close()
    await opened(other)
    await one.until("link_up", 1)
    assert [heard[0] for heard in one.recorder.heard] == ["link_up"]
    await closed(one, other)


@together
async def test_a_silent_caller_is_dropped(monkeypatch):
    monkeypatch.setattr(links, "HELLO_SECONDS", 0.1)
    addresses = free_addresses(2)
    (one,) = await opened(Worker(0, addresses))
    reader, writer = await asyncio.open_connection(*addresses[0].split(":"))
    assert await asyncio.wait_for(reader.read(), SECONDS) == b""
    writer.close()
    await closed(one)


@pytest.mark.parametrize(
    "answer, reason",
    [
        (
            b"HTTP/1.1 400 Bad Request\r\n\r\n",
            "answered by a program that sent b'HTTP/1.1 400 Bad Request",
        ),
        (b"", "the connection was closed without an answer"),
    ],
)
@together
async def test_a_foreign_program_at_a_workers_address_is_described(answer, reason):
    addresses = free_addresses(2)

    async def serve(reader, writer):
        await reader.readline()
        writer.write(answer)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, *addresses[0].split(":"))
    [other] = await opened(Worker(1, addresses))
    assert reason in (await other.until("unreachable", 0))[2]
    await closed(other)
    server.close()


@together
async def test_a_worker_of_another_job_is_refused_with_the_reason():
    addresses = free_addresses(2)
    one, other = await opened(
        Worker(0, addresses, "--model_dir=a"), Worker(1, addresses, "--model_dir=b")
    )
    assert (
        "belongs to another job: --model_dir=a there, --model_dir=b here"
        in (await other.until("refused", 0))[2]
    )
    assert one.recorder.heard == []
    await closed(one, other)


@together
async def test_a_worker_that_differs_is_refused_with_the_difference():
    addresses = free_addresses(2)
    one, other = await opened(
        Worker(0, addresses, different="--units: 1 here, 2 there"), Worker(1, addresses)
    )
    assert (await other.until("refused", 0))[2] == "--units: 1 here, 2 there"
    assert one.recorder.heard == []
    await closed(one, other)


@together
async def test_another_version_of_the_protocol_is_named_and_ends_nothing():
    """A greeting is in the open, so a stranger can send it: it must not end the job."""
    addresses = free_addresses(2)
    greeting = {"kind": "greet", "program": "rnn-trainer", "protocol": 99, "nonce": "n"}

    async def serve(reader, writer):
        writer.write(json.dumps(greeting).encode() + b"\n")
        await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, *addresses[0].split(":"))
    [other] = await opened(Worker(1, addresses))
    assert "uses protocol 99; this one uses 3" in (await other.until("unreachable", 0))[2]
    assert {heard[0] for heard in other.recorder.heard} == {"unreachable"}
    await closed(other)
    server.close()


@together
async def test_workers_with_different_tokens_are_strangers_to_each_other(caplog):
    addresses = free_addresses(2)
    one, other = await opened(Worker(0, addresses), Worker(1, addresses, token=b"u" * 32))
    assert "the same --gang_token_file" in (await other.until("unreachable", 0))[2]
    await other.until("unreachable", 0)
    assert one.recorder.heard == []
    assert {heard[0] for heard in other.recorder.heard} == {"unreachable"}
    await closed(one, other)
    # It calls many times a second, and the log has one line.
    told = [record for record in caplog.records if "is not from a worker" in record.message]
    assert len(told) == 1 and "from 127.0.0.1" in told[0].message
    # So has the other end's, although it calls until it gives up, and may then find nobody.
    told = [record for record in caplog.records if "the same --gang_token_file" in record.message]
    assert len(told) == 1 and "worker 0 at 127.0.0.1" in told[0].message
    assert not any(token in caplog.text for token in ("t" * 32, "u" * 32))


@together
async def test_a_worker_with_the_token_of_the_job_links_after_the_token_was_replaced():
    """As after a second `kubectl apply` of a manifest: the file changes under running workers."""
    addresses = free_addresses(3)
    tokens = [b"old" * 20]
    workers = [Worker(index, addresses) for index in range(3)]
    for worker in workers:
        worker.links._token = lambda: tokens[0]
    await opened(*workers[:2])
    await workers[0].until("link_up", 1)
    tokens[0] = b"new" * 20
    await opened(workers[2])
    await workers[2].until("link_up", 0)
    await workers[2].until("link_up", 1)
    workers[0].links.send(1, saying("the first link stays"))
    await workers[1].until("received", 0, saying("the first link stays"))
    await closed(*workers)


@together
async def test_a_second_worker_of_an_index_is_refused_and_the_first_keeps_its_place():
    addresses = free_addresses(2)
    one, first = await opened(Worker(0, addresses, silence=0.3), Worker(1, addresses, silence=0.3))
    await one.until("link_up", 1)
    for worker in (one, first):  # Beats come only once a second: count as heard all the time.
        worker.links._links[1 - worker.hello.index].heard += 1000
    second = Worker(1, addresses, silence=0.3)
    second.links._spawn(second.links._dial(0))  # Its own port is on another host.
    assert "a worker with index 1 is already connected" in (await second.until("unreachable", 0))[2]
    await second.until("refused", 0)
    assert one.recorder.count("link_up", 1) == 1 and not any(
        heard[0] == "link_down" for heard in one.recorder.heard
    )
    await closed(one, first, second)


@together
async def test_a_new_worker_replaces_a_silent_one_of_its_index():
    addresses = free_addresses(2)
    one, first = await opened(Worker(0, addresses), Worker(1, addresses))
    await one.until("link_up", 1)
    one.links._links[1].heard -= 1000
    second = Worker(1, addresses)
    second.links._spawn(second.links._dial(0))
    await second.until("link_up", 0)
    await one.until("link_down", 1)
    assert [heard[0] for heard in one.recorder.heard] == ["link_up", "link_down", "link_up"]
    first.links.send(0, saying("stale"))
    second.links.send(0, saying("fresh"))
    await one.until("received", 1, saying("fresh"))
    assert not one.recorder.count("received", 1, saying("stale"))
    await closed(one, first, second)


@together
async def test_a_worker_that_calls_again_replaces_its_old_link():
    addresses = free_addresses(2)
    one, other = await opened(Worker(0, addresses), Worker(1, addresses))
    await one.until("link_up", 1)
    again = Worker(1, addresses)
    again.links._own = other.hello
    again.links._spawn(again.links._dial(0))
    await again.until("link_up", 0)
    assert [heard[0] for heard in one.recorder.heard[:3]] == ["link_up", "link_down", "link_up"]
    await closed(again, other)
    await closed(one)


@pytest.mark.parametrize("index", [0, 5, -1])
@together
async def test_an_index_that_no_worker_has_is_refused(index):
    addresses = free_addresses(2)
    (one,) = await opened(Worker(0, addresses))
    caller = links._Wire(*await asyncio.open_connection(*addresses[0].split(":")))
    await caller.greet(TOKEN, calls=True)
    hello = {"to": 0, "index": index, "instance": "i", "job": "job", "identity": {}, "ip": ""}
    caller.say({"kind": "hello", **hello})
    assert (await asyncio.wait_for(caller.hear(), SECONDS))["kind"] == "refuse"
    caller.writer.close()
    await closed(one)


@together
async def test_a_port_that_stays_taken_is_a_usage_error(monkeypatch):
    monkeypatch.setattr(links, "BIND_SECONDS", 0.2)
    addresses = free_addresses(2)
    (one,) = await opened(Worker(0, addresses))
    with pytest.raises(
        UsageError,
        match="port .* of worker 0 cannot be used: .*. A worker with this index or another program",
    ):
        await Worker(0, addresses).links.open()
    await closed(one)


@together
async def test_a_worker_waits_for_its_port_to_become_free():
    addresses = free_addresses(2)
    holder = socket.create_server(("127.0.0.1", int(addresses[0].split(":")[1])))
    asyncio.get_running_loop().call_later(0.4, holder.close)
    (one,) = await opened(Worker(0, addresses))
    await closed(one)


@together
async def test_an_unknown_host_name_is_reported_and_does_not_delay_the_end():
    [other] = await opened(Worker(1, ("no-such-host.invalid:1", free_addresses(1)[0])))
    await other.until("unreachable", 0)
    await closed(other)


@together
async def test_a_name_server_that_does_not_answer_does_not_delay_the_end(monkeypatch):
    monkeypatch.setattr(
        links.socket, "getaddrinfo", lambda *what, **named: __import__("time").sleep(1000)
    )
    [other] = await opened(Worker(1, ("somewhere:1", free_addresses(1)[0])))
    await asyncio.sleep(0.1)
    await asyncio.wait_for(closed(other), 5)
