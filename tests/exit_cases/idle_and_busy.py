"""Exits of a process whose workers are idle or fully busy."""

from exit_cases.case import Case

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
    "a neighbour gets in between callables of C": Case(
        """
        p = pool(2)
        wide = bide.Workflow("wide", [bide.task(repr, name=f"t{i}") for i in range(10_000)])
        def gets_in():
            handle = p.runner.submit(wide, {"obj": 1})
            for i in range(2):
                time.sleep(0)  # leaves the interpreter and wants it back
            # All of that, beside 10,000 bodies that never look whether anybody waits.
            return handle.status() == "Running"
        # On a busy machine this thread may have no processor for as long as they take.
        if any(gets_in() for i in range(10)):
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
            workflow = bide.Workflow(fn.__name__, [bide.task(fn, name="it")])
            assert p.runner.run(workflow, given)["it"] == returned
        workflow = bide.Workflow("fails", [bide.task(fails)])
        for i in range(100):
            try:
                p.runner.run(workflow, {"a": i})
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
}
