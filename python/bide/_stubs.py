"""Stubs: what the runner of a test calls in place of steps, bodies and conditions.

The extension asks `step` and `condition` before it calls one for a runner whose clock is moved by hand.
"""

import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from msgspec import structs

from bide._callables import is_async
from bide._compiled import CompiledWorkflow
from bide._errors import DefinitionError
from bide._text import check_text, listed

if TYPE_CHECKING:
    from bide._core import Call

KINDS = ("step", "task", "condition")

_of_runners: "weakref.WeakValueDictionary[int, Stubs]" = weakref.WeakValueDictionary()


class Stub:
    """What is called in place of something, and how often it was."""

    def __init__(self, outcome: object) -> None:
        """Keep a value, an exception, or a callable."""
        self._outcome = outcome
        self.calls = 0

    def act(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - what the user's function returns
        """Return the value, raise the exception, or call the function."""
        self.calls += 1
        outcome = self._outcome
        if isinstance(outcome, BaseException) or (isinstance(outcome, type) and issubclass(outcome, BaseException)):
            raise outcome
        return outcome(*args, **kwargs) if callable(outcome) else outcome

    def stands_for(self, function: object) -> Callable[..., Any]:
        """Return a function of the same kind that acts."""
        if not is_async(function):
            return self.act

        async def act(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - as above
            value = self.act(*args, **kwargs)
            return await value if is_async(self._outcome) else value

        return act


class Answers(Stub):
    """The answers of a condition, one after the other; the last one stands."""

    def __init__(self, answers: Iterable[object], told: Callable[[], None]) -> None:
        """Keep the answers; `told` is called after each of them."""
        super().__init__(None)
        self._answers = list(answers)
        self._told = told

    @property
    def left(self) -> int:
        """How many answers were not given yet."""
        return max(len(self._answers) - self.calls, 0)

    def act(self, *_args: Any, **_kwargs: Any) -> Any:  # noqa: ANN401 - an answer
        """Give the next answer."""
        answer = self._answers[min(self.calls, len(self._answers) - 1)]
        self.calls += 1
        self._told()
        if isinstance(answer, BaseException) or (isinstance(answer, type) and issubclass(answer, BaseException)):
            raise answer
        return answer


class Stubs:
    """The stubs of one runner, and the steps that it has called."""

    def __init__(self, prescribe: Callable[[int], None]) -> None:
        """`prescribe` is told how many answers are to come."""
        self._prescribe = prescribe
        self._lock = threading.Lock()
        self._stubs: dict[tuple[str, str], Stub] = {}
        self._every: dict[str, Stub] = {}
        self._calls: Counter[tuple[str, str]] = Counter()
        self._seen: dict[str, set[str]] = {kind: set() for kind in KINDS}

    def serve(self, number: int) -> None:
        """Be those of the runner with this number."""
        _of_runners[number] = self

    def add(self, kind: str, name: object, outcome: object) -> None:
        """Put something in the place of each step, task or condition of a name."""
        checked = check_text(name, f"stub_{kind}: the name")
        if kind == "condition":
            outcome = self._answers(checked, outcome)
        with self._lock:
            self._stubs[kind, checked] = outcome if isinstance(outcome, Stub) else Stub(outcome)
        self._tell()

    def of(self, kind: str, name: str) -> Stub | None:
        """Return what is in the place of something; a function within another one goes by its own name, too."""
        short = _short(name)
        self._seen[kind].add(short)
        found = self._stubs.get((kind, name)) or self._stubs.get((kind, short))
        return self._every.get(kind) if found is None else found

    def put_everywhere(self, kind: str, outcome: object) -> None:
        """Put something in the place of everything of a kind that has no stub of its own."""
        self._every[kind] = Stub(outcome)

    def count(self, run: str, name: str) -> None:
        """Count a call of a step."""
        with self._lock:
            self._calls[run, name] += 1
            if (short := _short(name)) != name:
                self._calls[run, short] += 1

    def calls(self, run: str, name: str) -> int:
        """Return how often a run has called the steps of a name."""
        return self._calls[run, name]

    def compiled(self, workflow: CompiledWorkflow) -> tuple[Any, ...] | None:
        """Return the tasks of a workflow with their stubs; None if it has none."""
        found = {one.name: stub for one in workflow.tasks if (stub := self.of("task", one.name)) is not None}
        if not found:
            return None
        return tuple(
            structs.replace(one, fn=found[one.name].stands_for(one.fn)) if one.name in found else one
            for one in workflow.tasks
        )

    def unused(self) -> str | None:
        """Return what is wrong with stubs that nothing has called; None if all were."""
        unused = [key for key, stub in self._stubs.items() if not stub.calls]
        if not unused:
            return None
        told = [f"stub_{kind}({name!r}) was never called{self._instead(kind)}" for kind, name in unused]
        return "; ".join(told)

    def _instead(self, kind: str) -> str:
        seen = self._seen[kind]
        return f" (called: {listed(sorted(seen))})" if kind != "task" and seen else f": no {kind} of that name was"

    def _answers(self, name: str, outcome: object) -> Answers:
        if isinstance(outcome, (str, bytes)) or not isinstance(outcome, Iterable):
            outcome = [outcome]
        answers = Answers(outcome, self._tell)
        if not answers.left:
            msg = f"stub_condition({name!r}, []) has no answer: give at least one, such as [False, True]"
            raise DefinitionError(msg)
        return answers

    def _tell(self) -> None:
        self._prescribe(sum(stub.left for stub in self._stubs.values() if isinstance(stub, Answers)))


def tested(call: "Call", name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function of the same kind that is looked up anew each time the step is called."""
    if not is_async(function):

        def call_it(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - what the step returns
            return call.tested_step(name, function)(*args, **kwargs)

        return call_it

    async def each(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - what the step returns
        return await call.tested_step(name, function)(*args, **kwargs)

    return each


def _short(name: str) -> str:
    return name.rpartition("<locals>.")[2]


def step(runner: int, run: str, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return what is called in place of a step. Called by the extension."""
    stubs = _of_runners.get(runner)
    if stubs is None:
        return function
    stubs.count(run, name)
    stub = stubs.of("step", name)
    return function if stub is None else stub.stands_for(function)


def condition(runner: int, _run: str, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return what is asked in place of a condition. Called by the extension."""
    stubs = _of_runners.get(runner)
    stub = None if stubs is None else stubs.of("condition", name)
    return function if stub is None else stub.stands_for(function)
