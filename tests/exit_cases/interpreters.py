"""A second interpreter of the process, and an interpreter without its main module."""

from exit_cases.case import Case

CASES = {
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
    "a second interpreter that imports all of bide": Case(
        """
        try:
            import _interpreters as interpreters
        except ImportError:
            import _xxsubinterpreters as interpreters
        p = pool(2)
        code = f'''if True:
            import os, sys
            sys.path[:] = {sys.path!r}
            try:
                import bide
            except ImportError as e:
                os.write(1, b"refused\\\\n" if "bide" in str(e) else str(e).encode())
        '''
        for made in made_in_each_way(interpreters):
            interpreters.run_string(made, code)
            interpreters.destroy(made)
        assert go(p, lambda h: 7).result() == 7
        end()
        """,
        out="refused\nrefused\n",
    ),
    "a second interpreter, made in a body": Case(
        """
        try:
            import _interpreters as interpreters
        except ImportError:
            import _xxsubinterpreters as interpreters
        def body(handle):
            for made in made_in_each_way(interpreters):
                interpreters.run_string(made, "x = sum(range(10))")
                interpreters.destroy(made)
            handle.defer_until(lambda: True, 1)
            return 7
        p = pool(2)
        assert go(p, body).result() == 7
        end()
        """,
    ),
    "the main module is gone": Case(
        """
        p = pool(2)
        polled = set()
        main = sys.modules.pop("__main__")
        def waits(handle: bide.TaskHandle):
            handle.defer_until(lambda: polled.add(0), 1)
        workflow = bide.Workflow("w", [bide.task(waits)])
        p.runner.submit(workflow)
        until(lambda: polled)
        assert go(p, lambda h: h.step(lambda: 7)).result() == 7
        end()
        """,
        memory=True,
    ),
}
