"""`metrics.jsonl` and TensorBoard events of a run."""

from __future__ import annotations

import io
import json
import time
from importlib import import_module
from pathlib import Path
from typing import Any

from rrvqlib.files import write_atomically, writing
from rrvqlib.runs.folder import read_metrics


class MetricsLog:
    """`metrics.jsonl` and TensorBoard events, one entry for each evaluation.

    Args:
        out: the run folder.
        step: entries after this step come from steps that are going to be repeated; they go.
    """

    def __init__(self, out: Path, step: int):
        self.path = out / "metrics.jsonl"
        lines = read_metrics(out) if step and self.path.exists() else []
        self.lines = [json.dumps(line) for line in lines if line["step"] <= step]
        self.write()
        self.events = Events(out / "tensorboard", step)

    def write(self) -> None:
        """Write all lines anew."""
        text = "".join(line + "\n" for line in self.lines)
        write_atomically(self.path, lambda temporary: temporary.write_text(text, encoding="utf-8"))

    def add(self, line: dict[str, Any]) -> None:
        """One evaluation."""
        self.lines.append(json.dumps(line))
        self.write()
        scalars = {}
        for name, value in line.items():
            if isinstance(value, list):
                scalars |= {f"{name}/layer_{n:02d}": entry for n, entry in enumerate(value, 1)}
            elif value is not None and name != "step":
                scalars[name] = value
        self.events.add(line["step"], scalars)


class Events:
    """A TensorBoard file, written at once and here: torch's writer fails in a thread of its own.

    Args:
        folder: of the event files; every start of a run makes one more.
        step: what earlier files hold of later steps no longer counts.

    Raises:
        UserError: the file cannot be written.
    """

    def __init__(self, folder: Path, step: int):
        # Half a second, only needed here; compiled, without types.
        self.event: Any = import_module("tensorboard.compat.proto.event_pb2").Event
        self.path = folder / f"events.out.tfevents.{time.time():017.6f}"
        with writing(folder):
            folder.mkdir(exist_ok=True)
        self.write(
            self.event(file_version="brain.Event:2"),
            self.event(step=step + 1, session_log={"status": "START"}),
        )

    def add(self, step: int, scalars: dict[str, float]) -> None:
        """What one evaluation found."""
        values = [{"tag": name, "simple_value": value} for name, value in scalars.items()]
        self.write(self.event(step=step, summary={"value": values}))

    def show(self, step: int, pictures: dict[str, bytes]) -> None:
        """PNG files under their names."""
        from PIL import Image

        values = []
        for name, file in pictures.items():
            with Image.open(io.BytesIO(file)) as picture:
                sides = {"height": picture.height, "width": picture.width}
                colours = len(picture.getbands())
            shown = sides | {"colorspace": colours, "encoded_image_string": file}
            values.append({"tag": name, "image": shown})
        self.write(self.event(step=step, summary={"value": values}))

    def write(self, *events: Any) -> None:
        """Append events to the file."""
        from tensorboard.summary.writer.record_writer import RecordWriter

        with writing(self.path), self.path.open("ab") as file:
            for event in events:
                event.wall_time = time.time()
                RecordWriter(file).write(event.SerializeToString())
