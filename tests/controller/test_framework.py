"""What is changed in a framework."""

from __future__ import annotations

import queue
import threading

import pytest

from controller.fabric.framework import end_connections_at_once

PATIENCE = 20.0


def test_a_connection_that_ended_is_told_before_there_is_anything_to_send() -> None:
    class Datapath:
        """As os-ken's: one thread receives until the end, another waits for what to send."""

        def __init__(self) -> None:
            self.told = threading.Event()
            self.waiting: queue.Queue[bytes] = queue.Queue()

        def _recv_loop(self) -> None:
            raise OSError("reset by the switch")

        def close(self) -> None:
            self.told.set()

        def send(self, data: bytes) -> None:
            self.waiting.put(data)

        def serve(self) -> None:
            sender = threading.Thread(target=self._send_loop)
            sender.start()
            try:
                self._recv_loop()
            finally:
                sender.join(PATIENCE)

        def _send_loop(self) -> None:
            while not self.told.is_set():
                self.waiting.get()

    end_connections_at_once(Datapath)
    datapath = Datapath()
    with pytest.raises(OSError, match="reset"):
        datapath.serve()
    assert datapath.told.is_set()
    assert not [thread for thread in threading.enumerate() if "_send_loop" in thread.name]
