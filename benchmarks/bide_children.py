"""bide's rows about child runs, on the store of the setting."""

import statistics

import bide

from . import measure
from .bide_workflows import one_workflow, open_runner


def _parent(count: int) -> bide.Workflow:
    """Build a workflow whose body starts that many children and awaits them together."""

    @bide.task(name="parent")
    def parent(handle: bide.TaskHandle) -> int:
        results = handle.wait_all(*handle.start_many(one_workflow, [{}] * count))
        return sum(result["noop"] for result in results)

    return bide.Workflow(f"parent-of-{count}", [parent])


def _in_turn(count: int) -> bide.Workflow:
    """Build a workflow whose body runs that many children one after the other."""

    @bide.task(name="parent")
    def parent(handle: bide.TaskHandle) -> int:
        return sum(handle.run(one_workflow)["noop"] for _ in range(count))

    return bide.Workflow(f"parent-of-{count}-in-turn", [parent])


def _levels() -> bide.Workflow:
    """Build a workflow that runs itself as a child, down to the level that it is given."""

    @bide.task(name="level")
    def level(remaining: int, handle: bide.TaskHandle) -> int:
        return 1 if remaining == 1 else 1 + int(handle.run(workflow, {"remaining": remaining - 1})["level"])

    workflow = bide.Workflow("levels", [level])
    return workflow


def row_children(setting: measure.Setting) -> measure.Metrics:
    """Measure children awaited together, the ratio to as many runs by `submit_many`, in turns, and one by one."""
    workflow, in_turn = _parent(measure.MANY), _in_turn(measure.IN_TURN)
    with open_runner(setting) as runner:
        runner.run(_parent(100))
        runner.register(workflow)
        runner.run(_in_turn(10))
        runner.register(in_turn)

        def together() -> None:
            for handle in runner.submit_many(one_workflow, [{}] * measure.MANY):
                handle.result()

        own, runs = measure.in_turns(
            lambda: measure.timed(lambda: runner.run(workflow)), lambda: measure.timed(together)
        )
        one_by_one = measure.timed(lambda: runner.run(in_turn))
    return {
        "children": measure.MANY / own,
        "children_growth": runs / own,
        "children_single": measure.IN_TURN / one_by_one,
    }


def row_levels(setting: measure.Setting) -> measure.Metrics:
    """Measure levels of children on one slot, and the ratio to one run, one by one."""
    workflow = _levels()
    seconds: list[list[float]] = [[], []]
    with open_runner(setting, slots=1) as runner:
        runner.run(workflow, {"remaining": 2})
        runner.run(one_workflow)
        for _ in range(measure.LEVEL_RUNS):
            seconds[0].append(measure.timed(lambda: runner.run(workflow, {"remaining": measure.LEVELS})))
            seconds[1].append(measure.timed(lambda: runner.run(one_workflow)))
    levels, one = map(statistics.median, seconds)
    return {"levels": levels * 1e3, "levels_growth": levels / one}


ROWS = {"children": row_children, "levels": row_levels}
