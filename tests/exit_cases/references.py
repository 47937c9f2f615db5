"""Exits while finalizers and exceptions run code, and what remains of a runner that was deleted."""

from exit_cases.case import Case

CASES = {
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
                if threading.current_thread() is not threading.main_thread():
                    entered.set()
                    forever()
        p = pool(2)
        while not entered.wait(0.05):  # the last reference may be the main thread's
            go(p, Body())
        end()
        """,
    ),
    "__del__ of a returned value that never returns": Case(
        """
        entered = threading.Event()
        class Value:
            def __del__(self):
                if threading.current_thread() is not threading.main_thread():
                    entered.set()
                    forever()
        p = pool(2)
        while not entered.wait(0.05):  # the last reference may be the main thread's
            go(p, lambda h: Value())
        end()
        """,
    ),
    "__del__ of a local in a traceback that never returns": Case(
        """
        entered = threading.Event()
        class Value:
            def __del__(self):
                if threading.current_thread() is not threading.main_thread():
                    entered.set()
                    forever()
        def body(handle):
            local = Value()
            raise ValueError
        p = pool(2)
        while not entered.wait(0.05):  # the last reference may be the main thread's
            go(p, body)
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
        p.runner.submit(p.workflow, {"n": -1})
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
}
