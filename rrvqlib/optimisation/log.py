"""`metrics.jsonl` and TensorBoard events of a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rrvqlib.files import write_atomically
from rrvqlib.runs.folder import read_metrics


class MetricsLog:
    """`metrics.jsonl` and TensorBoard events, one entry for each evaluation.

    Args:
        out: the run folder.
        step: entries after this step come from steps that are going to be repeated; they go.
    """

    def __init__(self, out: Path, step: int):
        from torch.utils.tensorboard import SummaryWriter  # half a second, only needed here

        self.path = out / "metrics.jsonl"
        lines = read_metrics(out) if step and self.path.exists() else []
        self.lines = [json.dumps(line) for line in lines if line["step"] <= step]
        self.write()
        self.events = SummaryWriter(str(out / "tensorboard"), purge_step=step + 1)

    def write(self) -> None:
        """Write all lines anew."""
        text = "".join(line + "\n" for line in self.lines)
        write_atomically(self.path, lambda temporary: temporary.write_text(text, encoding="utf-8"))

    def add(self, line: dict[str, Any]) -> None:
        """One evaluation."""
        self.lines.append(json.dumps(line))
        self.write()
        for name, value in line.items():
            if isinstance(value, list):
                for layer, entry in enumerate(value, start=1):
                    self.events.add_scalar(f"{name}/layer_{layer:02d}", entry, line["step"])
            elif value is not None and name != "step":
                self.events.add_scalar(name, value, line["step"])
        self.events.flush()
