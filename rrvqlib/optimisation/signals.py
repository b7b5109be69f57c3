"""Ctrl-C, SIGTERM and a closed terminal: a run is saved before it ends."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import suppress
from typing import Any

HEARD = (
    b"\nstopping after this step: the run is saved, then scored"
    b" (a second signal leaves the score out)\n"
)


class Stopped(SystemExit):
    """A signal asked the run to stop; it has been saved. `code` is 128 and the signal's number."""

    def __init__(self, signum: int, step: int):
        super().__init__(128 + signum)
        self.step = step

    def __str__(self) -> str:
        return f"stopped at step {self.step} and saved; the same command with --resume goes on"


class StopRequest:
    """Signals, remembered until the step that runs is done and the run is saved.

    The first one is for a score of what there is, a second one does without it. A third one does
    not wait, and what was learnt since the last checkpoint is lost. Once the run is saved, any
    signal ends it at once. Only a process's main thread may handle signals: in another one this
    does nothing.

    Attributes:
        signum: of the first signal; 0 while there was none.
        hurried: whether there was a second one.
    """

    def __init__(self) -> None:
        self.signum = 0
        self.hurried = False
        self._saved: int | None = None
        self._old: dict[int, Any] = {}

    def saved_at(self, step: int) -> None:
        """From here on nothing is lost: a signal raises Stopped where it finds the program."""
        self._saved = step

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is not threading.main_thread():
            return self
        signals = [signal.SIGINT, signal.SIGTERM]
        hangup = getattr(signal, "SIGHUP", None)  # Windows has none
        if hangup and signal.getsignal(hangup) != signal.SIG_IGN:  # as nohup asks
            signals.append(hangup)
        self._old = {s: signal.signal(s, self._note) for s in signals}
        return self

    def _note(self, signum: int, _frame: object) -> None:
        if self._saved is not None:
            raise Stopped(signum, self._saved)
        if self.hurried:
            raise SystemExit(128 + signum)
        self.hurried = bool(self.signum)
        self.signum = self.signum or signum
        if not self.hurried and os.environ.get("RANK", "0") == "0":
            with suppress(OSError):  # not by `print`, which this may have interrupted
                os.write(2, HEARD)

    def __exit__(self, *_: object) -> None:
        for signum, handler in self._old.items():
            signal.signal(signum, handler)
