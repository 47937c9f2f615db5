"""Log records made within a body carry run, task and attempt; the runner logs to the logger `bide`."""

import logging
from pathlib import Path

import bide
from processes import ran


def test_a_filter_on_a_handler_stamps_the_records_of_bodies(runner: bide.Runner) -> None:
    records: list[logging.LogRecord] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record)

    logger = logging.getLogger("somebody.else")
    handler = Keep()
    handler.addFilter(bide.LogFilter())
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)

    @bide.task(retry=bide.Retry(attempts=2, delay=0))
    def work(handle: bide.TaskHandle) -> None:
        logger.info("in the body")
        handle.sleep(0.001)
        logger.info("after a wait")
        if handle.attempt == 1:
            raise ValueError

    try:
        result = runner.run(bide.Workflow("w", [work]))
        logger.info("outside")
    finally:
        logger.removeHandler(handler)
    stamped = [(r.getMessage(), r.__dict__["run"], r.__dict__["task"], r.__dict__["attempt"]) for r in records]
    assert stamped == [
        ("in the body", result.id, "work", 1),
        ("after a wait", result.id, "work", 1),
        ("in the body", result.id, "work", 2),
        ("after a wait", result.id, "work", 2),
        ("outside", None, None, None),
    ]


def test_a_record_factory_does_so_for_every_handler(file: Path) -> None:
    script = """
    import logging
    logging.basicConfig(format="%(task)s %(attempt)s %(message)s", stream=sys.stdout, level=logging.INFO)
    bide.install_log_record_factory()
    bide.install_log_record_factory()

    @bide.task
    def work() -> None:
        logging.info("in the body")

    with bide.Runner(db) as runner:
        runner.run(bide.Workflow("w", [work]))
    logging.info("outside")
    """
    assert ran(script, file) == ["work 1 in the body", "None None outside"]


def test_a_runner_that_stops_says_so_in_the_log(file: Path) -> None:
    script = """
    import logging, resource
    logging.basicConfig(format="%(name)s %(levelname)s %(message)s", stream=sys.stdout)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    @bide.task
    def work() -> str:
        size = Path(db).stat().st_size
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
        return "x" * 5_000_000

    runner = bide.Runner(db)
    try:
        runner.run(bide.Workflow("w", [work]), timeout=20)
    except bide.StoreError:
        pass
    runner.close()
    """
    said = ran(script, file)
    assert any(line.startswith("bide ERROR the runner on ") and "bide.db" in line for line in said), said
