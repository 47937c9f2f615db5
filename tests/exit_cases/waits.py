"""Exits during waits: what parked bodies see, and what their conditions do meanwhile."""

from exit_cases.case import GO_ON, GONE_ON, Case

CASES = {
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
    "a gate whose condition never returns": Case(
        """
        entered = threading.Event()
        def condition():
            entered.set()
            forever()
        def gated(): ...
        logging.getLogger("bide").addHandler(logging.NullHandler())  # it is named as slow there
        p = pool(2)
        workflow = bide.Workflow("gated", [bide.task(gated, gate=bide.until(condition, every=0.001))])
        p.runner.submit(workflow)
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
        workflow = bide.Workflow("gated", [bide.task(gated, gate=bide.until(condition, every=0.001))])
        p.runner.submit_many(workflow, [{"i": i} for i in range(100)])
        until(lambda: len(set(polls)) == 100)
        end()
        """,
        memory=True,
    ),
    "100 parked bodies go on where they were": Case(
        """
        from parked import *
        runner = bide.Runner(store())
        handles = runner.submit_many(workflow, [{"n": n} for n in range(100)], keys=map(str, range(100)))
        until(lambda: all(deferred(handle) for handle in handles))
        end()
        """,
        then="""
        from parked import *
        flag.touch()
        runner = bide.Runner(store(), workflows=[workflow])
        for n in range(100):
            result = runner.run(workflow, {"n": n}, key=str(n))
            number, first, reentered, attempt = result["waits"]
            # The step is not done again, the attempt is the same.
            assert (number, attempt, reentered) == (n, 1, os.getpid()), result["waits"]
            assert first != os.getpid()
        print("resumed")
        """,
        then_out="resumed\n",
    ),
    "a wait between a step and a step, left at each of them": Case(
        """
        from parked import *
        runner = bide.Runner(store())
        handles = [runner.submit(stages, {"stage": stage}, key=stage) for stage in STAGES]
        until(lambda: len(reached()) == len(STAGES))
        end()
        """,
        then=GO_ON,
        then_out=GONE_ON,
    ),
    "a condition that waits for a run whose condition waits for a run": Case(
        """
        p = pool(4)
        asked = threading.Event()
        def innermost():
            asked.set()
        inner = lambda h: h.defer_until(innermost, 1)
        middle = lambda h: h.defer_until(lambda: aside(lambda: go(p, inner).result()), 1)
        go(p, lambda h: h.defer_until(lambda: aside(lambda: go(p, middle).result()), 1))
        asked.wait()
        end()
        """,
        again=3,
        memory=True,
    ),
    "a condition with a runner of its own, whose conditions never return": Case(
        """
        p = pool(2)
        asked = threading.Event()
        def innermost():
            asked.set()
            forever()
        def condition():
            with bide.Runner(":memory:") as inner:
                waits = bide.task(lambda handle: handle.defer_until(innermost, 1), name="waits")
                return aside(lambda: inner.run(bide.Workflow("inner", [waits]))["waits"])
        go(p, lambda h: h.defer_until(condition, 1))
        asked.wait()
        end()
        """,
        again=1,
        memory=True,
    ),
    "bodies, conditions and gates that are all in the middle of something": Case(
        """
        p = pool(8)
        busy = threading.Barrier(7)
        def meet(first=[]):
            me = threading.get_ident()
            if me not in first:
                first.append(me)
                busy.wait()
        def forever_but_first():
            meet()
            forever()
        def gated(): ...
        for body in (
            lambda h: forever_but_first(),
            lambda h: h.defer_until(forever_but_first, 1),
            lambda h: h.step(forever_but_first),
            lambda h: (meet(), time.sleep(1e9)),
            lambda h: h.defer_until(lambda: (meet(), time.sleep(1e9)), 1),
        ):
            go(p, body)
        logging.getLogger("bide").addHandler(logging.NullHandler())  # it is named as slow there
        p.runner.submit(bide.Workflow("gated", [bide.task(gated, gate=bide.until(forever_but_first))]))
        busy.wait()
        end()
        """,
        then="""
        p = pool(8)
        def gated(): ...
        p.runner.register(bide.Workflow("gated", [bide.task(gated, gate=bide.until(lambda: True))]))
        until(lambda: all(run.status == "Completed" for run in p.runner.runs()))
        print(len(p.runner.runs()))
        """,
        then_out="6\n",
        memory=True,
    ),
    "what is raised in finally while a body is suspended": Case(
        """
        p = pool(2)
        polled = set()
        def body(handle):
            try:
                handle.defer_until(lambda: polled.add(0), 10_000_000)
            finally:
                assert handle.suspending
                os.write(1, b"raises\\n")
                raise ValueError("in finally")
        go(p, body)
        until(lambda: polled)
        end()
        """,
        out="raises\n",
        again=1,
        memory=True,
    ),
    "__del__ that raises while a body is suspended": Case(
        """
        sys.unraisablehook = lambda args: os.write(1, f"{args.exc_value}\\n".encode())
        class Local:
            def __del__(self):
                raise ValueError("in __del__")
        p = pool(2)
        polled = set()
        def body(handle):
            local = Local()
            handle.defer_until(lambda: polled.add(0), 10_000_000)
        go(p, body)
        until(lambda: polled)
        end()
        """,
        out="in __del__\n",
        again=1,
        memory=True,
    ),
    "a body that waits, steps and sleeps again in finally": Case(
        """
        p = pool(2)
        polled = set()
        def body(handle):
            try:
                handle.defer_until(lambda: polled.add(0), 10_000_000)
            finally:
                for wait in (
                    lambda: handle.defer_until(lambda: True, 1),
                    lambda: handle.wait(bide.until(lambda: True)),
                    lambda: handle.sleep(0),
                    lambda: handle.step(os.write, 1, b"a step\\n"),
                    handle.now,
                ):
                    try:
                        wait()
                    except Suspended:
                        os.write(1, b"suspended\\n")
                handle.sleep(1e6)
        go(p, body)
        until(lambda: polled)
        end()
        """,
        out="suspended\n" * 5,
        again=1,
        memory=True,
    ),
    "except BaseException: pass around a wait": Case(
        """
        from parked import *
        runner = bide.Runner(store())
        handle = runner.submit(careless, key="k")
        until(lambda: deferred(handle))
        end()
        """,
        then="""
        from parked import *
        flag.touch()
        # Not what the body returned on its way out.
        print(bide.Runner(store()).run(careless, key="k")["swallows"])
        """,
        then_out="the flag is there\n",
    ),
    "locks and files that are held across a wait": Case(
        """
        p = pool(2)
        lock = threading.Lock()
        polled = set()
        def body(handle):
            with lock, open(os.devnull) as file:
                handle.defer_until(lambda: polled.add(0), 10_000_000)
        go(p, body)
        until(lambda: polled)
        def late():
            print(lock.acquire(timeout=10))
        import atexit
        atexit.register(late)
        end()
        """,
        out="True\n",
        again=1,
    ),
}
