"""The configuration: typed groups composed by Hydra from ``conf/``, a user's own folder and the command line."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runner.chain.conf import CascadeConf
from runner.checkpoint.database import CheckpointConf
from runner.data.conf import DatasetConf
from runner.disk import write_json
from runner.disk.errors import disk_errors
from runner.engine.conf import EngineConf
from runner.fleet.conf import FleetConf
from runner.keys import key
from runner.models.recipes import ModelConf
from runner.night.notify import NotifyConf
from runner.night.schedule import ScheduleConf
from runner.text.prompter import PromptConf
from runner.text.structure import StructureConf


@dataclass
class OutputConf(StructureConf):
    """What goes into the output, and where.

    Answers can be constrained to a structure with one of ``schema``, ``regex`` and ``choices``: every
    finished row then parses and validates. Each property of a schema becomes a typed column.

    Attributes:
        dir: The folder that holds run folders.
        shared: Whether other users of this machine may look into a new run's folder.
        keep: The input columns to copy into the output. null: all. One whose name the job's own columns take becomes
            ``input_NAME``.
        shard_rows: The number of rows in an Arrow file.
        report: Whether to write ``report.html`` once all rows are finished. null: unless the engine is the fake one.
        raw: Keep the text of a structured answer beside the columns made from it.
        reasoning: Keep what the model thought before it answered, in the column ``reasoning``.
    """

    dir: str = "outputs"
    shared: bool = False
    keep: list[str] | None = None
    shard_rows: int = key(1000, least=1)
    report: bool | None = None
    raw: bool = False
    reasoning: bool = False


@dataclass
class OutputDirConf:
    """Where the figures of a command go that computes no rows.

    Attributes:
        dir: The folder for its file.
    """

    dir: str = "outputs"

    def check(self) -> None:
        """UserError where the folder cannot be made, or no file in it."""
        with disk_errors(Path(self.dir)):
            Path(self.dir).mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=self.dir).close()

    def write(self, name: str, figures: Any) -> Path:
        """Publish figures as JSON in a file of this name. UserError where that fails."""
        path = Path(self.dir) / name
        with disk_errors(path.parent):
            write_json(path, figures)
        return path


@dataclass
class CalibrateConf:
    """Whether the confidences of labels are calibrated.

    A model's confidences are often too high or too low. With ``job=label`` and a column ``dataset.gold``, some of the
    rows with a gold label can serve to fit one temperature that corrects them; labels do not change. It is kept if it
    is better on rows that it was not fitted on. The report shows the calibration error before and after, on the other
    rows.

    Attributes:
        rows: The fraction of the rows with gold labels to fit the temperature on, such as 0.2. 0: no calibration.
    """

    rows: float = key(0.0, least=0, most=0.9)


@dataclass
class CommonConf:
    """What all runs have: data, a model, a folder, and when and how they work.

    Attributes:
        run_name: The name of the run's folder in ``output.dir``. null: made from the names of the job and the data
            set.
        offline: Fetch nothing; use only what is in the caches.
        modules: Installed Python modules, apart from rowmill's own, whose classes may be used as jobs and filters.
    """

    dataset: DatasetConf = field(default_factory=DatasetConf)
    model: ModelConf = field(default_factory=ModelConf)
    engine: EngineConf = field(default_factory=EngineConf)
    fleet: FleetConf = field(default_factory=FleetConf)
    checkpoint: CheckpointConf = field(default_factory=CheckpointConf)
    schedule: ScheduleConf = field(default_factory=ScheduleConf)
    notify: NotifyConf = field(default_factory=NotifyConf)
    run_name: str | None = None
    offline: bool = False
    modules: list[str] = field(default_factory=list)


@dataclass
class RunConf(CommonConf):
    """The run as a whole.

    Attributes:
        resume: auto continues what is there; errors also tries rows with an error again; extend also takes in rows that
            were added to the data set; force starts over in a fresh folder and deletes nothing.
        seed: Determines all random draws.
        date: What chat templates take for today, such as 2026-01-31. null: the day the run began.
        cache: Whether to reuse the answers that other runs with ``cache=true`` got from the same model to the same
            prompt, and keep those of this run for others. ``rowmill cache`` shows how many there are.
        stages: Runs in one, each of which asks about the rows that the one before it answered; see ``rowmill help
            chain``.
    """

    job: Any = None
    prompt: PromptConf = field(default_factory=PromptConf)
    output: OutputConf = field(default_factory=OutputConf)
    calibrate: CalibrateConf = field(default_factory=CalibrateConf)
    resume: str = key("auto", among=("auto", "errors", "extend", "force"))
    seed: int = key(0, least=0)
    date: str | None = None
    cache: bool = False
    cascade: CascadeConf = field(default_factory=CascadeConf)
    stages: list[Any] = field(default_factory=list)
