"""The sandbox leaves nothing behind and lets nothing out, whoever is killed and however."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.live

SANDBOX = [sys.executable, "-m", "topologies.sandbox", "--"]
DEADLINE = 20.0


def eventually(condition: Callable[[], object]) -> None:
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def marked(marker: str) -> list[int]:
    """Return the processes, in all namespaces that we see, with ``marker`` among their arguments."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            arguments = path.read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if marker in arguments:
            found.append(int(path.parent.name))
    return sorted(found)


def interfaces() -> list[str]:
    return sorted(name for _, name in socket.if_nameindex())


def in_sandbox(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*SANDBOX, *argv], capture_output=True, text=True, timeout=60, check=False)


def start_marked(*before: str) -> tuple[subprocess.Popen[str], str]:
    """Start a sandbox that makes an interface and waits, with a helper process of its own."""
    marker = f"marker-{uuid.uuid4().hex}"
    script = "ip link add probe0 type dummy || ip link add probe0 type bridge; sleep 1000 & echo ready; wait"
    argv = [*before, *SANDBOX, "bash", "-c", script, marker]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process, marker


def test_program_sees_only_its_own_interfaces_and_processes() -> None:
    done = in_sandbox("bash", "-c", "ls /sys/class/net; ls /run; echo pid $$; ls -d /proc/[0-9]* | wc -l")
    lines = done.stdout.split("\n")
    assert lines[0] == "lo"
    assert lines[1] == "pid 2"  # nothing in /run, and process 1 is the sandbox's own
    assert int(lines[2]) <= 5


def test_exit_code_and_streams_are_passed_through() -> None:
    done = in_sandbox("bash", "-c", "echo out; echo err >&2; exit 7")
    assert (done.returncode, done.stdout, done.stderr) == (7, "out\n", "err\n")


def test_a_node_of_the_sandbox_knows_that_it_belongs_to_it() -> None:
    ask = "from topologies import sandbox; print(sandbox.inside(), sandbox.within())"
    assert in_sandbox(sys.executable, "-c", ask).stdout == "True True\n"
    assert in_sandbox("unshare", "--net", sys.executable, "-c", ask).stdout == "False True\n"


def test_missing_program_is_one_sentence() -> None:
    done = in_sandbox("no-such-program")
    assert done.returncode == 127
    assert done.stderr.count("\n") == 1


def test_nothing_is_left_after_a_normal_end() -> None:
    before = interfaces()
    process, marker = start_marked()
    assert interfaces() == before
    process.send_signal(signal.SIGTERM)
    assert process.wait(DEADLINE) == 128 + signal.SIGTERM
    eventually(lambda: not marked(marker))
    assert interfaces() == before


@pytest.mark.parametrize("level", [0, 1, 2], ids=["supervisor", "process-1", "program"])
def test_nothing_survives_kill_9(level: int) -> None:
    before = interfaces()
    process, marker = start_marked()
    eventually(lambda: len(marked(marker)) == 3)  # the helper bears bash's arguments until it has become sleep
    pids = marked(marker)
    namespaces = {os.readlink(f"/proc/{pid}/ns/pid") for pid in pids[1:]}
    os.kill(pids[level], signal.SIGKILL)
    assert process.wait(DEADLINE) in {-signal.SIGKILL, 128 + signal.SIGKILL}
    eventually(lambda: not marked(marker))
    eventually(lambda: not [pid for pid in all_pids() if pid_namespace(pid) in namespaces])
    assert interfaces() == before


def test_nothing_survives_kill_9_of_the_caller() -> None:
    # As make is: a shell that waits for the sandbox.
    process, marker = start_marked("bash", "-c", '"$@"; true', "caller")
    (caller,) = [pid for pid in marked(marker) if pid == process.pid]
    os.kill(caller, signal.SIGKILL)
    process.wait(DEADLINE)
    eventually(lambda: not marked(marker))


def test_two_sandboxes_side_by_side_do_not_meet() -> None:
    first, one = start_marked()
    second, two = start_marked()  # an interface of the same name
    first.send_signal(signal.SIGTERM)
    first.wait(DEADLINE)
    eventually(lambda: not marked(one))
    eventually(lambda: len(marked(two)) == 3)
    second.send_signal(signal.SIGTERM)
    second.wait(DEADLINE)


def test_files_in_run_are_gone_and_were_never_outside() -> None:
    name = f"/run/{uuid.uuid4().hex}"
    assert in_sandbox("bash", "-c", f"touch {name} && test -e {name}").returncode == 0
    assert not Path(name).exists()


def test_interrupt_from_a_process_reaches_the_program() -> None:
    script = "import time; print('ready', flush=True); time.sleep(1000)"
    process = subprocess.Popen(
        [*SANDBOX, sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    assert process.wait(DEADLINE) == 130


def all_pids() -> list[int]:
    return [int(path.name) for path in Path("/proc").glob("[0-9]*")]


def pid_namespace(pid: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/ns/pid")
    except OSError:
        return ""
