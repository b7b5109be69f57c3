"""What went wrong, in words that name the remedy: an exception -> one line."""

from __future__ import annotations

import os

from rrvqlib.errors import UserError
from rrvqlib.files import way_out
from rrvqlib.settings.fields import SettingError, shortened
from rrvqlib.settings.flat import written

# What torch says, which has no kind of error for it.
OUT_OF_MEMORY = (
    "out of memory",
    "allocate memory",
    "not enough memory",
    "calculation overflowed",
    "multiplication overflow",
)
LOST_PEER = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Broken pipe",
    "remote process exited",
    "Socket closed",
    "Timed out waiting",
)


def remedy(error: Exception) -> str:
    """What went wrong and what helps, in a line; nothing where only the program's authors can help.

    Args:
        error: UserError, OSError, MemoryError or RuntimeError.
    """
    if isinstance(error, SettingError):
        return f"--{error.name} {shortened(written(error.value))}: {error.rule}"
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError):
        if error.errno is None:  # not of the operating system
            return ""
        if error.filename is None:
            return f"cannot read or write ({error.strerror}); check the disk and where output goes"
        what = f"cannot read or write {os.fsdecode(error.filename)}: {error.strerror}"
        return f"{what}; {way_out(error, 'choose another path')}"
    if is_lost_peer(error):
        return (
            "another process of this run has died, or its machine is gone; start all of them"
            " again with --resume"
        )
    if isinstance(error, MemoryError) or is_out_of_memory(error):
        return (
            "not enough memory; take a smaller model, --batch_size, --n or --iw_k, or more"
            " --grad_accumulation"
        )
    return ""


def is_out_of_memory(error: Exception) -> bool:
    """Whether torch says so; on the CPU it has no kind of error for that, and sizes overflow."""
    return any(text in str(error) for text in OUT_OF_MEMORY)


def is_lost_peer(error: Exception) -> bool:
    """Whether torch.distributed says that a process of the run does not answer."""
    return "WORLD_SIZE" in os.environ and any(text in str(error) for text in LOST_PEER)
