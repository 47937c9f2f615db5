"""Forks beside a live runner, and processes that multiprocessing starts: the child and the parent afterwards."""

from exit_cases.case import Case

CASES = {
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
        assert time.monotonic() - float(os.read(reader, 99)) < 10  # it hangs, or it does not
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
    "fork, and the child leaves the with block": Case(
        """
        p = pool(2)
        go(p, lambda h: h.defer_until(lambda: False, 1))
        with p.runner:
            child = os.fork()
            if not child:
                sys.exit(4)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 4
            assert go(p, lambda h: 7).result() == 7
        end()
        """,
        again=1,
        memory=True,
    ),
    "fork, and the child outlives its parent": Case(
        """
        p = pool(2)
        polled = set()
        def body(handle, i):
            handle.defer_until(lambda: polled.add(i), 1)
        for i in range(20):
            go(p, lambda h, i=i: body(h, i))
        until(lambda: len(polled) == 20)
        if not os.fork():
            os.setsid()
            null = os.open(os.devnull, os.O_RDWR)
            for number in range(3):
                os.dup2(null, number)
            # It holds nothing of its parent's: the next process has the runs while this one is still there.
            over = Path(STORE) / "over"
            deadline = time.monotonic() + 30
            until(lambda: over.exists() or time.monotonic() > deadline)
            os._exit(0)
        end()
        os._exit(0)
        """,
        then="""
        began = time.monotonic()
        p = pool(2)
        until(lambda: all(run.status == "Completed" for run in p.runner.runs()))
        print(len(p.runner.runs()), time.monotonic() - began < 10)  # a lease expires after 15 seconds
        (Path(STORE) / "over").touch()
        """,
        then_out="20 True\n",
    ),
    "fork in a thread, while others wait, poll and submit": Case(
        """
        p = pool(4)
        polled = set()
        for i in range(10):
            go(p, lambda h, i=i: h.defer_until(lambda: polled.add(i), 1))
        until(lambda: len(polled) == 10)
        codes = []
        def forks(n):
            child = os.fork()
            if not child:
                try:
                    go(p, lambda h: 7)
                except Refused:
                    with bide.Runner(":memory:") as own:
                        os._exit(own.run(bide.Workflow("own", [bide.task(lambda: n, name="own")]))["own"])
            codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        threads = [threading.Thread(target=forks, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for n in range(100):
            assert go(p, lambda h: n).result() == n
        for thread in threads:
            thread.join()
        print(sorted(codes))
        end()
        """,
        out="[0, 1, 2, 3]\n",
        again=10,
        memory=True,
    ),
    "fork in a body, and the child uses its handle": Case(
        """
        p = pool(2)
        def body(handle):
            child = os.fork()
            if child:
                return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            refused = 0
            for use in (lambda: handle.sleep(1), lambda: handle.step(int), handle.now, handle.is_slot_held):
                try:
                    use()
                except Refused as e:
                    assert "TaskHandle" in str(e), e
                    refused += 1
            os._exit(refused)
        print(go(p, body).result())
        end()
        """,
        out="4\n",
    ),
    "multiprocessing by a fork server": Case(
        """
        import multiprocessing
        def target():
            own = pool(2)
            assert go(own, lambda h: 7).result() == 7
            go(own, forever)
        if __name__ == "__main__":
            p = pool(2)
            go(p, forever)
            process = multiprocessing.get_context("forkserver").Process(target=target)
            process.start()
            process.join()
            assert process.exitcode == 0, process.exitcode
            end()
        """,
    ),
    "a pool of processes, made in bodies by fork and by spawn": Case(
        """
        import concurrent.futures, multiprocessing
        if __name__ == "__main__":
            p = pool(2)
            def body(handle, how):
                context = multiprocessing.get_context(how)
                with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as executor:
                    return sum(executor.map(abs, range(-3, 0)))
            tickets = [go(p, lambda h, how=how: body(h, how)) for how in ("fork", "spawn")]
            print([ticket.result() for ticket in tickets])
            end()
        """,
        out="[6, 6]\n",
    ),
}
