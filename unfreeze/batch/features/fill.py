"""Fill the store: what `unfreeze features` does."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from unfreeze.batch.features.passes import FeaturePass, feature_passes
from unfreeze.contract.counted import counted
from unfreeze.contract.errors import OptionsError, UnfreezeError
from unfreeze.contract.reporting import Reporter
from unfreeze.tune.data.images import LabeledImage, Skipped
from unfreeze.tune.device.distributed import SINGLE_WORKER
from unfreeze.tune.device.precision import choose_precision
from unfreeze.tune.device.threads import limited_threads
from unfreeze.tune.options import TuneOptions
from unfreeze.tune.pipeline.prepare import prepare_run
from unfreeze.tune.recipes.registry import AUTO, PROBE, is_linear
from unfreeze.tune.store.store import FeatureStore


@dataclass(frozen=True, kw_only=True)
class FilledFeatures:
    """What the store has now.

    Args:
        images: number of images.
        computed: number of images whose features were computed, the others were stored already.
        skipped: number of files that do not decode.
        folder: of the store.
    """

    images: int
    computed: int
    skipped: int
    folder: str


def fill_features(data: Path, options: TuneOptions, reporter: Reporter, ray: str | None = None) -> FilledFeatures:
    """Compute and store what a run with a linear recipe and the same options reads, as far as it is not stored.

    Args:
        data: folder of labeled images, or a CSV file.
        options: of the later run.
        reporter: shows progress.
        ray: "auto" or the address of a Ray cluster; None computes in this process.

    Raises:
        OptionsError: the recipe is not linear, the store is off, or the data are to be refused for problems.
        DataError: the images cannot be used.
        WeightsError: the backbone or its weights are unavailable.
        UnfreezeError: the cluster cannot do it, or the store does not hold the features.
    """
    options = _checked(options)
    precision = choose_precision(options.device, options.precision)
    with limited_threads(), precision.kernels(), ExitStack() as stack:
        store = FeatureStore(round(options.store_gb * 1e9), reporter=reporter)
        stack.enter_context(store)
        context = prepare_run(data, Path(), options, reporter, precision, SINGLE_WORKER, store)
        passes = list(feature_passes(context))
        pending = [(one, images) for one in passes if (images := one.pending())]
        try:
            skipped = _compute(pending, options, ray, reporter)
        except UnfreezeError as error:
            raise UnfreezeError("; ".join([*store.problems, str(error)])) from error
        stack.close()  # waits until all rows are written
        _check_complete(passes, skipped, store)
        total = sum(len(one.run.images) for one in passes)
    computed = sum(len(images) for _, images in pending) - len(skipped)
    undecodable = len(skipped) + len(context.inspection.undecodable)
    return FilledFeatures(images=total, computed=computed, skipped=undecodable, folder=str(store.folder))


def _checked(options: TuneOptions) -> TuneOptions:
    """Check the options, and request the probe if no recipe is given."""
    recipe = options.requested_recipe
    if recipe != AUTO and not is_linear(recipe):
        raise OptionsError(
            f"the store is filled for linear recipes, such as {PROBE}, got --recipe {recipe}; leave out --recipe and "
            "--cut"
        )
    if options.strict:
        raise OptionsError("--strict is for tune, which refuses data with problems; leave it out")
    if options.teacher:
        raise OptionsError("--teacher is for tune, which asks it about the images; leave it out")
    if not options.store_gb:
        raise OptionsError("--store-gb 0 turns the feature store off; give the size that it may have")
    return replace(options, recipe=PROBE) if recipe == AUTO else options


def _compute(
    pending: Sequence[tuple[FeaturePass, list[LabeledImage]]], options: TuneOptions, ray: str | None, reporter: Reporter
) -> list[Skipped]:
    """Compute and store what is missing; return the files that do not decode."""
    if ray is None or not pending:
        return [skipped for one, images in pending for skipped in one.compute(images, reporter)]
    from unfreeze.batch.features.on_ray import compute_on_ray

    return list(compute_on_ray(pending, options, ray, reporter))


def _check_complete(passes: list[FeaturePass], skipped: list[Skipped], store: FeatureStore) -> None:
    """Check that the rows of all images are in the store."""
    left_out = {one.path.absolute() for one in skipped}
    missing = sum(image.path.absolute() not in left_out for one in passes for image in one.pending())
    if missing:
        reasons = "; ".join(store.problems) or "they were deleted, or the images changed meanwhile"
        raise UnfreezeError(f"the store lacks the features of {counted(missing, 'image')}: {reasons}")
