"""Ctrl-C and SIGTERM. For Ctrl-C at each point of `run()` see `test_interrupts.py`."""

from exit_cases.case import GO_ON, GONE_ON, Case

CASES = {
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
    "Ctrl-C in run_async()": Case(
        """
        import asyncio, signal
        p = pool(2)
        def body(handle):
            os.kill(os.getpid(), signal.SIGINT)
            try:
                handle.defer_until(lambda: False, 1000)
            except Suspended:
                print("suspended")
                raise
        async def main():
            async with p.runner:
                p.bodies[-1] = body
                await p.runner.run_async(p.workflow, {"n": -1})
        try:
            asyncio.run(main())
        except KeyboardInterrupt:
            print("interrupted")
        end()
        """,
        out="suspended\ninterrupted\n",
        again=1,
        memory=True,
    ),
    "SIGTERM without serve()": Case(
        """
        import signal
        p = pool(2)
        polled = set()
        go(p, lambda h: h.defer_until(lambda: polled.add(0), 1))
        until(lambda: polled)
        end()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
        """,
        code=-15,
        again=1,
    ),
    "Ctrl-C after SIGTERM under serve() skips the grace": Case(
        """
        import signal
        p = pool(2)
        entered = threading.Event()
        def interrupt():
            entered.wait()
            until(lambda: signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTERM)
            until(lambda: closing(p))
            os.kill(os.getpid(), signal.SIGINT)
        def closing(p):
            try:
                p.runner.runs()
            except Refused:
                return True
        threading.Thread(target=interrupt).start()
        go(p, lambda h: (entered.set(), time.sleep(1e9)))
        try:
            p.runner.serve()
        except KeyboardInterrupt:
            print("interrupted")
        end()
        """,
        out="interrupted\n",
        again=1,
    ),
    "Ctrl-C in run(), at each stage of a body": Case(
        """
        import signal
        from parked import *
        runner = bide.Runner(store(), slots=8)
        for stage in STAGES:
            def interrupt():
                until(lambda: stage in reached())
                os.kill(os.getpid(), signal.SIGINT)
            thread = threading.Thread(target=interrupt)
            thread.start()
            try:
                runner.run(stages, {"stage": stage}, key=stage)
            except KeyboardInterrupt:
                print("interrupted")
            thread.join()
        end()
        """,
        out="interrupted\n" * 5,
        then=GO_ON,
        then_out=GONE_ON,
    ),
}
