"""Ctrl-C, SIGTERM and a closed terminal: a run is saved before it ends."""

from __future__ import annotations

import signal
import threading
from typing import Any


class Stopped(Exception):
    """A signal asked the run to stop; it has been saved."""

    def __init__(self, signum: int, step: int):
        super().__init__(
            f"stopped at step {step} and saved; the same command with --resume goes on"
        )
        self.exit_code = 128 + signum


class StopRequest:
    """Signals, remembered until the step that runs is done; the second one quits at once.

    Only a process's main thread may handle signals: in another one this does nothing.
    """

    def __init__(self) -> None:
        self.signum = 0
        self.old: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is not threading.main_thread():
            return self
        signals = [signal.SIGINT, signal.SIGTERM]
        hangup = getattr(signal, "SIGHUP", None)  # Windows has none
        if hangup and signal.getsignal(hangup) != signal.SIG_IGN:  # as nohup asks
            signals.append(hangup)
        self.old = {s: signal.signal(s, self._note) for s in signals}
        return self

    def _note(self, signum: int, _frame: object) -> None:
        if self.signum:  # the second time the user means it
            raise SystemExit(128 + signum)
        self.signum = signum

    def __exit__(self, *_: object) -> None:
        for signum, handler in self.old.items():
            signal.signal(signum, handler)
