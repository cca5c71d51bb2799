"""Compare what a result or an unfinished job was computed from with what a job is about to compute."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unfreeze.batch.result import count_rows, is_file, read_fingerprint
from unfreeze.batch.working_folder import WorkingFolder
from unfreeze.contract.errors import UnfreezeError

_WORDS = {"images": "the images", "model": "the model", "unfreeze": "the version of unfreeze"}


def check_written(out: Path, fingerprint: Mapping[str, Any] | None, *, overwrite: bool) -> int | None:
    """Check what is at the place of the result.

    Args:
        out: where the result will be.
        fingerprint: of the job; None if it is not known yet.
        overwrite: whether a Parquet file there, or the result of another job, is replaced.

    Returns:
        The number of rows if the result of this very job is there; None if it has to be computed.

    Raises:
        UnfreezeError: something else is there.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    found = read_fingerprint(out)
    if overwrite and (is_file(out) or found is not None):
        return None
    if overwrite:
        raise UnfreezeError(
            f"{out} is no result of this command, and --overwrite deletes nothing else; choose another --out, or "
            "remove it yourself"
        )
    if found is None:
        raise UnfreezeError(f"{out} exists and is no result of this command; choose another --out, or use --overwrite")
    if fingerprint is None:
        return None
    if found != fingerprint:
        raise UnfreezeError(
            f"{out} is the result of another job: {_difference(found, fingerprint)} differ; choose another --out, or "
            "replace it with --overwrite"
        )
    return count_rows(out)


def check_unfinished(folder: WorkingFolder, fingerprint: Mapping[str, Any], *, overwrite: bool) -> None:
    """Check that the blocks of an unfinished job may be used; with `overwrite`, others are deleted.

    Raises:
        UnfreezeError: they are of another job.
    """
    found = folder.fingerprint()
    if found is None or found == fingerprint:
        return
    if not overwrite:
        raise UnfreezeError(
            f"{folder.path} has blocks of another job that is not finished: {_difference(found, fingerprint)} differ; "
            "finish it with the same images, model and options, or discard it with --overwrite"
        )
    folder.begin(fingerprint)


def _difference(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    names = sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))
    return " and ".join(_WORDS.get(name, f"--{name.replace('_', '-')}") for name in names)
