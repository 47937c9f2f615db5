"""The examples and the demo do what they claim: they check it themselves and then exit with 0."""

import re
import subprocess
import sys
from pathlib import Path

import postgres_server

CHECKOUT = Path(__file__).parent.parent


def run(*arguments: str, cwd: Path = CHECKOUT) -> str:
    """Run Python as a user would, without a terminal; return what it printed."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def test_the_readme_example_runs_and_then_returns_its_recorded_result(tmp_path: Path) -> None:
    example = (CHECKOUT / "README.md").read_text().split("```python\n")[1].split("```")[0]
    (tmp_path / "example.py").write_text(example)
    (tmp_path / "data.csv").write_text("twelve bytes")
    first = run("example.py", cwd=tmp_path)
    assert first.startswith("12 ")
    (tmp_path / "data.csv").write_text("something else")
    assert run("example.py", cwd=tmp_path) == first


def test_a_deferred_task_waits_for_its_file_and_feeds_the_next() -> None:
    assert "process_data:  12 characters" in run("examples/deferred_tasks.py")


def test_a_remote_job_is_submitted_once_although_its_waiter_is_killed() -> None:
    printed = run("examples/batch_job.py")
    assert "ended by SIGKILL while it waited" in printed
    assert "1 job, submitted 1 time" in printed
    assert "published model 7" in printed


def test_a_rate_limit_is_honoured_without_holding_a_slot() -> None:
    printed = run("examples/rate_limit.py")
    assert "8 pages" in printed
    assert "done while download sleeps" in printed


def test_a_killed_child_process_costs_one_attempt() -> None:
    printed = run("examples/cpu_bound.py")
    assert "task 'search[0]' waits for its body, which executes in process" in printed
    assert "attempts: [2, 1, 1, 1], by 3 processes" in printed


def test_an_order_is_settled_by_what_comes_first() -> None:
    assert "refunded: wrong size" in run("examples/order.py")


def test_an_order_and_its_payment_are_committed_once_although_workers_are_killed() -> None:
    printed = run("examples/shop.py")
    assert "killed before the commit: 0 orders, 0 payments" in printed
    assert "killed after the commit: 1 orders, 1 payments" in printed
    assert "9 lamps are left" in printed


def test_an_approval_outlives_its_worker_and_escalates() -> None:
    printed = run("examples/approval.py")
    assert "ended by SIGKILL when it had reminded the manager" in printed
    assert "server:   bought, approved by the director" in printed
    assert "yacht:    not bought, the manager says: too long" in printed


def test_a_loop_of_a_year_is_killed_twice_and_misses_no_day() -> None:
    printed = run("examples/every_day.py")
    assert printed.count("ended by SIGKILL after") == 2
    assert "365 days by" in printed
    assert "1029.30 earned" in printed


def test_one_child_waits_while_all_others_are_done() -> None:
    printed = run("examples/fan_out.py")
    assert "ended by SIGKILL, 19 chapters are translated" in printed
    assert "'chapter 7 with a snark' waits for answer" in printed
    assert "'Kapitel 7 mit einem Schnark' is one of 20 chapters, by 20 calls" in printed


def test_a_webhook_and_a_stream_of_events_outlive_their_server() -> None:
    printed = run("examples/webhook.py")
    assert "ended by SIGKILL while the order waited" in printed
    assert "[(1, 'waiting for the payment')] and then [(2, 'shipped')]" in printed
    assert "[204, 204, 409, 409]" in printed


def test_an_agent_that_dies_twice_calls_no_tool_twice() -> None:
    printed = run("examples/agent.py")
    assert printed.count("ended by SIGKILL") == 2
    (called,) = re.findall(r"^tools: +(.+)$", printed, re.MULTILINE)
    assert sorted(called.split(", ")[:2]) == ["trains Lisbon", "weather Lisbon"], "at the same time, in any order"
    assert called.split(", ")[2:] == ["book the 9:40", "bookings the 9:40"]


def test_an_operator_finds_and_repairs_what_is_stuck() -> None:
    printed = run("examples/on_call.py")
    assert "unpaid: collect waits for paid, a signal" in printed
    assert "then: ask_customer, close_order" in printed
    assert "retry by ana: the warehouse is back" in printed
    assert printed.count(" Completed: ") == 4
    assert " Cancelled: " in printed


def test_the_demo_is_killed_while_it_waits_and_ends_as_it_says() -> None:
    printed = run("-m", "examples.demo")
    assert "killed with SIGKILL" in printed
    assert "NO " not in printed
    assert printed.splitlines()[-1] == "the demo went as it says"


def test_four_runners_on_one_postgresql_lose_nothing_and_say_so() -> None:
    postgres_server.shared()
    printed = run("-m", "examples.demo_many", "--orders", "120")
    assert "stopped as by a crash" in printed
    assert "NO " not in printed
    assert printed.splitlines()[-1] == "the demo went as it says"
