"""Exits of a process whose other threads have their own runners or still wait for runs."""

from exit_cases.case import Case

CASES = {
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
    "ten pools on ten files": Case(
        """
        runners = [bide.Runner(Path(STORE) / f"{n}.db") for n in range(10)] if STORE else [bide.Runner(":memory:")] * 10
        polled = set()
        def waits(n: int, handle: bide.TaskHandle):
            handle.defer_until(lambda: polled.add(n), 1)
        workflow = bide.Workflow("w", [bide.task(waits)])
        for n, runner in enumerate(runners):
            runner.submit(workflow, {"n": n})
        until(lambda: len(polled) == 10)
        end()
        """,
        then="""
        def waits(n: int, handle: bide.TaskHandle):
            return n
        workflow = bide.Workflow("w", [bide.task(waits)])
        for n in range(10):
            with bide.Runner(Path(STORE) / f"{n}.db", workflows=[workflow]) as runner:
                run, = runner.runs()
                until(lambda: runner.get(run.id).status == "Completed")
                assert runner.get(run.id)["waits"] == n
        print("all ten")
        """,
        then_out="all ten\n",
        memory=True,
    ),
    "a runner made in a thread, used in another, closed in a third": Case(
        """
        made = []
        def make(): made.append(pool(2))
        def use(): assert go(made[0], lambda h: 7).result() == 7
        def close(): made[0].runner.close()
        for target in (make, use, use, close):
            thread = threading.Thread(target=target)
            thread.start()
            thread.join()
        try:
            use()
        except bide.RunnerClosed:
            print("closed")
        end()
        """,
        out="closed\n",
        memory=True,
    ),
}
