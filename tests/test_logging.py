"""Logging: run, task and attempt on records made within a body, at no cost unless a filter or factory asks for them."""

import logging
import threading
from collections.abc import Iterator

import pytest

import bide
from bide import _log_slot


class Keep(logging.Handler):
    """A handler that keeps the records that pass its filters."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@pytest.fixture
def handler(monkeypatch: pytest.MonkeyPatch) -> Iterator[Keep]:
    monkeypatch.setattr(_log_slot, "in_use", [])
    before = logging.getLogRecordFactory()
    keep = Keep()
    logger = logging.getLogger("tests.bide")
    logger.addHandler(keep)
    logger.setLevel(logging.INFO)
    yield keep
    logger.removeHandler(keep)
    logging.setLogRecordFactory(before)
    _log_slot.leave()


def fields(record: logging.LogRecord) -> tuple[object, object, object]:
    return record.__dict__["run"], record.__dict__["task"], record.__dict__["attempt"]


def test_a_filter_adds_the_current_body(handler: Keep) -> None:
    assert not _log_slot.enabled()
    handler.addFilter(bide.LogFilter())
    assert _log_slot.enabled()
    log = logging.getLogger("tests.bide")
    log.info("outside")
    _log_slot.enter("r1", "load", 2)
    log.info("inside")
    other = threading.Thread(target=log.info, args=("elsewhere",))
    other.start()
    other.join()
    log.info("mine", extra={"task": "my own"})
    _log_slot.leave()
    log.info("after")
    assert [fields(record) for record in handler.records] == [
        (None, None, None),
        ("r1", "load", 2),
        (None, None, None),
        ("r1", "my own", 2),
        (None, None, None),
    ]


def test_a_filter_still_filters_by_name(handler: Keep) -> None:
    handler.addFilter(bide.LogFilter("elsewhere"))
    logging.getLogger("tests.bide").info("no")
    assert handler.records == []


def test_the_factory_is_installed_once(handler: Keep) -> None:
    bide.install_log_record_factory()
    installed = logging.getLogRecordFactory()
    bide.install_log_record_factory()
    assert logging.getLogRecordFactory() is installed
    assert _log_slot.enabled()
    _log_slot.enter("r1", "load", 1)
    logging.getLogger("tests.bide").info("inside")
    assert fields(handler.records[0]) == ("r1", "load", 1)
