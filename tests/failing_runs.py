"""Failing runs that the tests of failures share."""

from collections.abc import Callable
from typing import Any

import pytest

import bide


def failing(runner: bide.Runner, workflow: bide.Workflow, inputs: dict[str, Any] | None = None) -> bide.RunFailed:
    with pytest.raises(bide.RunFailed) as failed:
        runner.run(workflow, inputs)
    return failed.value


def failure() -> bide.RunFailed:
    """Return the error of a run that failed."""
    with bide.Runner(":memory:") as runner:
        return failing(runner, bide.Workflow("failing", [named("load", fails=True)]))


def result_of(failed: bide.RunFailed) -> bide.RunResult:
    return failed.result


def statuses(result: bide.RunResult) -> dict[str, bide.TaskStatus]:
    return {name: task.status for name, task in result.tasks.items()}


def named(name: str, fails: bool = False, **options: Any) -> Callable[..., Any]:
    def body() -> str:
        if fails:
            raise ValueError(name)
        return name

    return bide.task(body, name=name, **options)
