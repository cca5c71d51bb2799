"""`unfreeze predict --out`: very many images."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Group, Parameter

from unfreeze.console import REMARKS, RESULTS, TerminalReporter
from unfreeze.contract.counted import counted
from unfreeze.contract.errors import ImageError, OptionsError
from unfreeze.signals import sigterm_as_interrupt

_MANY = Group("Many images", sort_key=10)
_job = Parameter(group=_MANY)
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")  # a path joins the two slashes


@dataclass(frozen=True, kw_only=True)
class JobParameters:
    """Options of a job.

    Args:
        out: write one row for each image to this Parquet file, or to a folder of Parquet files if the name does not
            end in .parquet. A job that was interrupted continues when the same command is run again. Needs
            unfreeze[batch].
        format: how sources are read: "images", "csv", "parquet" or "webdataset". "auto" goes by the names of files.
        column: column of the images or of their paths in CSV and Parquet files. By default one with a usual name, such
            as image or path.
        ray: work on a Ray cluster: "auto" (the one that runs on this machine, or a new one of this machine), or the
            ADDRESS of one. Needs unfreeze[ray].
        overwrite: replace the Parquet file or the folder of results at OUT, and discard the unfinished job of another
            command there.
    """

    out: Annotated[Path | None, _job] = None
    format: Annotated[str, _job] = "auto"
    column: Annotated[str, _job] = ""
    ray: Annotated[str | None, _job] = None
    overwrite: Annotated[bool, Parameter(group=_MANY, negative="")] = False

    @property
    def is_given(self) -> bool:
        """Whether there is a job.

        Raises:
            OptionsError: an option has no effect because there is no --out.
        """
        if self.out is not None:
            return True
        given = [
            name for name in ("format", "column", "ray", "overwrite") if getattr(self, name) != getattr(_NONE, name)
        ]
        if given:
            raise OptionsError(f"--{given[0]} is for --out predictions.parquet; give both of them")
        return False


_NONE = JobParameters()


def run_job(sources: Sequence[str], model: Path, device: str, top_k: int, job: JobParameters) -> None:
    """Classify very many images.

    Args:
        sources: paths, URLs and patterns.
        model: a `model.onnx`, or its folder.
        device: the runtime's name.
        top_k: number of labels for each image.
        job: options of the job; `out` is given.

    Raises:
        OptionsError: --out is a URL.
        ImageError: images could not be classified; all others are in the result.
    """
    from unfreeze.batch.job import has_unfinished, predict_images
    from unfreeze.batch.options import PredictOptions
    from unfreeze.batch.sources.entry import SourceOptions

    if job.out is None or _URL.match(str(job.out)):
        raise OptionsError(f"--out must be a path on this machine, got {job.out}; copy the result afterwards")
    options = PredictOptions(
        model=model,
        out=job.out,
        device=device,
        top_k=top_k,
        source=SourceOptions(format=job.format, column=job.column),
        ray=job.ray,
        overwrite=job.overwrite,
    )
    with sigterm_as_interrupt(), TerminalReporter() as reporter:
        try:
            result = predict_images(sources, options, reporter)
        except KeyboardInterrupt:
            if has_unfinished(job.out):
                REMARKS.print(f"stopped; the same command continues with what is left of {job.out}", markup=False)
            raise
    rate = f", {result.computed / result.seconds:,.0f} images/s" if result.computed and result.seconds else ""
    RESULTS.print(f"{job.out}: {counted(result.rows, 'row')}{rate}", markup=False)
    if result.failed:
        raise ImageError(
            f"{result.failed:,} of {result.rows:,} images could not be classified; see the column `error` of {job.out}"
        )
