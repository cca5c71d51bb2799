"""What a model has done, in Triton's words."""

from unfreeze.contract.model.repository import ENCODED_SUFFIX
from unfreeze.protos import open_inference_pb2 as pb
from unfreeze.serve.models.loaded_model import LoadedModel
from unfreeze.serve.scheduling.statistics import Duration


def model_statistics(model: LoadedModel, *, encoded: bool) -> pb.ModelStatistics:
    """Tell what one version of a model has done since it was loaded.

    Args:
        model: the version.
        encoded: tell of encoded images, else of prepared ones; a batch that held both counts for both.
    """
    told = model.statistics[encoded]
    fail = Duration()
    for duration in told.failures.copy().values():
        fail.count += duration.count
        fail.seconds += duration.seconds
    nothing = pb.StatisticDuration(count=told.success.count)
    return pb.ModelStatistics(
        name=shown_name(model, encoded=encoded),
        version=model.version,
        last_inference=told.last_ms,
        inference_count=told.images,
        execution_count=told.executions,
        inference_stats=pb.InferStatistics(
            success=_duration(told.success),
            fail=_duration(fail),
            queue=_duration(told.queue),
            compute_input=_duration(told.decode),
            compute_infer=_duration(told.infer),
            compute_output=nothing,
        ),
        batch_stats=[
            pb.InferBatchStatistics(batch_size=size, compute_infer=_duration(duration))
            for size, duration in sorted(told.batches.copy().items())
        ],
    )


def shown_name(model: LoadedModel, *, encoded: bool) -> str:
    """Give the name by which encoded or prepared images are sent to a model."""
    return model.name + ENCODED_SUFFIX * encoded


def _duration(duration: Duration) -> pb.StatisticDuration:
    return pb.StatisticDuration(count=duration.count, ns=int(1e9 * duration.seconds))
