"""Binding: where each parameter gets its value, and what is refused when a workflow is built."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import pytest

import bide
import lazy_names
from bide._bind import Source, bind, check_defaults, nearest, with_writers
from bide._codec import Codec
from bide._signature import MISSING

TASKS = ("load", "load-data", "clean", "me")


def kinds(fn: Callable[..., Any], **options: Any) -> dict[str, str]:
    """Return "kind:name" for each parameter."""
    return {source.parameter: f"{source.kind}:{source.name}" for source in bind(fn, "me", TASKS, **options).sources}


def test_the_order_is_special_then_task_then_input() -> None:
    def body(context, load, path, handle=None, size=3): ...  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202

    binding = bind(body, "me", TASKS)
    assert [(source.kind, source.name) for source in binding.positional] == [
        ("context", "context"),
        ("task", "load"),
        ("input", "path"),
        ("handle", "handle"),
        ("input", "size"),
    ]
    assert binding.dependencies == ("load",)
    assert [(one.name, one.required) for one in binding.inputs] == [("path", True), ("size", False)]
    assert (binding.wants_context, binding.wants_handle) == (True, True)
    assert binding.positional[4].default == 3
    assert binding.positional[2].default is MISSING


@pytest.mark.parametrize(
    ("name", "kind"), [("context", "context"), ("ctx", "context"), ("handle", "handle"), ("task_handle", "handle")]
)
def test_the_four_reserved_names_are_special_unless_annotated(name: str, kind: str) -> None:
    scope: dict[str, Any] = {"Any": Any}
    exec(f"def plain({name}): ...\ndef said({name}: str): ...", scope)  # noqa: S102 - the names are test data
    assert kinds(scope["plain"]) == {name: f"{kind}:{name}"}
    assert kinds(scope["said"]) == {name: f"input:{name}"}


def test_an_annotation_decides_for_any_name() -> None:
    def body(load: bide.Context, x: bide.TaskHandle, y: bide.Context | None, z: Annotated[bide.TaskHandle, "doc"]): ...  # type: ignore[no-untyped-def]  # noqa: ANN202

    assert kinds(body) == {"load": "context:load", "x": "handle:x", "y": "context:y", "z": "handle:z"}


def test_a_list_of_contexts_is_no_context() -> None:
    def body(x: list[bide.Context]) -> None: ...

    with pytest.raises(bide.DefinitionError, match="parameter 'x' is annotated"):
        bind(body, "me", TASKS)


def test_a_body_that_does_not_ask_gets_no_handle() -> None:
    binding = bind(lambda load: load, "me", TASKS)
    assert not binding.wants_handle
    assert not binding.wants_context


def test_from_and_input_say_it_outright() -> None:
    def body(
        rows: Annotated[list[int], bide.From("load-data")],
        where: Annotated[Path, bide.Input("path")],
        clean: Annotated[int, bide.From("load")],
        again: Annotated[Path, bide.Input("path")] = Path(),
    ) -> None: ...

    binding = bind(body, "me", TASKS)
    assert kinds(body) == {
        "rows": "task:load-data",
        "where": "input:path",
        "clean": "task:load",
        "again": "input:path",
    }
    assert binding.dependencies == ("load-data", "load")
    assert [(one.name, one.required) for one in binding.inputs] == [("path", True)]
    codec = binding.positional[1].codec
    assert codec is not None
    assert codec.annotation is Path
    assert codec.decode(b"sx") == Path("x")


def test_positional_only_keyword_only_and_the_rest() -> None:
    def body(a, /, b, *, load, c=1, **rest): ...  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN003, ANN202

    binding = bind(body, "me", TASKS)
    assert [source.name for source in binding.positional] == ["a", "b"]
    assert [name for name, _ in binding.keyword] == ["load", "c"]
    assert binding.dependencies == ("load",)


def test_wrapped_functions_are_looked_through() -> None:
    @functools.wraps(lazy_names.fine)
    def outer(*args: Any, **kwargs: Any) -> Any:
        return lazy_names.fine(*args, **kwargs)

    assert kinds(outer) == kinds(lazy_names.fine)


def test_strings_are_evaluated_where_they_were_written() -> None:
    assert kinds(lazy_names.fine) == {
        "path": "input:path",
        "handle": "handle:handle",
        "ctx": "context:ctx",
        "load": "task:load",
    }
    assert bind(lazy_names.fine, "me", TASKS).returns.annotation is str


def test_a_string_may_name_what_the_function_closes_over() -> None:
    class Inner(bide.Context):
        pass

    def body(x: "Inner") -> object:
        return Inner

    assert kinds(body) == {"x": "context:x"}


class Job:
    """A class that is called in several ways."""

    def __init__(self, path: str = "p") -> None:
        self.path = path

    def __call__(self, load: int) -> None: ...

    def method(self, clean: "bide.Context") -> None: ...

    @classmethod
    def of(cls, load: int) -> None: ...


def test_any_callable_with_a_signature_is_a_body() -> None:
    assert kinds(Job()) == {"load": "task:load"}
    assert kinds(Job().method) == {"clean": "context:clean"}
    assert kinds(Job.of) == {"load": "task:load"}
    assert kinds(Job) == {"path": "input:path"}
    assert kinds(functools.partial(lambda load, path: 1, 3)) == {"path": "input:path"}
    assert kinds(len) == {"obj": "input:obj"}


BAD: list[tuple[Callable[..., Any], str]] = [
    (lambda *files: 1, r"task 'me' takes \*files"),
    (iter, "has no signature that Python can read"),
    (lazy_names.only_checked, "the annotation of parameter 'size'.*Fraction.*TYPE_CHECKING"),
    (lazy_names.only_checked_result, "the annotation of the return value.*Fraction.*TYPE_CHECKING"),
    (lazy_names.nested, "the annotation of parameter 'sizes'"),
]


def _union(where: Path | str) -> None: ...
def _unknown(client: Job) -> None: ...
def _doc(path: "the path") -> None: ...  # type: ignore[valid-type]  # noqa: F722
def _result() -> Job: ...  # type: ignore[empty-body]
def _no_task(x: Annotated[int, bide.From("laod")]) -> None: ...
def _both(x: Annotated[int, bide.From("load"), bide.Input("x")]) -> None: ...
def _task_as_input(x: Annotated[int, bide.Input("load")]) -> None: ...
def _bare(x: Annotated[int, bide.From]) -> None: ...


BAD += [
    (_union, "parameter 'where' is annotated pathlib.Path | str.*Annotate one type"),
    (_unknown, r"parameter 'client' .*does not know .*Job.*bide.codec\(Job"),
    (_doc, "the annotation of parameter 'path'"),
    (_result, "task 'me': result is annotated .*Job"),
    (_no_task, r"From\('laod'\), and no task has that name: did you mean 'load'\?"),
    (_both, "give one"),
    (_task_as_input, "Input\\('load'\\), which is the name of a task"),
    (_bare, "From, Input, Each and FailureOf take a name"),
]


@pytest.mark.parametrize(("fn", "message"), BAD)
def test_a_parameter_that_cannot_be_bound_is_refused_by_name(fn: Callable[..., Any], message: str) -> None:
    with pytest.raises(bide.DefinitionError, match=message) as caught:
        bind(fn, "me", TASKS)
    assert "task 'me'" in str(caught.value)


def test_each_kind_of_body_has_its_kind_of_handle() -> None:
    def plain(h: bide.AsyncTaskHandle) -> None: ...

    async def coroutine(h: bide.TaskHandle) -> None: ...

    async def right(h: bide.AsyncTaskHandle) -> None: ...

    with pytest.raises(bide.DefinitionError, match="is a plain `def`, whose handle"):
        bind(plain, "me", TASKS)
    with pytest.raises(bide.DefinitionError, match="is an `async def`, whose handle"):
        bind(coroutine, "me", TASKS)
    assert bind(right, "me", TASKS).wants_handle


def test_a_condition_has_no_handle() -> None:
    assert kinds(lambda load, path, ctx: 1, of=lambda: None) == {
        "load": "task:load",
        "path": "input:path",
        "ctx": "context:ctx",
    }
    assert kinds(Path("x").exists, of=lambda: None) in ({}, {"follow_symlinks": "input:follow_symlinks"})
    with pytest.raises(bide.DefinitionError, match="the gate of task 'me': its condition asks for a handle"):
        bind(lambda handle: 1, "me", TASKS, of=lambda: None)


def test_the_return_annotation_of_a_condition_does_not_matter() -> None:
    assert bind(lazy_names.only_checked_result, "me", TASKS, of=lambda: None).returns.fast == "ntfids"


def test_a_task_that_may_not_have_succeeded_needs_a_default() -> None:
    binding = bind(lambda load, clean=None: 1, "me", TASKS)
    check_defaults(binding, {"clean"}, "task 'me'")
    with pytest.raises(bide.DefinitionError, match="task 'me': parameter 'load' needs a default"):
        check_defaults(binding, {"load", "clean"}, "task 'me'")


def test_a_reader_without_annotation_reads_as_the_writer_wrote() -> None:
    def body(load, clean: float) -> None: ...  # type: ignore[no-untyped-def]  # noqa: ANN001

    writers = {"load": Codec(Path), "clean": Codec(int)}
    binding = with_writers(bind(body, "me", TASKS), writers, "task 'me'")
    load, clean = binding.positional
    assert load.codec is writers["load"]
    assert clean.codec is not None
    assert clean.codec.annotation is float


def test_a_pickle_is_asked_for_on_both_sides() -> None:
    def reads(load) -> None: ...  # type: ignore[no-untyped-def]  # noqa: ANN001
    def asks(load: Annotated[int, bide.Pickle]) -> None: ...

    writers = {"load": Codec(Annotated[int, bide.Pickle])}
    with pytest.raises(bide.DefinitionError, match="parameter 'load' reads a pickle of task 'load'"):
        with_writers(bind(reads, "me", TASKS), writers, "task 'me'")
    assert with_writers(bind(asks, "me", TASKS), writers, "task 'me'").positional[0].codec is not None


def test_the_nearest_name_is_suggested() -> None:
    assert nearest("lod", TASKS) == ": did you mean 'load'?"
    assert nearest("something else", TASKS) == ""


def test_a_source_is_what_the_executor_reads() -> None:
    assert Source.__struct_fields__ == ("kind", "name", "codec", "default", "parameter", "members")


def test_a_dict_of_no_tasks_is_refused() -> None:
    with pytest.raises(bide.DefinitionError, match=r"bide\.From\(\[\]\) names no task: list at least one"):
        bide.From([])
