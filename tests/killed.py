"""What the processes of kills.py execute: a workflow with every kind of wait, the callers, and the one who kills.

The bodies note in a ledger what they do; `record` adds the run and the task. Those who cancel, pause and resume runs
note that too: a cancellation and a resume before they ask for it, and a pause after it has begun.
"""

LIVES = """
import contextlib, fcntl, random, traceback
from datetime import timedelta
over = Path(db).with_suffix(".over")
from typing import Annotated
seed, kills = int(words[0]), int(words[1])
SIGNALS, ITEMS, GATHERS = int(words[2]), int(words[3]), (int(words[4]), float(words[5]))

def record(handle, what, *more):
    note(what, handle.run_id, handle.task_name, *more)

def soon(span):
    return time.time() + span

def step(handle, name, value):
    def charge(value):
        record(handle, "did", name)
        return value
    got = handle.step(charge, value, name=name)
    record(handle, "got", name, got)
    return got

def sleeps(handle):
    if not handle.is_replaying:  # else the wait may be over
        record(handle, "sleeps")

def nap(handle, span, **name):
    if span > 0:
        sleeps(handle)
    handle.sleep(span, **name)

def sleep(handle, k, span):
    due = handle.step(soon, span, name=f"due-{k}")
    nap(handle, span, name=f"sleep-{k}")
    record(handle, "woke", due, time.time())

@contextlib.contextmanager
def noted(handle):
    record(handle, "enter", handle.attempt, time.time(), os.getpid())
    try:
        yield
    except bide.Cancelled:
        step(handle, "undo", 0)
        handle.sleep(0.005)
        raise
    except Exception:
        record(handle, "raised")
        raise
    record(handle, "leave", time.time())

@contextlib.asynccontextmanager
async def noted_async(handle):
    record(handle, "enter", handle.attempt, time.time(), os.getpid())
    try:
        yield
    except BaseException:
        if handle.cancelled:  # else it is suspended
            await step_async(handle, "undo", 0)
            await handle.sleep(0.005)
        raise
    record(handle, "leave", time.time())

async def step_async(handle, name, value):
    async def charge(value):
        record(handle, "did", name)
        return value
    got = await handle.step(charge, value, name=name)
    record(handle, "got", name, got)
    return got

@bide.task
def orders(n: int, handle: bide.TaskHandle, context: bide.Context) -> int:
    with noted(handle):
        total = 0
        for k in range(n % 3 + 1):
            handle.emit(k)
            total += step(handle, f"charge-{k}", k + 1)
            sleep(handle, k, 0.01 * (n % 4))
        context["orders"] = total
        context["who"] = ["orders"]
        return total

@bide.task(retry=bide.Retry(attempts=5, delay=0.01, jitter=0))
def flaky(n: int, handle: bide.TaskHandle) -> int:
    with noted(handle):
        kept = step(handle, "kept", n)
        if handle.attempt < 3:
            raise ValueError("not yet")
        return 2 * kept

@bide.task
def polls(n: int, handle: bide.TaskHandle, context: bide.Context) -> int:
    with noted(handle):
        due = handle.step(soon, 0.03, name="due")
        handle.defer_until(lambda: time.time() >= due, 5, name="poll")
        record(handle, "woke", due, time.time())
        context["polls"] = n
        late = handle.step(soon, 0.02, name="late")
        try:
            handle.defer_until(lambda: False, 5, timeout=0.02, name="never")
        except bide.WaitTimeout:
            record(handle, "woke", late, time.time())
            return -1
        raise AssertionError("a wait for what never happens was satisfied")

@bide.task
def mail(handle: bide.TaskHandle) -> list:
    with noted(handle):
        values = []
        for k in range(SIGNALS):
            if k % 2:
                value = handle.wait_for("n", int)
            else:
                fired, late = handle.wait_any(bide.signal("n", int), bide.after(3600))
                value = fired.value
            record(handle, "got", f"signal-{k}", value)
            values.append(value)
        return values

@bide.task(gate=bide.all_of(bide.signal("open", int), bide.after(0.01)))
def opened(handle: bide.TaskHandle) -> int:
    with noted(handle):
        return 7

@bide.task(gate=bide.after(0.02))
def gated(orders: int, handle: bide.TaskHandle) -> int:
    with noted(handle):
        return orders + 100

@bide.task
def last(gated: int, flaky: int, polls: int, handle: bide.TaskHandle, context: bide.Context) -> int:
    with noted(handle):
        context["who"] = [*context["who"], "last"]
        return gated + flaky + polls

@bide.task
def asks(handle: bide.TaskHandle) -> list:
    with noted(handle):
        values = []
        for k in range(2):
            callback = handle.callback("approval", int)
            record(handle, "got", f"token-{k}", callback.token)
            handle.emit([k, callback.token], channel="tokens")
            try:
                values.append(handle.wait(callback))
            except bide.CallbackRejected as rejected:
                values.append(rejected.reason)
            record(handle, "got", f"answer-{k}", str(values[-1]))
        return values

@bide.task
def serves(handle: bide.TaskHandle) -> int:
    with noted(handle):
        asked = handle.wait(bide.request("ask", int, int))
        asked.reply(asked.value + step(handle, "work", 10))
        return asked.value

@bide.task
def works(n: int, handle: bide.TaskHandle) -> int:
    with noted(handle):
        nap(handle, 0.01)
        return step(handle, "work", n)

child = bide.Workflow("killed child", [works])

@bide.task
def starts(n: int, handle: bide.TaskHandle) -> int:
    with noted(handle):
        children = [handle.start(child, {"n": n}), handle.start(child, {"n": 2 * n}, key="other")]
        for k, one in enumerate(children):
            record(handle, "got", f"child-{k}", one.id)
        total = handle.wait(children[0]).outputs["works"] + step(handle, "between", n)
        total += handle.wait(children[1]).outputs["works"]
        return total

@bide.task(limit=bide.Limit("loops", executing=2, in_flight=1000))
def loops(handle: bide.TaskHandle) -> int:
    with noted(handle):
        turn, total = handle.last_checkpoint(tuple[int, int], (0, 0))
        while turn < 3:
            total += step(handle, f"turn-{turn}", turn + 1)
            nap(handle, 0.005)
            turn += 1
            handle.progress(turn, 3)
            handle.checkpoint((turn, total))
        return total

@bide.task(limit=bide.Limit("items", in_flight=ITEMS))
def items(n: int, handle: bide.TaskHandle) -> list[int]:
    with noted(handle):
        return list(range(n % 4))

@bide.task(retry=bide.Retry(attempts=2, delay=0.01, jitter=0))
def each(item: Annotated[int, bide.Each("items")], handle: bide.TaskHandle) -> int:
    with noted(handle):
        done = step(handle, "work", item)
        if item == 1 and handle.attempt < 2:
            raise ValueError("not yet")
        return done

@bide.task(tolerate=1)
def follows(item: Annotated[int, bide.Each("each")], handle: bide.TaskHandle) -> int:
    with noted(handle):
        handle.sleep(0.005)
        if item == 2:
            raise ValueError("it may fail")
        return 10 * item

@bide.task(limit=bide.Limit("gathers", rate=GATHERS))
def gathers(each: list[int], follows: bide.Mapped[int], handle: bide.TaskHandle) -> list:
    with noted(handle):
        return [each, list(follows.succeeded), len(follows.failed)]

@bide.task
async def courier(n: int, handle: bide.AsyncTaskHandle) -> int:
    async with noted_async(handle):
        fetched = await step_async(handle, "fetch", n)
        sleeps(handle)
        await handle.sleep(0.01)
        letter = await handle.wait_for("letter", int)
        return fetched + letter + await step_async(handle, "bring", 1)

@bide.task(run_if="done", depends_on=[last, gathers])
def tidies(handle: bide.TaskHandle) -> int:
    with noted(handle):
        return step(handle, "tidy", 3)

bodies = [orders, flaky, polls, mail, opened, gated, last, asks, serves, starts, loops, items, each, follows, gathers]
workflow = bide.Workflow("killed", [*bodies, courier, tidies], signals=["n", "open", "ask", "letter"])

@bide.task
def served(n: int) -> int:
    return n

@bide.task
def ticks(scheduled_at: str) -> str:
    return scheduled_at

watched, ticking = bide.Workflow("watched", [served]), bide.Workflow("ticking", [ticks])
began = time.time()

def serve(runner):
    "Have a schedule and a watch served, in each process; one process at a time calls the source."
    alone = open(Path(db).with_suffix(".alone"), "w")
    def source(cursor: int | None):
        try:
            fcntl.flock(alone, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            note("together", os.getpid())
        # One more each 20 ms. The last three are returned again.
        count = int((time.time() - began) * 50)
        time.sleep(0.001)
        fcntl.flock(alone, fcntl.LOCK_UN)
        return [(str(n), {"n": n}) for n in range(max(0, (cursor or 0) - 3), count)], count
    runner.schedule("ticks", ticking, timedelta(seconds=0.1), on_miss="all")
    runner.watch("items", watched, source, every=0.03)

def signal_all(runner, run):
    with contextlib.suppress(bide.SignalRejected):  # it has ended
        runner.signal(run, "open", 1, id="open")
        runner.signal(run, "letter", 4, id="letter")
        for k in range(SIGNALS):
            runner.signal(run, "n", k, id=str(k))

def answer_all(runner, run):
    "Answer each callback of a run; once more, which changes nothing; and in another way, which is refused."
    for k, token in [event.value for event in runner.events(run, channel="tokens")]:
        with contextlib.suppress(bide.SignalRejected):  # it has ended
            for _ in range(2):
                if k == 0:
                    runner.resolve(token, 5, id=f"first of {token}")
                else:
                    runner.reject(token, "no", id=f"first of {token}")
        try:
            runner.resolve(token, 99)
        except bide.SignalRejected:
            continue
        note("taken", run, "asks", token)

def request(runner, run):
    with contextlib.suppress(bide.SignalRejected, bide.RequestRefused, TimeoutError):  # too early or too late
        note("answered", run, "serves", runner.request(run, "ask", 1, timeout=0.02, id="ask"))

def send():
    with bide.Runner(db) as runner:  # it has no workflow: it executes nothing
        while True:
            for run in runner.runs(status="Running"):
                if run.workflow == "killed":
                    signal_all(runner, run.id)
                    answer_all(runner, run.id)
                    if run.tasks["serves"].status is not bide.TaskStatus.Completed:
                        request(runner, run.id)
            time.sleep(0.01)

def by_request(run):
    "Return who has paused a run, if anybody has."
    said = run.blocked_by or ""
    return said.removeprefix("paused on request by ") if said.startswith("paused on request") else None

def resume(client, run):
    note("resuming", run)
    with contextlib.suppress(bide.BideError):  # it has ended
        client.resume(run)

def pause(client, run, chance):
    "Pause a run, and resume it later. Nobody else pauses it meanwhile."
    try:
        client.pause(run, by=str(os.getpid()))
    except bide.BideError:  # it has ended
        return
    # Somebody has to execute it.
    for _ in range(100):
        stands = client.get(run)
        if stands.status == "Paused" and by_request(stands):
            note("paused", run)
            break
        if stands.status not in ("Running", "Paused"):
            return
        time.sleep(0.005)
    time.sleep(chance.uniform(0, 0.3))
    resume(client, run)

def cancel(client, run):
    note("cancelling", run)
    with contextlib.suppress(bide.BideError):  # it has ended
        client.cancel(run, by=str(os.getpid()))
        note("cancelled", run)

def ask(client, run, n, chance):
    if n % 5 == 3:
        cancel(client, run)
    else:
        pause(client, run, chance)

def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True

def control():
    "Cancel and pause runs with even numbers, and child runs. Resume what the dead have paused."
    chance = random.Random(seed)
    bide.Runner(db).close()  # it makes the file
    with bide.Client(db) as client:
        while True:
            runs = [run for status in ("Running", "Paused") for run in client.runs(status=status)]
            runs = [run for run in runs if run.workflow.startswith("killed")]
            chance.shuffle(runs)
            for run in runs:
                pauser = by_request(run)
                if pauser and not is_alive(int(pauser)):
                    resume(client, run.id)
                elif not over.exists() and not pauser and chance.random() < 0.1:
                    number = int(run.key) if run.key else 0
                    if number % 2 == 0:
                        ask(client, run.id, number, chance)
            time.sleep(0.02)

def live(life, up):
    chance = random.Random(seed + life)
    note("born", os.getpid())
    runner = bide.Runner(db, slots=4, workflows=[workflow, child])
    serve(runner)
    with contextlib.suppress(BrokenPipeError):  # nobody waits for it
        os.write(up, b".")
    for n in (2 * life, 2 * life + 1):
        run = runner.submit(workflow, {"n": n}, key=str(n))
        note("submitted", n)
    for other in runner.runs(status="Running", workflow="killed"):
        signal_all(runner, other.id)
    while True:
        time.sleep(chance.uniform(0, 0.1))
        ask(runner, run.id, n, chance)

def finish():
    note("born", os.getpid())
    over.touch()
    with bide.Runner(db, slots=4, workflows=[workflow, child]) as runner:
        serve(runner)
        def unfinished():
            # A run whose child is paused, as a suspect, may wait for ever.
            paused = runner.runs(status="Paused")
            stuck = {run.parent for run in paused if not by_request(run)}
            left = [*runner.runs(status="Running"), *(run for run in paused if by_request(run))]
            return [run for run in left if run.id not in stuck and run.workflow.startswith("killed")]
        while left := unfinished():
            for run in left:
                if run.workflow == "killed child":
                    time.sleep(0.005)
                    continue
                signal_all(runner, run.id)
                with contextlib.suppress(bide.BideError, TimeoutError):  # it may be paused, or wait for a child that is
                    runner.submit(workflow, {"n": int(run.key)}, key=run.key).result(10)
        runner.pause_schedule("ticks")
        runner.pause_watch("items")
        # One that was started last may not be claimed yet.
        open_runs = [(status, name) for status in ("Pending", "Running") for name in ("watched", "ticking")]
        while any(runner.runs(status=status, workflow=name) for status, name in open_runs):
            time.sleep(0.005)

def born(act, *arguments):
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        act(*arguments)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)

chance = random.Random(seed)
alive, lives = [], 0
helpers = [born(send), born(control)]
for kill in range(kills):
    for _ in range(chance.choice([1, 1, 2]) - len(alive)):
        hear, up = os.pipe()
        alive.append(born(live, lives, up))
        lives += 1
        os.close(up)
        if chance.random() < 0.8:  # else it may be killed while it opens the file
            os.read(hear, 1)
        os.close(hear)
    time.sleep(chance.uniform(0.01, 0.3))
    victim = alive.pop(chance.randrange(len(alive)))
    os.kill(victim, signal.SIGKILL)
    _, status = os.waitpid(victim, 0)
    if not os.WIFSIGNALED(status):
        sys.exit("a process ended by itself")
    say("killed", kill + 1)
for pid in alive:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
_, status = os.waitpid(born(finish), 0)
for pid in helpers:
    os.kill(pid, signal.SIGKILL)
    _, ended = os.waitpid(pid, 0)
    status = status or not os.WIFSIGNALED(ended)
sys.exit(status)
"""
