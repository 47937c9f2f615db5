"""Large values on PostgreSQL: what fits is kept, what does not is refused with a name, and nothing of it is written."""

from collections.abc import Callable

import pytest

import bide
import postgres_server

MOST = 64 * 2**20
JUST_FITS = "x" * (MOST - 1024)
TOO_LARGE = "x" * (MOST + 1)

WORD = bide.signal("word", str)


@bide.task
def noop() -> int:
    return 1


NOOP = bide.Workflow("noop", [noop])


def in_body(call: Callable[[bide.TaskHandle, bide.Context], object]) -> bide.Workflow:
    @bide.task
    def work(handle: bide.TaskHandle, context: bide.Context) -> bool:
        return call(handle, context) in {JUST_FITS, None}

    return bide.Workflow("w", [work])


def output(value: str) -> bide.Workflow:
    @bide.task
    def big() -> str:
        return value

    @bide.task
    def work(big: str) -> bool:
        return big == value

    return bide.Workflow("w", [big, work])


MAKE: dict[str, Callable[[str], bide.Workflow]] = {
    "output": output,
    "step": lambda value: in_body(lambda handle, _: handle.step(lambda: value, name="s")),
    "context": lambda value: in_body(lambda _, context: context.set("a", value)),
}


def most_bytes(store: str) -> int:
    """Return the size of the largest value that is stored, as it is stored."""
    schema = store.partition("schema=")[2]
    columns = [("task", "output"), ("task", "changes"), ("journal", "value"), ("run", "inputs"), ("message", "value")]
    sizes = [f"(SELECT max(length({column})) FROM {schema}.{table})" for table, column in columns]  # noqa: S608 - of this test
    [row] = postgres_server.sql(store, f"SELECT coalesce(greatest({', '.join(sizes)}), 0)")
    return int(row)


@pytest.mark.parametrize("kind", MAKE)
def test_what_a_body_makes_is_kept_or_refused_as_a_whole(postgres: str, kind: str) -> None:
    with bide.Runner(postgres) as runner:
        with pytest.raises(bide.RunFailed) as failed:
            runner.run(MAKE[kind](TOO_LARGE), key="large", timeout=60)
        assert isinstance(failed.value.__cause__, bide.SerializationError)
        assert "more than 64 MiB: store a path instead" in str(failed.value)
        assert most_bytes(postgres) < MOST / 2
        assert runner.run(MAKE[kind](JUST_FITS), key="fits", timeout=60)["work"] is True
        assert runner.run(NOOP, timeout=30)["noop"] == 1
    with bide.Runner(postgres) as runner:
        assert runner.get("fits")["work"] is True
        assert most_bytes(postgres) > MOST / 2


def test_an_input_is_kept_or_refused_as_a_whole(postgres: str) -> None:
    @bide.task
    def work(big: str) -> bool:
        return big == JUST_FITS

    workflow = bide.Workflow("w", [work])
    with bide.Runner(postgres) as runner:
        with pytest.raises(bide.SerializationError, match=r"'big'.*64\.1 MiB.*store a path"):
            runner.run(workflow, {"big": TOO_LARGE}, key="large")
        assert runner.runs() == []
        assert runner.run(workflow, {"big": JUST_FITS}, key="fits", timeout=60)["work"] is True


def test_a_signal_is_kept_or_refused_as_a_whole(postgres: str) -> None:
    @bide.task
    def work(handle: bide.TaskHandle) -> bool:
        return handle.wait(WORD) == JUST_FITS

    workflow = bide.Workflow("w", [work], signals=[WORD])
    with bide.Runner(postgres) as runner, bide.Client(postgres) as client:
        run = runner.submit(workflow)
        with pytest.raises(bide.SerializationError, match=r"'word'.*64\.1 MiB.*store a path"):
            client.signal(run.id, WORD, TOO_LARGE)
        assert most_bytes(postgres) < MOST / 2
        client.signal(run.id, WORD, JUST_FITS)
        assert run.result(timeout=60)["work"] is True


def test_what_is_committed_together_may_be_larger_than_one_message_of_the_server(postgres: str) -> None:
    @bide.task
    def one() -> str:
        return JUST_FITS

    @bide.task
    def two() -> str:
        return JUST_FITS

    @bide.task
    def three() -> str:
        return JUST_FITS

    workflow = bide.Workflow("w", [one, two, three])
    with bide.Runner(postgres, slots=1) as runner:
        assert runner.run(workflow, key="k", timeout=60)["three"] == JUST_FITS
    with bide.Client(postgres) as client:
        assert [client.get("k")[name] == JUST_FITS for name in ("one", "two", "three")] == [True] * 3
