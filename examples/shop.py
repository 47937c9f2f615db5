"""An order and its payment in the shop's own database, committed together with the record that they were made.

    python examples/shop.py

The shop has a database of its own. Placing an order takes three rows: the order, its payment, and what is
taken from the stock. They are one transaction, and the record of the step is part of it. The worker is killed
twice: before that commit, which leaves nothing, and after it, which leaves everything. The third worker
finds the record and ships; nothing is paid or taken twice.
"""

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

import bide

TABLES = """
    CREATE TABLE customer_order (id TEXT, item TEXT);
    CREATE TABLE payment (order_id TEXT, cents INTEGER);
    CREATE TABLE stock (item TEXT, count INTEGER);
    INSERT INTO stock VALUES ('lamp', 10);
"""

dies = ""
"""Where this process ends as by a power cut."""


def dies_at(place: str) -> None:
    """End the process if this is the place."""
    if dies == place:
        os.kill(os.getpid(), signal.SIGKILL)


def place_order(shop: sqlite3.Connection, order: str, item: str, cents: int) -> int:
    """Write all that belongs to an order, and return how many of the item are left."""
    shop.execute("INSERT INTO customer_order VALUES (?, ?)", (order, item))
    shop.execute("INSERT INTO payment VALUES (?, ?)", (order, cents))
    shop.execute("UPDATE stock SET count = count - 1 WHERE item = ?", (item,))
    dies_at("before the commit")
    (left,) = shop.execute("SELECT count FROM stock WHERE item = ?", (item,)).fetchone()
    return int(left)


@bide.task
def buy(shop: Path, order: str, handle: bide.TaskHandle) -> str:
    """Place an order, once."""
    with contextlib.closing(sqlite3.connect(shop)) as connection, handle.transaction(connection) as step:
        left = step(place_order, connection, order, "lamp", 4200)
    dies_at("after the commit")
    return f"order {order} is placed, {left} lamps are left"


workflow = bide.Workflow("shop", [buy])


def work(folder: Path) -> None:
    """Be a worker."""
    with bide.Runner(folder / "bide.db") as runner:
        run = runner.submit(workflow, {"shop": folder / "shop.db", "order": "A-17"}, key="A-17")
        print(run.result(timeout=30)[buy], flush=True)


def main() -> None:
    """Have three workers, of which two are killed, then check what is in the shop's database."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with contextlib.closing(sqlite3.connect(folder / "shop.db")) as shop:
            shop.executescript(TABLES)

            def count(table: str) -> int:
                return int(shop.execute(f"SELECT count(*) FROM {table}").fetchone()[0])  # noqa: S608 - of this file

            for place, orders in {"before the commit": 0, "after the commit": 1, "": 1}.items():
                worker = [sys.executable, __file__, "work", name, place]
                ended = subprocess.run(worker, check=False)
                how = f"killed {place}" if ended.returncode else "done"
                print(f"worker {how}: {count('customer_order')} orders, {count('payment')} payments")
                assert count("customer_order") == count("payment") == orders
            assert shop.execute("SELECT count FROM stock").fetchone() == (9,)


if __name__ == "__main__":
    if sys.argv[1:2] == ["work"]:
        dies = sys.argv[3]
        work(Path(sys.argv[2]))
    else:
        main()
