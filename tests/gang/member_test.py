"""A simulated gang: members, links, training processes and a clock, so that every run repeats.

A simulated training process reaches its loop a second after its start. It makes progress only while
the processes of all members of its generation are alive, as with collectives. Processes that were
asked to stop agree and end a second later.
"""

import dataclasses
import heapq
import itertools
import random

import pytest

from trainer.exit_codes import UsageError
from trainer.gang import member
from trainer.model_folder import commits

START, STEP, LEAVE = 1.0, 1.0, 1.0
DELAY = 0.01


@dataclasses.dataclass
class Process:
    """A training process: a generation's, of one worker."""

    start: member.Start
    alive: bool = True
    trains: bool = False
    asked: str = ""
    plan: str = ""


class Worker:
    """A supervisor; `code` is its exit code."""

    def __init__(self, index, member):
        self.index, self.member = index, member
        self.process = self.code = self.exit = None
        self.frozen = False


class Simulation:
    """A job of `workers` that train `steps` steps and commit a checkpoint every `save_steps`."""

    def __init__(
        self,
        workers=3,
        steps=10,
        save_steps=2,
        seed=0,
        settle=lambda workers: (2, 1),
        plan=None,
        **rules,
    ):
        self.rules = {
            "minimum": 0,
            "rendezvous_seconds": 300.0,
            "rejoin_seconds": 60.0,
            "grace_seconds": 30.0,
            "max_restarts": 10,
            **rules,
        }
        self.steps, self.save_steps, self.settle, self.plan = steps, save_steps, settle, plan or {}
        self.addresses = tuple(f"w{index}:1" for index in range(workers))
        self.now, self.queue, self.order = 0.0, [], itertools.count()
        self.chance = random.Random(seed)
        self.workers: dict[int, Worker] = {}
        self.links: set[frozenset] = set()
        self.cut: set[frozenset] = set()
        self.step = self.committed = 0
        self.finished = ""
        self.notes, self.said, self.generations, self.codes, self.lines = [], [], {}, {}, {}
        self.ports = itertools.count(1)

    # --- the world --------------------------------------------------------------------------------

    def at(self, delay, do, *values):
        heapq.heappush(self.queue, (self.now + delay, next(self.order), do, values))

    def come(self, index):
        """Worker `index` is started."""
        world = member.World(
            self.settle,
            lambda: (
                commits.Commit(self.committed, f"{self.committed:x}") if self.committed else None
            ),
            lambda: f"w{index}:{next(self.ports)}",
            lambda: self.finished,
        )
        rules = member.Rules(index, self.addresses, **self.rules)
        worker = self.workers[index] = Worker(index, member.Member(rules, world, self.now))
        self.codes.pop(index, None)
        for other in list(self.workers):
            if other != index:
                self.connect(frozenset((index, other)))
        worker.member.begin(self.now)
        self.act(worker)
        self.at(1.0, self.tick, worker)

    def connect(self, pair):
        if (
            pair not in self.cut
            and pair not in self.links
            and all(index in self.workers for index in pair)
        ):
            self.links.add(pair)
            for index, other in (sorted(pair), sorted(pair, reverse=True)):
                self.workers[index].member.link_up(other, self.now)
            for index in pair:
                self.act(self.workers[index])

    def disconnect(self, pair, reason="it closed the connection"):
        if pair in self.links:
            self.links.discard(pair)
            for index, other in (sorted(pair), sorted(pair, reverse=True)):
                if index in self.workers:
                    self.workers[index].member.link_down(other, reason, self.now)
                    self.act(self.workers[index])

    def tick(self, worker):
        if self.workers.get(worker.index) is worker:
            worker.member.tick(self.now)
            self.act(worker)
            self.at(1.0, self.tick, worker)

    def deliver(self, worker, link, sender, message):
        if self.workers.get(worker.index) is worker and link in self.links:
            worker.member.receive(sender, message, self.now)
            self.act(worker)

    def act(self, worker):
        for action in worker.member.take():
            if isinstance(action, member.Send):
                other = self.workers.get(action.to)
                if other and frozenset((worker.index, action.to)) in self.links:
                    self.at(
                        DELAY,
                        self.deliver,
                        other,
                        frozenset((worker.index, action.to)),
                        worker.index,
                        action.message,
                    )
            elif isinstance(action, member.Start):
                assert worker.process is None, "one training process at a time"
                # Addresses are never used twice.
                agreed = self.generations.setdefault(action.members, action)
                assert (agreed.generation, agreed.threads, agreed.shards) == (
                    action.generation,
                    action.threads,
                    action.shards,
                )
                worker.process = Process(
                    action, plan=self.plan.get((worker.index, action.generation), "")
                )
                self.at(START, self.reach_loop, worker, worker.process)
            elif isinstance(action, member.Kill):
                self.end_process(worker, worker.process, -9)
            elif isinstance(action, member.Ask):
                self.ask(
                    worker, worker.process, action.request["ask"], action.request.get("signal")
                )
            elif isinstance(action, member.Note):
                self.notes.append((action.event, action.fields))
            elif isinstance(action, member.Say):
                self.said.append(action.text)
            elif isinstance(action, member.Exit):
                self.codes[worker.index], self.lines[worker.index], worker.exit = (
                    action.code,
                    action.line,
                    action,
                )
                self.at(DELAY * 2, self.go, worker)

    def go(self, worker):
        """The supervisor of `worker` ends; what it sent before is delivered."""
        if self.workers.get(worker.index) is worker:
            del self.workers[worker.index]
            if worker.process:
                worker.process.alive, worker.process = False, None
            for pair in [pair for pair in self.links if worker.index in pair]:
                self.disconnect(pair)

    # --- training processes -----------------------------------------------------------------------

    def team(self, process):
        return [
            worker
            for worker in self.workers.values()
            if worker.process and worker.process.start.members == process.start.members
        ]

    def complete(self, process):
        return len(self.team(process)) == len(process.start.members) and all(
            worker.process.trains for worker in self.team(process)
        )

    def reach_loop(self, worker, process):
        if process.alive:
            process.trains = True
            worker.member.child_trains()
            if process.plan:
                self.end_process(worker, process, int(process.plan))
            elif self.complete(process):
                self.at(STEP, self.advance, process)

    def advance(self, process):
        if not (process.alive and self.complete(process)) or any(
            worker.process.asked for worker in self.team(process)
        ):
            return
        self.step += 1
        if self.step % self.save_steps == 0:
            self.committed = self.step
        if self.step >= self.steps:
            self.committed = self.step
            for worker in self.team(process):
                self.at(self.chance.uniform(0, 0.5), self.end_process, worker, worker.process, 0)
        else:
            self.at(STEP, self.advance, process)

    def ask(self, worker, process, request, number):
        if process and process.alive and not (process.asked and request == "reform"):
            asked_before = any(other.process.asked for other in self.team(process))
            process.asked = request
            if not asked_before:
                self.at(LEAVE, self.agree, process, request, number)

    def agree(self, process, request, number):
        if process.alive and self.complete(process):
            self.committed = self.step
            for worker in self.team(process):
                self.at(
                    self.chance.uniform(0, 0.5),
                    self.end_process,
                    worker,
                    worker.process,
                    75 if request == "reform" else 128 + number,
                )

    def end_process(self, worker, process, code):
        if process and process.alive:
            process.alive = False
            self.at(DELAY, self.process_ended, worker, process, code)

    def process_ended(self, worker, process, code):
        if worker.process is process:
            worker.process = None
            if code != 0 and process.start.members == list(self.generations)[-1]:
                self.step = self.committed  # The next generation begins at the newest checkpoint.
            if self.workers.get(worker.index) is worker:
                worker.member.child_ended(
                    code, "", ("last words",) if code not in (0, -9) else (), self.now
                )
                self.act(worker)

    # --- faults -----------------------------------------------------------------------------------

    def kill_process(self, index, code=-9):
        if index in self.workers:
            self.end_process(self.workers[index], self.workers[index].process, code)

    def kill_worker(self, index, back_after=None):
        """Kills a supervisor; its training process dies with it.

        back_after: seconds until it is started again; None: never.
        """
        if index in self.workers:
            self.go(self.workers[index])
            self.codes[index] = -9
        if back_after is not None:
            self.at(back_after, self.come_again, index)

    def come_again(self, index):
        # Otherwise the job has ended.
        if index not in self.workers and all(code == -9 for code in self.codes.values()):
            self.come(index)

    def cut_link(self, one, other, seconds):
        pair = frozenset((one, other))
        self.cut.add(pair)
        self.disconnect(pair, "silent for 10 s")
        self.at(seconds, self.heal, pair)

    def heal(self, pair):
        self.cut.discard(pair)
        self.connect(pair)

    def signal(self, index, number=15):
        if index in self.workers:
            self.workers[index].member.signalled(number, self.now)
            self.act(self.workers[index])

    def run(self, until=5000.0):
        coming = (self.come, self.come_again)
        while (
            self.queue
            and self.queue[0][0] < until
            and (self.workers or any(do in coming for _, _, do, _ in self.queue))
        ):
            self.now, _, do, values = heapq.heappop(self.queue)
            do(*values)
        return self

    def events(self, name):
        return [fields for event, fields in self.notes if event == name]

    @property
    def members(self):
        """How many workers took part in each generation."""
        return list(map(len, self.generations))


def started(workers=3, at_once=True, **options) -> Simulation:
    simulation = Simulation(workers, **options)
    for index in range(workers):
        simulation.at(0.0 if at_once else index * 5.0, simulation.come, index)
    return simulation


@pytest.mark.parametrize("workers", [1, 2, 3, 8])
def test_an_undisturbed_gang_runs_once_to_its_end(workers):
    simulation = started(workers, at_once=False).run()
    assert simulation.codes == dict.fromkeys(range(workers), 0) and simulation.members == [workers]
    assert [event for event, _ in simulation.notes] == ["rendezvous", "gang_end"]


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_workers_may_start_in_any_order(order):
    simulation = Simulation(3)
    for place, index in enumerate(order):
        simulation.at(place * 40.0, simulation.come, index)
    simulation.run()
    assert simulation.codes == {0: 0, 1: 0, 2: 0} and simulation.members == [3]
    assert [event["members"] for event in simulation.events("rendezvous")] == [[0, 1, 2]]


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_a_missing_worker_is_named_in_time_and_no_training_starts(missing):
    simulation = Simulation(3, rendezvous_seconds=50.0)
    for index in {0, 1, 2} - {missing}:
        simulation.at(index * 3.0, simulation.come, index)
    simulation.run()
    assert set(simulation.codes.values()) == {75} and not simulation.generations
    assert simulation.now < 50.0 + 3.1
    assert f"worker {missing} (w{missing}:1)" in simulation.events("gang_end")[0]["reason"]


def test_a_worker_that_returns_after_the_run_is_finished_ends_well():
    simulation = Simulation(2, rendezvous_seconds=50.0)
    simulation.finished = "done step=10 state_digest=ab"
    simulation.at(0.0, simulation.come, 0)
    simulation.run()
    assert (
        simulation.codes == {0: 0}
        and simulation.lines == {0: simulation.finished}
        and not simulation.generations
    )


@pytest.mark.parametrize("minimum, code, members", [(0, 75, []), (3, 75, []), (2, 0, [2])])
def test_min_workers_begin_without_the_missing_ones_when_the_wait_is_over(minimum, code, members):
    simulation = Simulation(3, minimum=minimum)
    for index in (1, 2):
        simulation.at(0.0, simulation.come, index)
    simulation.run()
    assert simulation.codes == {1: code, 2: code} and simulation.members == members


@pytest.mark.parametrize("index", [0, 1, 2])
@pytest.mark.parametrize("moment", [0.5, 3.0, 7.3])
def test_a_killed_training_process_costs_one_quick_restart(index, moment):
    simulation = started()
    simulation.at(moment, simulation.kill_process, index)
    simulation.run()
    assert simulation.codes == {0: 0, 1: 0, 2: 0} and simulation.members == [3, 3]
    [lost], [restart] = simulation.events("lost"), simulation.events("restart")
    assert (lost["index"], lost["code"]) == (index, -9)
    assert restart == {
        "generation": 2,
        "reason": f"worker {index}: its training was ended by signal 9",
    }
    assert simulation.events("rendezvous")[1]["seconds"] < 0.1


@pytest.mark.parametrize("index", [0, 1, 2])
@pytest.mark.parametrize("moment", [0.5, 3.0, 7.3, 11.05])
def test_a_killed_worker_that_returns_costs_a_restart(index, moment):
    simulation = started()
    simulation.at(moment, simulation.kill_worker, index, 20.0)
    simulation.run()
    assert simulation.codes == {0: 0, 1: 0, 2: 0} and simulation.members == [3, 3]


@pytest.mark.parametrize("index", [0, 1, 2])
def test_a_worker_that_does_not_return_ends_the_job_and_is_named(index):
    simulation = started()
    simulation.at(3.0, simulation.kill_worker, index)
    simulation.run()
    assert [simulation.codes[other] for other in {0, 1, 2} - {index}] == [75, 75]
    assert f"worker {index}" in simulation.events("gang_end")[0]["reason"]
    assert simulation.now < 3.0 + 60.0 + 2.0


@pytest.mark.parametrize("index", [0, 1, 2])
def test_the_gang_continues_without_a_worker_and_takes_it_in_again_after_a_checkpoint(index):
    simulation = started(minimum=2, steps=400)
    simulation.at(3.0, simulation.kill_worker, index, 150.0)
    simulation.run()
    assert simulation.codes == {0: 0, 1: 0, 2: 0} and simulation.members == [3, 2, 3]
    assert simulation.events("restart")[-1]["reason"] == f"worker {index} joined"
    assert len(simulation.events("lost")) == 1


def test_a_gang_grows_from_one_to_three_and_shrinks_to_one():
    simulation = Simulation(3, minimum=1, rendezvous_seconds=10.0, rejoin_seconds=10.0, steps=400)
    for moment, index in ((0.0, 1), (40.0, 0), (80.0, 2)):
        simulation.at(moment, simulation.come, index)
    simulation.at(120.0, simulation.kill_worker, 0)
    simulation.at(120.0, simulation.kill_worker, 1)
    simulation.run()
    assert simulation.members == [1, 2, 3, 1]
    assert simulation.codes == {0: -9, 1: -9, 2: 0}


def test_a_worker_waits_for_its_gang_to_save_however_long_that_takes():
    simulation = started(2, minimum=1, rendezvous_seconds=20.0, rejoin_seconds=5.0, steps=200)
    simulation.at(3.0, simulation.kill_worker, 1, 8.0)
    simulation.run()
    assert simulation.codes == {0: 0, 1: 0}


@pytest.mark.parametrize("code", [1, 2, 3, 4, 5, 74, 99])
@pytest.mark.parametrize("index", [0, 2])
def test_any_other_exit_code_ends_the_job_for_all_with_that_code_and_its_cause(code, index):
    simulation = started()
    simulation.at(4.0, simulation.kill_process, index, code)
    simulation.run()
    assert simulation.codes == {0: code, 1: code, 2: code} and simulation.members == [3]
    [end] = simulation.events("gang_end")
    assert (end["code"], end["index"]) == (code, index)
    assert (
        f"worker {index}: training ended with exit code {code}; its last lines:\n  | last words"
        in end["reason"]
    )
    assert simulation.now < 5.0


@pytest.mark.parametrize("number, code", [(15, 143), (2, 130)])
@pytest.mark.parametrize("index", [0, 2])
def test_a_stop_of_one_worker_stops_all_at_one_step_with_a_checkpoint(index, number, code):
    simulation = started()
    simulation.at(5.5, simulation.signal, index, number)
    simulation.run()
    assert (
        simulation.codes == {0: code, 1: code, 2: code}
        and simulation.committed == simulation.step > 0
    )
    assert set(simulation.lines.values()) == {""}  # The training processes have printed it.


@pytest.mark.parametrize(
    "moment, line",
    [(0.5, "stopped step=0 state_digest=none"), (-1.0, "stopped step=0 state_digest=none")],
)
@pytest.mark.parametrize("index", [0, 2])
def test_a_stop_before_training_ends_at_once(index, moment, line):
    simulation = started(2 if moment < 0 else 3)  # moment < 0: two of three are there and wait.
    if moment < 0:
        simulation = Simulation(3)
        for other in {0, 2}:
            simulation.at(0.0, simulation.come, other)
    simulation.at(abs(moment), simulation.signal, index)
    simulation.run()
    assert set(simulation.codes.values()) == {143} and set(simulation.lines.values()) == {line}
    assert simulation.now < 2.0


def test_a_stop_during_a_restart_names_the_newest_checkpoint():
    simulation = started()
    simulation.at(6.5, simulation.kill_process, 1)
    simulation.at(6.9, simulation.signal, 2)
    simulation.run()
    assert set(simulation.lines.values()) == {"stopped step=4 state_digest=4"} and set(
        simulation.codes.values()
    ) == {143}


def test_a_second_ctrl_c_ends_all_at_once():
    simulation = started(steps=100)
    simulation.at(5.5, simulation.signal, 2, 2)
    simulation.at(6.2, simulation.signal, 2, 2)
    simulation.run()
    assert simulation.codes == {0: 130, 1: 130, 2: 130} and simulation.now < 6.4
    assert simulation.lines[0] == "stopped step=4 state_digest=4"


# One press of Ctrl-C, or one SIGTERM, reaches each of three workers once or twice, in any order and
# with any of these gaps.
ORDERS = [order for size in (1, 2, 3) for order in itertools.permutations(range(3), size)]
ORDERS += [(first, *order) for order in ORDERS for first in order]


@pytest.mark.parametrize("gap", [0.0, 0.003, 0.02, 0.1])
@pytest.mark.parametrize("order", ORDERS, ids=lambda order: "".join(map(str, order)))
def test_one_press_of_ctrl_c_saves_in_whatever_order_it_reaches_the_workers(order, gap):
    simulation = started(steps=100)
    for place, index in enumerate(order):
        simulation.at(6.5 + place * gap, simulation.signal, index, 2)
    simulation.run()
    assert simulation.codes == {0: 130, 1: 130, 2: 130}
    assert simulation.committed == 5  # The step that was reached; the last checkpoint was step 4.


@pytest.mark.parametrize("numbers", list(itertools.product((2, 15), repeat=3)))
@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_any_mix_of_sigint_and_sigterm_saves(order, numbers):
    simulation = started(steps=100)
    for place, index in enumerate(order):
        simulation.at(6.5 + place * 0.015, simulation.signal, index, numbers[place])
        simulation.at(6.7 + place * 0.015, simulation.signal, index, 15)
    simulation.run()
    assert simulation.committed == 5
    codes = set(simulation.codes.values())
    assert codes <= {130, 143} and len(codes) == 1
    assert codes == {128 + numbers[0]} or len(set(numbers)) == 2


@pytest.mark.parametrize("first, second", list(itertools.product(range(3), repeat=2)))
def test_a_second_press_at_the_same_worker_ends_fast_and_at_another_one_saves(first, second):
    simulation = started(steps=100)
    simulation.at(6.5, simulation.signal, first, 2)
    simulation.at(7.2, simulation.signal, second, 2)
    simulation.run()
    assert set(simulation.codes.values()) == {130}
    assert (simulation.committed, simulation.now < 7.4) == (
        (4, True) if first == second else (5, False)
    )


@pytest.mark.parametrize("index", [0, 1])
def test_a_second_press_ends_fast_after_a_sigterm_too(index):
    simulation = started(2, steps=100)
    simulation.at(6.2, simulation.signal, index, 15)
    simulation.at(6.3, simulation.signal, index, 2)
    simulation.at(6.9, simulation.signal, index, 2)
    simulation.run()
    assert set(simulation.codes.values()) == {130} and simulation.now < 7.2


@pytest.mark.parametrize("index", [0, 1, 2])
def test_a_worker_whose_loop_is_about_to_begin_does_not_keep_the_others_from_saving(index):
    """Beats arrive a moment apart, so a supervisor may hear of a signal before the first beat."""
    simulation = started(steps=100)
    simulation.at(6.49, lambda: setattr(simulation.workers[index].member, "_trained", False))
    for other in range(3):
        simulation.at(6.5 + 0.02 * other, simulation.signal, other, 2)
    simulation.run()
    assert simulation.codes == {0: 130, 1: 130, 2: 130}
    assert simulation.committed == (5 if index else 4)  # The leader alone knows that none trains.


@pytest.mark.parametrize("index", [0, 1])
def test_a_stop_that_does_not_succeed_ends_within_the_grace_period_and_names_the_lost_steps(index):
    simulation = started(2, steps=1000)
    simulation.agree = lambda *_: None
    simulation.at(5.5, simulation.signal, index)
    simulation.run()
    assert simulation.codes == {0: 75, 1: 75}
    assert 25.0 <= simulation.now - 5.5 <= 28.0
    assert "the steps after step 4 are lost" in simulation.events("gang_end")[0]["reason"]


@pytest.mark.parametrize("killed", [0, 1, 2])
def test_a_loss_during_a_stop_does_not_restart_the_gang(killed):
    simulation = started()
    simulation.at(5.5, simulation.signal, 1)
    simulation.at(5.7, simulation.kill_worker, killed)
    simulation.run()
    assert [simulation.codes[index] for index in {0, 1, 2} - {killed}] == [
        75,
        75,
    ] and simulation.members == [3]


@pytest.mark.parametrize("number", [2, 15])
@pytest.mark.parametrize("index", [0, 1])
def test_a_stop_that_meets_a_gang_that_forms_again_ends_as_any_other(index, number):
    """At second 7 worker 2 asks to join; the others save for it and meet in second 8."""
    for hundredths in range(690, 860):
        simulation = Simulation(3, minimum=2, steps=100, save_steps=100, rendezvous_seconds=4.0)
        for moment, worker in ((0.0, 0), (0.0, 1), (7.0, 2)):
            simulation.at(moment, simulation.come, worker)
        simulation.at(hundredths / 100, simulation.signal, index, number)
        simulation.run()
        saved = simulation.committed
        assert set(simulation.codes.values()) == {128 + number}, hundredths
        assert saved == simulation.step > 0, hundredths
        # A training process that hears of the stop in time prints the line itself.
        expected = f"stopped step={saved} state_digest={saved:x}" if hundredths >= 702 else ""
        assert [simulation.lines[worker] for worker in (0, 1)] == [expected] * 2, hundredths


def test_a_gang_that_never_saves_gives_up_with_code_76():
    simulation = started(
        2, max_restarts=3, plan={(1, generation): "-11" for generation in range(1, 100)}
    )
    simulation.run()
    assert simulation.codes == {0: 76, 1: 76} and len(simulation.generations) == 4
    assert (
        "4 restarts without a new checkpoint after step 0, the last one because worker 1: its "
        "training was ended by signal 11" in simulation.events("gang_end")[0]["reason"]
    )


def test_restarts_are_counted_across_workers_that_leave_and_return():
    simulation = started(2, max_restarts=3, steps=1000, save_steps=1000)
    for attempt in range(6):
        simulation.at(3.0 + 30.0 * attempt, simulation.kill_worker, attempt % 2, 5.0)
    simulation.run()
    assert 76 in simulation.codes.values() and len(simulation.generations) == 4


def test_a_new_checkpoint_resets_the_count_of_restarts():
    simulation = started(2, max_restarts=1, steps=40)
    for attempt in range(6):
        simulation.at(7.0 * (attempt + 1), simulation.kill_process, attempt % 2)
    simulation.run()
    assert simulation.codes == {0: 0, 1: 0} and len(simulation.generations) == 7


def test_a_run_with_another_configuration_is_not_resumed():
    def refuse(workers):
        raise UsageError("--units: was 8, now 16")

    simulation = started(2, settle=refuse).run()
    assert simulation.codes == {0: 2, 1: 2} and not simulation.generations and not simulation.notes


def test_a_cut_between_two_members_other_than_the_leader_costs_nothing():
    simulation = started()
    simulation.at(3.0, simulation.cut_link, 1, 2, 20.0)
    simulation.run()
    assert simulation.codes == {0: 0, 1: 0, 2: 0} and simulation.members == [3]


@pytest.mark.parametrize("other", [1, 2])
def test_a_cut_from_the_leader_costs_a_restart_when_it_heals(other):
    simulation = started()
    simulation.at(3.0, simulation.cut_link, 0, other, 30.0)
    simulation.run()
    assert simulation.codes == {0: 0, 1: 0, 2: 0} and simulation.members == [3, 3]


def test_the_reason_of_a_loss_is_recorded_even_if_it_is_found_later():
    simulation = started()
    simulation.at(5.0, simulation.kill_process, 0, 75)
    simulation.run(until=5.025)  # The others are being ended.
    simulation.workers[2].process = None
    simulation.workers[2].member.child_ended(-9, "frozen (stopped by a signal)", (), simulation.now)
    simulation.act(simulation.workers[2])
    simulation.run()
    assert [lost["reason"] for lost in simulation.events("lost")] == [
        "its training lost the others (exit code 75)",
        "frozen (stopped by a signal)",
    ]


@pytest.mark.parametrize("seed", range(150))
def test_a_gang_completes_its_run_despite_any_faults(seed):
    chance = random.Random(seed)
    workers = chance.choice([1, 2, 3, 5])
    simulation = started(
        workers,
        seed=seed,
        steps=60,
        minimum=chance.choice([0, 1, workers]),
        max_restarts=100,
        rendezvous_seconds=1e6,
        rejoin_seconds=1e6 if seed % 2 else 150.0,
    )
    for _ in range(chance.randrange(1, 12)):
        moment, index = chance.uniform(0, 90), chance.randrange(workers)
        what = chance.choice(["process", "worker", "lost", "cut"])
        if what == "process":
            simulation.at(moment, simulation.kill_process, index)
        elif what == "worker":
            simulation.at(moment, simulation.kill_worker, index, chance.uniform(0.001, 20))
        elif what == "lost":
            simulation.at(moment, simulation.kill_process, index, 75)
        elif workers > 1:
            # A cut may swallow the leader's last message; then no worker can know that it was sent.
            simulation.at(
                moment / 3,
                simulation.cut_link,
                *chance.sample(range(workers), 2),
                chance.uniform(0.001, 20),
            )
    simulation.run(until=100_000.0)
    assert not simulation.workers, f"still there at {simulation.now}"
    codes = {code for code in simulation.codes.values() if code != -9}
    assert codes <= {0}, (simulation.codes, simulation.notes[-3:])


@pytest.mark.parametrize("seed", range(60))
def test_a_stop_ends_all_workers_in_time_despite_other_faults(seed):
    chance = random.Random(seed)
    workers = chance.choice([1, 2, 3])
    simulation = started(workers, seed=seed, steps=10_000, max_restarts=100)
    for _ in range(chance.randrange(0, 3)):
        simulation.at(
            chance.uniform(0, 30),
            simulation.kill_process,
            chance.randrange(workers),
            chance.choice([-9, 75]),
        )
    moment = chance.uniform(0, 32)
    for _ in range(chance.randrange(1, 3)):
        simulation.at(
            moment + chance.uniform(0, 1),
            simulation.signal,
            chance.randrange(workers),
            chance.choice([2, 15]),
        )
    simulation.run(until=200.0)
    assert not simulation.workers and set(simulation.codes.values()) <= {143, 130, 75}
    assert simulation.now <= moment + 1 + 30.0
