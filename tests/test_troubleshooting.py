"""docs/troubleshooting.md quotes messages as they are."""

import re
from pathlib import Path

TESTS = Path(__file__).parent
ANY = "…"


def quoted() -> list[str]:
    page = (TESTS.parent / "docs" / "troubleshooting.md").read_text()
    return [row.split("`")[1] for row in page.splitlines() if row.startswith("| `")]


def test_each_message_that_is_quoted_is_one_of_bide() -> None:
    messages = [line.replace("{}", ANY) for line in (TESTS / "messages.txt").read_text().splitlines()]
    # A name at the end of a quotation, or at its beginning, stands for whatever follows or comes before.
    unknown = [text for text in quoted() if not any(text.strip(ANY).strip() in message for message in messages)]
    assert unknown == []


def test_each_message_is_there_once_with_cause_and_remedy() -> None:
    found = quoted()
    assert len(set(found)) == len(found) > 50
    page = (TESTS.parent / "docs" / "troubleshooting.md").read_text()
    rows = [row for row in page.splitlines() if row.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {4}
