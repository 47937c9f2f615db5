"""Exits while bodies execute: bodies that never return, block in C, or end the process themselves."""

from exit_cases.case import Case

CASES = {
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
    "a body that waits for a body": Case(
        """
        p = pool(2)
        entered = threading.Event()
        go(p, lambda h: aside(lambda: go(p, lambda h: (entered.set(), forever())).result()))
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
    "sys.exit in a condition, in a step and in a gate's condition": Case(
        """
        def exits(): sys.exit(3)
        def gated(): ...
        p = pool(2)
        workflow = bide.Workflow("gated", [bide.task(gated, gate=bide.until(exits))])
        tickets = [go(p, lambda h: h.defer_until(exits, 1)), go(p, lambda h: h.step(exits))]
        for handle in [ticket.handle for ticket in tickets] + [p.runner.submit(workflow)]:
            try:
                handle.result()
            except bide.RunFailed as e:
                print("SystemExit" in str(e))
        assert go(p, lambda h: 7).result() == 7
        end()
        """,
        out="True\nTrue\nTrue\n",
    ),
    "sys.exit in a body, beside which others are parked": Case(
        """
        p = pool(2)
        polled = set()
        for i in range(10):
            go(p, lambda h, i=i: h.defer_until(lambda: polled.add(i), 1))
        until(lambda: len(polled) == 10)
        try:
            go(p, lambda h: sys.exit(3)).result()
        except bide.RunFailed as e:
            print(type(e.__cause__).__name__)
        end()
        sys.exit(4)
        """,
        code=4,
        out="SystemExit\n",
        again=10,
        memory=True,
    ),
    "os._exit in a condition": Case(
        "p = pool(2)\ngo(p, lambda h: h.defer_until(lambda: (end(), os._exit(7)), 1))\ntime.sleep(60)",
        code=7,
        again=1,
        memory=True,
    ),
    "os._exit in a step": Case(
        "p = pool(2)\ngo(p, lambda h: h.step(lambda: (end(), os._exit(7))))\ntime.sleep(60)",
        code=7,
        again=1,
    ),
    "os._exit in a body that is suspended": Case(
        """
        p = pool(2)
        polled = set()
        def body(handle):
            try:
                handle.defer_until(lambda: polled.add(0), 10_000_000)
            finally:
                os._exit(7)
        go(p, body)
        until(lambda: polled)
        end()
        """,
        code=7,
        again=1,
    ),
}
