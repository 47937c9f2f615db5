"""The examples' workflows, tested as their users would: with `bide.testing`, in milliseconds."""

from collections import Counter
from datetime import timedelta
from pathlib import Path

import pytest
from examples import approval, every_day, order, rate_limit, watched_folder

import bide
from bide.testing import RunHandle, Runner, crash_points

pytestmark = pytest.mark.timeout(60)
DAY = timedelta(days=1)
ORDER = {"order": "A1", "patience": 30 * DAY}


@pytest.fixture
def runner() -> Runner:
    return Runner(auto_advance=True)


@pytest.fixture(autouse=True)
def nothing_shipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(order, "shipped", [])
    monkeypatch.setattr(order, "refunded", [])


class TestOrder:
    def test_an_order_that_nobody_pays_is_given_up_after_its_patience(self, runner: Runner) -> None:
        with runner:
            begun = runner.now
            assert runner.run(order.workflow, ORDER)[order.settle] == "given up"
            assert runner.now - begun == 30 * DAY

    def test_a_payment_on_the_last_day_is_in_time(self, runner: Runner) -> None:
        with runner:
            run = runner.submit(order.workflow, ORDER)
            runner.advance(30 * DAY - timedelta(seconds=1))
            run.signal(order.payment, order.Payment(4200, "card"))
            assert run.result()[order.settle] == "shipped for 42.00 by card"
            assert order.shipped == ["A1"]

    def test_what_is_shipped_and_regretted_is_refunded_whenever_the_process_dies(self) -> None:
        def pay_and_regret(_runner: Runner, run: RunHandle) -> None:
            run.signal(order.payment, order.Payment(700, "transfer"), id="evt_1")
            run.signal(order.cancellation, "wrong size", id="evt_2")

        def check(result: bide.RunResult, _effects: Counter[str]) -> None:
            assert result[order.settle] == "refunded: wrong size"

        found = crash_points(order.workflow, ORDER, act=pay_and_regret, check=check)
        assert found.points > 10


class TestApproval:
    def test_the_director_is_asked_when_the_manager_was_silent_for_two_days(
        self, runner: Runner, tmp_path: Path
    ) -> None:
        with runner:
            run = runner.submit(approval.workflow, {"purchase": "server", "patience": 2 * DAY, "outbox": tmp_path})
            runner.advance(30 * DAY)
            assert not any(tmp_path.iterdir()), "nobody is asked before there is a budget"
            run.signal(approval.budget, 9000)
            runner.run_until_waiting(run)
            assert list(approval.mails(tmp_path, "manager")) == ["Approve server for 9000"]
            runner.advance(DAY)
            assert list(approval.mails(tmp_path, "manager")) == [
                "Approve server for 9000",
                "Please answer: approve server",
            ]
            runner.advance(DAY)
            [token] = approval.mails(tmp_path, "director").values()
            runner.resolve(token, approval.Decision(approved=True, by="director"))
            assert run.result()[approval.buy] == "bought, approved by the director"

    def test_a_mail_of_a_worker_that_has_died_can_be_answered(self, tmp_path: Path) -> None:
        with Runner() as runner:
            run = runner.submit(approval.workflow, {"purchase": "chairs", "patience": 2 * DAY, "outbox": tmp_path})
            run.signal(approval.budget, 400)
            runner.run_until_waiting(run)
            runner.crash()
            runner.restart()
            [token] = approval.mails(tmp_path, "manager").values()
            runner.resolve(token, approval.Decision(approved=False, by="manager", reason="too many"))
            assert run.result().tasks["buy"].status == bide.TaskStatus.Skipped


class TestEveryDay:
    def test_a_year_of_whole_days_with_a_crash_misses_no_day(self, runner: Runner, tmp_path: Path) -> None:
        inputs = {"reports": tmp_path, "days": every_day.DAYS, "day_length": DAY}
        with runner:
            begun = runner.now
            run = runner.submit(every_day.workflow, inputs)
            runner.advance(180 * DAY)
            assert len(list(tmp_path.iterdir())) == 180
            runner.restart()
            books = run.result()[every_day.keep_books]
            assert books.cents == sum(100 + day for day in range(every_day.DAYS))
            assert len(list(tmp_path.iterdir())) == every_day.DAYS
            assert runner.now - begun == every_day.DAYS * DAY


class TestRateLimit:
    def test_a_download_sleeps_for_as_long_as_the_service_says(self, runner: Runner) -> None:
        answers: list[str | float] = ["one", 3600.0, "two", 7200.0, "three"]
        with runner:
            runner.stub_step("fetch", lambda _page: answers.pop(0))
            begun = runner.now
            result = runner.run(rate_limit.workflow, {"pages": 3})
            assert result[rate_limit.download] == ["one", "two", "three"]
            assert runner.now - begun == timedelta(hours=3)


class TestWatchedFolder:
    def test_each_file_is_counted_once_also_one_that_comes_while_the_process_is_down(
        self, runner: Runner, tmp_path: Path
    ) -> None:
        with runner:
            (tmp_path / "a.csv").write_text("1\n2\n")
            watched_folder.watch(runner, tmp_path)
            runner.advance(10)
            runner.crash()
            (tmp_path / "b.csv").write_text("1\n2\n3\n")
            runner.restart()
            runner.advance(10)
            found = {run["report"] for run in runner.runs()}
            assert found == {"a.csv: 2 rows", "b.csv: 3 rows"}
            assert len(runner.runs()) == 2
