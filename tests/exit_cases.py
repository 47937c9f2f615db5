"""The scripts of `test_exit.py`, and what must come of each. Each begins with all names of `exit_prelude.py`."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Case:
    """A script and what must come of it."""

    script: str
    code: int = 0
    out: str = ""
    """What it must print before its end."""
    again: int = 0
    """So many runs are left for the next process on the same file."""
    memory: bool = False
    """It is tried with a store in memory, too."""


FINISH = """
# The next process on the same file: registers the workflow, whose bodies now return at once.
ended = {"Completed", "Failed"}
with bide.Runner(store()) as runner:
    left = [run.id for run in runner.runs() if run.status not in ended]
p = pool(2)
for run in left:
    until(lambda: p.runner.get(run).status in ended)
print(len(left))
p.runner.close()
"""

CASES = {
    "nothing was ever run": Case("p = pool(2)\nend()", memory=True),
    "no pool was ever made": Case("end()"),
    "idle workers": Case("p = pool(2)\nassert go(p, lambda h: 7).result() == 7\nend()", memory=True),
    "the pool is gone": Case("p = pool(2)\ngo(p, lambda h: 7).result()\ndel p\nend()", memory=True),
    "busy workers with a long queue": Case(
        """
        p = pool(2)
        for i in range(5000):
            go(p, lambda h: sum(range(10_000)))
        go(p, len)  # raises
        end()
        """,
        memory=True,
    ),
    "busy workers with callables of C": Case(
        """
        p = pool(2)
        for i in range(5_000):
            go(p, repr)
        end()
        """,
        memory=True,
    ),
    "bodies that never return": Case(
        """
        p = pool(2)
        entered = [threading.Event(), threading.Event()]
        def body(event):
            event.set()
            forever()
        for event in entered:
            go(p, lambda h, event=event: body(event))
        for event in entered:
            event.wait()
        end()
        """,
        again=2,
        memory=True,
    ),
    "a body that never returns and holds a lock of Python's": Case(
        """
        p = pool(2)
        lock = threading.RLock()
        def body(handle):
            with lock:
                entered.set()
                forever()
        entered = threading.Event()
        go(p, body)
        go(p, body)
        entered.wait()
        end()
        """,
        again=2,
    ),
    "bodies that sleep": Case(
        """
        p = pool(2)
        entered = threading.Event()
        go(p, lambda h: (entered.set(), time.sleep(1e9)))
        entered.wait()
        end()
        """,
        again=1,
    ),
    "a body whose sleep ends while the interpreter goes": Case(
        """
        import atexit
        p = pool(8)
        entered = threading.Barrier(9)
        for i in range(8):
            go(p, lambda h, i=i: (entered.wait(), time.sleep(0.29 + i * 0.01)))
        entered.wait()
        atexit.register(time.sleep, 0.1)
        end()
        """,
    ),
    "bodies blocked in C": Case(
        """
        import queue, select, socket
        p = pool(4)
        entered = threading.Barrier(5)
        lock = threading.Lock()
        lock.acquire()
        left, right = socket.socketpair()
        reader, writer = os.pipe()
        for call in (
            lock.acquire,
            queue.SimpleQueue().get,
            lambda: left.recv(1),
            lambda: os.read(reader, 1),
        ):
            go(p, lambda h, call=call: (entered.wait(), call()))
        entered.wait()
        end()
        """,
        again=4,
    ),
    "100 parked bodies": Case(
        """
        p = pool(2)
        polled = set()
        def body(handle, i):
            def condition():
                polled.add(i)
            handle.defer_until(condition, 10_000_000)
        for i in range(100):
            go(p, lambda h, i=i: body(h, i))
        until(lambda: len(polled) == 100)
        end()
        """,
        again=100,
    ),
    "100 parked bodies polled every millisecond": Case(
        """
        p = pool(2)
        polled = set()
        def body(handle, i):
            handle.defer_until(lambda: polled.add(i), 1)
        for i in range(100):
            go(p, lambda h, i=i: body(h, i))
        until(lambda: len(polled) == 100)
        end()
        """,
        again=100,
        memory=True,
    ),
    "parked bodies have Suspended raised and clean up": Case(
        """
        p = pool(2)
        polled = set()
        def body(handle, i):
            try:
                handle.defer_until(lambda: polled.add(i), 10_000_000)
            except Suspended:
                os.write(1, b"suspended\\n")
                raise
            finally:
                os.write(1, b"clean\\n")
        go(p, lambda h: body(h, 0))
        until(lambda: polled)
        """,
        out="suspended\nclean\n",
        again=1,
        memory=True,
    ),
    "a body that swallows Suspended and waits again": Case(
        """
        p = pool(2)
        polled = set()
        def body(handle, i):
            for _ in range(3):
                try:
                    handle.defer_until(lambda: polled.add(i), 10_000_000)
                except BaseException:
                    pass
            try:
                return handle.defer_until(lambda: False, 10_000_000)
            finally:
                handle.defer_until(lambda: False, 10_000_000)
        for i in range(10):
            go(p, lambda h, i=i: body(h, i))
        until(lambda: len(polled) == 10)
        end()
        """,
        again=10,
    ),
    "a body that swallows Suspended and never returns": Case(
        """
        p = pool(2)
        polled = set()
        def body(handle, i):
            try:
                handle.defer_until(lambda: polled.add(i), 10_000_000)
            except BaseException:
                forever()
        for i in range(3):
            go(p, lambda h, i=i: body(h, i))
        until(lambda: len(polled) == 3)
        end()
        """,
        again=3,
    ),
    "a condition that never returns, in a body, in a worker": Case(
        """
        p = pool(2)
        entered = threading.Event()
        def condition():
            entered.set()
            forever()
        go(p, lambda h: h.defer_until(condition, 1))
        entered.wait()
        end()
        """,
        again=1,
    ),
    "a condition that sleeps, polled again and again": Case(
        """
        p = pool(8)
        polled = set()
        def body(handle, i):
            def condition():
                polled.add(i)
                time.sleep(0.005 * (i + 1))
            handle.defer_until(condition, 1)
        for i in range(8):
            go(p, lambda h, i=i: body(h, i))
        until(lambda: len(polled) == 8)
        end()
        """,
    ),
    "truth of a value that never tells": Case(
        """
        p = pool(2)
        entered = threading.Event()
        class Value:
            def __bool__(self):
                entered.set()
                forever()
        go(p, lambda h: h.defer_until(Value, 1))
        entered.wait()
        end()
        """,
    ),
    "a body that waits for a body": Case(
        """
        p = pool(2)
        entered = threading.Event()
        go(p, lambda h: go(p, lambda h: (entered.set(), forever())).result())
        entered.wait()
        end()
        """,
    ),
    "sys.exit in a body": Case(
        """
        p = pool(2)
        t = go(p, lambda h: sys.exit(3))
        try:
            t.result()
        except BaseException:
            print("raised")
        assert go(p, lambda h: 7).result() == 7
        end()
        """,
        out="raised\n",
    ),
    "sys.exit in the script": Case(
        "p = pool(2)\ngo(p, forever)\nend()\nsys.exit(5)",
        code=5,
        again=1,
    ),
    "os._exit in the script": Case("p = pool(2)\ngo(p, forever)\nend()\nos._exit(7)", code=7, again=1),
    "os._exit in a body": Case(
        "p = pool(2)\ngo(p, lambda h: (end(), os._exit(7)))\ntime.sleep(60)",
        code=7,
    ),
    "__del__ that raises": Case(
        """
        sys.unraisablehook = lambda args: seen.append(str(args.exc_value))
        seen = []
        class Body:
            def __call__(self, handle):
                pass
            def __del__(self):
                raise ValueError("in __del__")
        p = pool(2)
        go(p, Body()).result()
        until(lambda: seen)
        go(p, lambda h, local=Body(): forever())
        print(*seen)
        end()
        """,
        out="in __del__\n",
    ),
    "__del__ of a body that never returns": Case(
        """
        entered = threading.Event()
        class Body:
            def __call__(self, handle):
                pass
            def __del__(self):
                entered.set()
                forever()
        p = pool(2)
        go(p, Body())
        entered.wait()
        end()
        """,
    ),
    "__del__ of a returned value that never returns": Case(
        """
        entered = threading.Event()
        class Value:
            def __del__(self):
                entered.set()
                forever()
        p = pool(2)
        go(p, lambda h: Value())
        entered.wait()
        end()
        """,
    ),
    "__del__ of a local in a traceback that never returns": Case(
        """
        entered = threading.Event()
        class Value:
            def __del__(self):
                entered.set()
                forever()
        def body(handle):
            local = Value()
            raise ValueError
        p = pool(2)
        go(p, body)
        entered.wait()
        end()
        """,
    ),
    "an exception whose class never returns": Case(
        """
        import ctypes
        entered = threading.Event()
        class Slow(Exception):
            def __init__(self, *args):
                entered.set()
                forever()
        set_error = ctypes.pythonapi.PyErr_SetObject  # made late by 3.11
        p = pool(2)
        go(p, lambda h: set_error(ctypes.py_object(Slow), ctypes.py_object(1)))
        entered.wait()
        end()
        """,
    ),
    "a pool made in a thread that has ended": Case(
        """
        made = []
        def thread():
            made.append(pool(2))
            go(made[0], forever)
            assert go(made[0], lambda h: 7).result() == 7
        t = threading.Thread(target=thread)
        t.start()
        t.join()
        end()
        """,
    ),
    "a thread that still waits for a body": Case(
        """
        def thread():
            p = pool(2)
            t = go(p, lambda h: (entered.set(), forever()))
            try:
                t.result()
            except Refused as e:
                os.write(1, b"refused\\n")
        entered = threading.Event()
        threading.Thread(target=thread).start()
        entered.wait()
        """,
        out="refused\n",
        again=1,
        memory=True,
    ),
    "a daemon thread that still waits for a body": Case(
        """
        def thread():
            p = pool(2)
            try:
                go(p, lambda h: (entered.set(), time.sleep(1e9))).result()
            except Refused:
                pass  # or else the thread is left where it is
        entered = threading.Event()
        threading.Thread(target=thread, daemon=True).start()
        entered.wait()
        end()
        """,
    ),
    "ten pools": Case(
        """
        pools = [pool(2) for _ in range(10)]
        go(pools[4], forever)
        for p in pools:
            go(p, lambda h: 7).result()
            go(p, lambda h: h.defer_until(lambda: False, 1))
        end()
        """,
        memory=True,
    ),
    "a pool made while exiting": Case(
        """
        import atexit
        def late():
            for call in (lambda: pool(2), lambda: go(p, forever)):
                try:
                    call()
                except Refused:
                    os.write(1, b"refused\\n")
            end()
        p = pool(2)
        atexit.register(late)
        """,
        out="refused\nrefused\n",
        memory=True,
    ),
    "fork, and the child uses the pool": Case(
        """
        p = pool(2)
        t = go(p, lambda h: (time.sleep(0.05), 7)[1])
        go(p, lambda h: h.defer_until(lambda: False, 10_000_000))
        child = os.fork()
        if not child:
            for call in (lambda: go(p, forever), t.result):
                try:
                    call()
                except Refused as e:
                    assert str(os.getpid()) in str(e), e
                    assert str(os.getppid()) in str(e), e
                    print("refused")
            sys.exit(4)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 4
        assert t.result() == 7
        assert go(p, lambda h: 8).result() == 8
        end()
        """,
        out="refused\nrefused\n",
        memory=True,
    ),
    "fork, and the child makes a pool of its own": Case(
        """
        p = pool(2)
        go(p, lambda h: h.defer_until(lambda: False, 1))
        reader, writer = os.pipe()
        child = os.fork()
        if not child:
            p = pool(2)
            assert go(p, lambda h: 7).result() == 7
            go(p, forever)
            go(p, lambda h: h.defer_until(lambda: False, 1))
            os.write(writer, b"%r" % time.monotonic())
            sys.exit(4)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 4
        assert time.monotonic() - float(os.read(reader, 99)) < 1
        end()
        """,
        memory=True,
    ),
    "fork in a body, and the child goes on from there": Case(
        """
        p = pool(2)
        def body(handle):
            child = os.fork()
            return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) if child else 0
        assert go(p, body).result() == 0
        assert go(p, lambda h: 7).result() == 7
        end()
        """,
        memory=True,
    ),
    "multiprocessing by fork": Case(
        """
        import multiprocessing
        p = pool(2)
        go(p, forever)
        def target():
            own = pool(2)
            assert go(own, lambda h: 7).result() == 7
            go(own, forever)
        process = multiprocessing.get_context("fork").Process(target=target)
        process.start()
        process.join()
        assert process.exitcode == 0, process.exitcode
        end()
        """,
    ),
    "a second interpreter": Case(
        """
        try:
            import _interpreters as interpreters
        except ImportError:
            import _xxsubinterpreters as interpreters
        # (Beside a thread that never waits, CPython 3.11 itself hangs in the second.)
        p = pool(2)
        go(p, lambda h: h.defer_until(lambda: False, 1))
        # Without bide around it, which may not load there for reasons of its own.
        code = f'''if True:
            import importlib.util, os
            spec = importlib.util.spec_from_file_location("bide._core", {bide._core.__file__!r})
            try:
                spec.loader.exec_module(importlib.util.module_from_spec(spec))
            except ImportError as e:
                os.write(1, b"refused\\\\n" if "bide" in str(e) else str(e).encode())
        '''
        one = interpreters.create()
        interpreters.run_string(one, code)
        interpreters.destroy(one)
        assert go(p, lambda h: 7).result() == 7
        end()
        """,
        out="refused\n",
    ),
    "a neighbour gets in between callables of C": Case(
        """
        p = pool(2)
        wide = bide.Workflow("wide", [bide.task(repr, name=f"t{i}") for i in range(10_000)])
        handle = p.runner.submit(wide, {"obj": 1})
        for i in range(2):
            time.sleep(0)  # leaves the interpreter and wants it back
        # All of that, beside 10,000 bodies that never look whether anybody waits.
        if handle.status() == "Running":
            print("while they ran")
        end()
        """,
        out="while they ran\n",
    ),
    "every form of call": Case(
        """
        def zero(): return []
        def one(a): return [a]
        def two(a, b, /): return [a, b]
        def three(a, b, c=3): return [a, b, c]
        def four(a, b, c=3, d=4): return [a, b, c, d]
        def six(a, b, c=3, d=4, e=5, f=6): return [a, b, c, d, e, f]
        def named(a, *, b, k=7): return [a, b, k]
        def fails(a): raise KeyError(a)
        p = pool(2)
        for fn, given, returned in (
            (zero, {}, []),
            (one, {"a": 1}, [1]),
            (two, {"a": 1, "b": 2}, [1, 2]),
            (three, {"a": 1, "b": 2}, [1, 2, 3]),
            (four, {"a": 1, "b": 2, "d": 5}, [1, 2, 3, 5]),
            (six, {"a": 1, "b": 2}, [1, 2, 3, 4, 5, 6]),
            (named, {"a": 1, "b": 2}, [1, 2, 7]),
        ):
            flow = bide.Workflow(fn.__name__, [bide.task(fn, name="it")])
            assert p.runner.run(flow, given)["it"] == returned
        flow = bide.Workflow("fails", [bide.task(fails)])
        for i in range(100):
            try:
                p.runner.run(flow, {"a": i})
            except bide.RunFailed as e:
                assert e.__cause__.args == (i,), e.__cause__
                assert e.__cause__.__traceback__.tb_frame.f_code is fails.__code__
        try:
            p.runner.run(bide.Workflow("chr", [bide.task(chr, name="chr")]), {"i": -1})
        except bide.RunFailed as e:
            # Raised in C: the exception is made late in 3.11.
            assert isinstance(e.__cause__, ValueError), e.__cause__
        end()
        """,
    ),
    "nothing of a failed task is left": Case(
        """
        import gc
        class Local:
            def __del__(self):
                gone.append(1)
        gone = []
        def body(handle):
            local = Local()
            raise ValueError
        p = pool(2)
        go(p, body)
        until(lambda: len(gone) == 1)
        try:
            go(p, body).result()
        except bide.RunFailed as e:
            assert isinstance(e.__cause__, ValueError)
            assert len(gone) == 1
        gc.collect()
        until(lambda: len(gone) == 2)
        end()
        """,
        memory=True,
    ),
    "a daemon thread that catches nothing": Case(
        """
        def wait():
            go(p, lambda h: (entered.set(), time.sleep(1e9))).result()
        def submit():
            while True:
                go(p, lambda h: 7).result()
        p = pool(2)
        entered = threading.Event()
        for target in (wait, submit, submit):
            threading.Thread(target=target, daemon=True).start()
        entered.wait()
        end()
        """,
        memory=True,
    ),
    "an event loop in a thread that still awaits a run": Case(
        """
        import asyncio
        def thread():
            async def main():
                try:
                    await go(p, lambda h: (entered.set(), time.sleep(1e9))).handle
                except Refused:
                    os.write(1, b"refused\\n")
            asyncio.run(main())
        p = pool(2)
        entered = threading.Event()
        threading.Thread(target=thread).start()
        entered.wait()
        """,
        out="refused\n",
    ),
    "a gate whose condition never returns": Case(
        """
        entered = threading.Event()
        def condition():
            entered.set()
            forever()
        def gated(): ...
        p = pool(2)
        flow = bide.Workflow("gated", [bide.task(gated, gate=bide.until(condition, every=0.001))])
        p.runner.submit(flow)
        entered.wait()
        assert go(p, lambda h: 7).result() == 7
        end()
        """,
    ),
    "100 gates polled every millisecond": Case(
        """
        polls = []
        def condition(i: int):
            polls.append(i)
        def gated(i: int): ...
        p = pool(2)
        flow = bide.Workflow("gated", [bide.task(gated, gate=bide.until(condition, every=0.001))])
        p.runner.submit_many(flow, [{"i": i} for i in range(100)])
        until(lambda: len(set(polls)) == 100)
        end()
        """,
        memory=True,
    ),
    "the last reference goes in a body of its own": Case(
        """
        holder = []
        done = threading.Event()
        def body(handle):
            holder.clear()
            done.set()
        p = pool(2)
        holder.append(p)
        held = go(p, lambda h: time.sleep(0.05)).handle.id
        p.bodies[-1] = body
        p.runner.submit(p.flow, {"n": -1})
        del p
        done.wait()
        end()
        """,
    ),
    "a runner for each of 200 tests": Case(
        """
        def count(what):
            return len(os.listdir("/proc/self/" + what))
        def use(close):
            p = pool(2)
            assert go(p, lambda h: 7).result() == 7
            go(p, lambda h: h.defer_until(lambda: False, 1000))
            if close:
                p.runner.close()
        for close in (True, False):
            use(close)
            until(lambda: count("task") == 1)
            files = count("fd")
            for i in range(100):
                use(close)
            # A closed runner has no threads any more; one that was dropped has its own to end them.
            until(lambda: count("task") == 1)
            assert count("fd") == files, (count("fd"), files)
        end()
        """,
        memory=True,
    ),
    "fork in a body that raises in the child": Case(
        """
        p = pool(2)
        def body(handle, exception):
            child = os.fork()
            if not child:
                sys.stderr = sys.stdout = open(os.devnull, "w")
                raise exception
            return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        for exception, code in ((SystemExit(4), 4), (SystemExit(), 0), (ValueError("in the child"), 1)):
            assert go(p, lambda h: body(h, exception)).result() == code
        assert not [run for run in p.runner.runs() if run.status != "Completed"]
        end()
        """,
    ),
    "fork in a condition and in a step": Case(
        """
        p = pool(2)
        def ends():
            child = os.fork()
            return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) + 1 if child else 0
        assert go(p, lambda h: h.defer_until(ends, 1)).result() == 1
        assert go(p, lambda h: h.step(ends)).result() == 1
        end()
        """,
    ),
    "fork beside a busy runner, again and again": Case(
        """
        p = pool(2)
        stop = threading.Event()
        def busy():
            while not stop.is_set():
                go(p, lambda h: 7).result()
        threads = [threading.Thread(target=busy) for _ in range(2)]
        for thread in threads:
            thread.start()
        for i in range(10):
            child = os.fork()
            if not child:
                own = pool(2)
                assert go(own, lambda h: 7).result() == 7
                own.runner.close()
                os._exit(5)
            deadline = time.monotonic() + 10
            while not (ended := os.waitpid(child, os.WNOHANG))[0]:
                if time.monotonic() > deadline:
                    os.kill(child, 9)
                time.sleep(0.001)
            assert os.waitstatus_to_exitcode(ended[1]) == 5, ended
        stop.set()
        for thread in threads:
            thread.join()
        end()
        """,
    ),
    "multiprocessing by spawn": Case(
        """
        import multiprocessing
        def target():
            own = pool(2)
            assert go(own, lambda h: 7).result() == 7
            go(own, forever)
        if __name__ == "__main__":
            p = pool(2)
            go(p, forever)
            process = multiprocessing.get_context("spawn").Process(target=target)
            process.start()
            process.join()
            assert process.exitcode == 0, process.exitcode
            assert go(p, lambda h: 7).result() == 7
            end()
        """,
    ),
    "Ctrl-C in run()": Case(
        """
        import signal
        p = pool(2)
        def body(handle):
            os.kill(os.getpid(), signal.SIGINT)
            try:
                handle.defer_until(lambda: False, 1000)
            except Suspended:
                print("suspended")
                raise
        try:
            with p.runner:
                go(p, body).result()
        except KeyboardInterrupt:
            print("interrupted")
        end()
        """,
        out="suspended\ninterrupted\n",
        again=1,
        memory=True,
    ),
    "a second Ctrl-C skips the grace": Case(
        """
        import signal
        p = pool(2)
        entered = threading.Event()
        def body(handle):
            entered.set()
            time.sleep(1e9)
        def interrupt():
            entered.wait()
            os.kill(os.getpid(), signal.SIGINT)
            # The grace of `with` is 5 seconds. That it has begun is not to be seen but in the runner's closing.
            until(lambda: closing(p))
            os.kill(os.getpid(), signal.SIGINT)
            until(lambda: p.runner._core.closed)
        def closing(p):
            try:
                p.runner.runs()
            except Refused:
                return True
        threading.Thread(target=interrupt).start()
        begun = time.monotonic()
        try:
            with p.runner:
                go(p, body).result()
        except KeyboardInterrupt:
            print("interrupted")
        assert time.monotonic() - begun < 2
        end()
        """,
        out="interrupted\n",
        again=1,
    ),
    "SIGTERM under serve()": Case(
        """
        import signal
        p = pool(2)
        def body(handle):
            until(lambda: signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTERM)
            try:
                handle.defer_until(lambda: False, 1000)
            finally:
                print("clean")
        go(p, body)
        p.runner.serve()
        print("closed")
        end()
        """,
        out="clean\nclosed\n",
        again=1,
    ),
}
