"""What lies between a runner and its PostgreSQL: a link that is cut or hangs, and a pooler."""

import contextlib
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from urllib.parse import quote

import pytest
from benchmarks import bide_runners

import bide
import postgres_server
from processes import eventually

GO = bide.signal("go", int)


@bide.task
def first() -> int:
    return 1


@bide.task
def waits(first: int, handle: bide.TaskHandle) -> int:
    handle.emit("waits")
    return first + handle.wait(GO)


@bide.task
def after(waits: int, handle: bide.TaskHandle) -> int:
    handle.sleep(0.01)
    return waits + 1


WORK = bide.Workflow("work", [first, waits, after], signals=[GO])


class Link:
    """A TCP proxy before a server, which can be cut, hang and be restored."""

    def __init__(self, url: str) -> None:
        head, _, rest = url.rpartition("@")
        address, slash, tail = rest.partition("/")
        host, _, port = address.partition(":")
        self._server = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._flows = threading.Event()
        self._flows.set()
        self._cut = False
        self._lock = threading.Lock()
        self.url = f"{head}@127.0.0.1:{self._listener.getsockname()[1]}{slash}{tail}"
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """End all connections, and take no new ones."""
        with self._lock:
            self._cut = True
            for pair in self._pairs:
                for end in pair:
                    _end(end)
            self._pairs.clear()

    def hang(self) -> None:
        """Carry nothing any more, and say so to nobody."""
        self._flows.clear()

    def restore(self) -> None:
        self._cut = False
        self._flows.set()

    def close(self) -> None:
        self.restore()
        self.cut()
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                with self._lock:
                    if self._cut:
                        near.close()
                        continue
                    far = socket.create_connection(self._server)
                    self._pairs.append((near, far))
                for one, other in ((near, far), (far, near)):
                    threading.Thread(target=self._carry, args=(one, other), daemon=True).start()

    def _carry(self, one: socket.socket, other: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := one.recv(65536):
                self._flows.wait()
                other.sendall(data)
        _end(one)
        _end(other)


def _end(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
    end.close()


@pytest.fixture
def link(postgres: str) -> Iterator[Link]:
    """A link to a store in a schema of its own."""
    link = Link(postgres)
    yield link
    link.close()


def test_a_link_that_is_cut_again_and_again_loses_nothing(link: Link, postgres: str) -> None:
    with bide.Runner(link.url, slots=4) as runner, bide.Client(postgres) as client:
        runs = []
        for turn in range(6):
            runs += runner.submit_many(WORK, [None] * 20)
            link.cut()
            link.restore()
            for run in runs[-20:]:
                client.signal(run.id, GO, turn, id="go")
        assert [run.result(timeout=60)["after"] for run in runs] == [turn + 2 for turn in range(6) for _ in range(20)]


def test_a_caller_waits_while_the_link_is_cut_and_has_its_answer_once_it_is_there(link: Link, postgres: str) -> None:
    with bide.Runner(link.url, slots=4) as runner, bide.Client(postgres) as client:
        run = runner.submit(WORK)
        next(client.follow(run.id))
        link.cut()
        got: list[int] = []
        caller = threading.Thread(target=lambda: got.append(runner.submit(WORK, key="late").result(60)["after"]))
        caller.start()
        client.signal(run.id, GO, 5)
        caller.join(0.3)
        assert not got
        link.restore()
        assert run.result(timeout=60)["after"] == 7
        eventually(lambda: client.runs(workflow=WORK, limit=1)[0].key == "late", "it is submitted")
        client.signal("late", GO, 1)
        caller.join(60)
        assert got == [3]


def test_a_link_that_hangs_for_a_while_only_delays(link: Link, postgres: str) -> None:
    with bide.Runner(link.url, slots=4) as runner, bide.Client(postgres) as client:
        run = runner.submit(WORK)
        next(client.follow(run.id))
        link.hang()
        client.signal(run.id, GO, 5)
        with pytest.raises(TimeoutError):
            run.result(timeout=0.5)
        link.restore()
        assert run.result(timeout=60)["after"] == 7


def test_a_pooler_in_transaction_mode_does_with_a_url_to_listen_past_it(own_postgres: postgres_server.Server) -> None:
    pooled = own_postgres.pooler("transaction")
    store = f"{pooled}?schema=pooled&listen_url={quote(own_postgres.url, safe='')}"
    with bide.Runner(store, slots=4) as runner, bide.Client(store) as client:
        runs = runner.submit_many(WORK, [None] * 50, keys=[str(n) for n in range(50)])
        client.signal_many([(run.id, GO, n) for n, run in enumerate(runs)])
        assert [run.result(timeout=60)["after"] for run in runs] == [n + 2 for n in range(50)]
        assert "secret" not in repr(runner)


def can_pull_cables() -> bool:
    """Whether this may have a process in a network of its own."""
    if os.geteuid() != 0 or not all(map(shutil.which, ("ip", "nsenter", "psql", "unshare"))):
        return False
    lay = ["ip", "link", "add", "bide0", "type", "veth", "peer", "name", "bide1"]
    return subprocess.run([*bide_runners.APART, *lay], check=False, capture_output=True).returncode == 0


LEASE = "SELECT w.expires FROM SCHEMA.runner w JOIN SCHEMA.run r ON r.runner = w.id AND r.status < 3"
NOW = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::int8"


def ask(store: str, query: str) -> int:
    """Return the number that a server answers; `SCHEMA` is the store's."""
    server, schema = store.split("?schema=")
    command = ["psql", "-qAtX", server, "-c", query.replace("SCHEMA", schema)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@pytest.mark.usefixtures("postgres")
@pytest.mark.skipif(not can_pull_cables(), reason="only root can pull the cable of a process")
def test_a_host_that_is_gone_is_noticed_before_its_lease_has_run_out() -> None:
    leases = []
    with bide_runners.other_host() as host:

        def end(process: "subprocess.Popen[str]") -> None:
            host.unplug(process)
            leases.append(ask(host.store, LEASE))

        host.take_over(end)
        assert ask(host.store, NOW) < leases[0]
