"""ModelStatistics of the Open Inference Protocol."""

from typing import Protocol, runtime_checkable

from unfreeze.contract.model.repository import ENCODED_SUFFIX
from unfreeze.protos import open_inference_pb2 as pb
from unfreeze.serve.models.served import ServedModel
from unfreeze.serve.scheduling.statistics import Duration


@runtime_checkable
class NamedModel(Protocol):
    """A model with a name."""

    @property
    def name(self) -> str:
        """Its name in the repository."""


def model_statistics(model: ServedModel, *, encoded: bool) -> pb.ModelStatistics:
    """Convert the statistics of a model version to the protocol's message.

    Args:
        model: model version; its statistics start when it is loaded.
        encoded: return the statistics of requests with encoded images; False for preprocessed images. A batch that
            contains both is counted in both.
    """
    statistics = model.statistics[encoded]
    failures = Duration()
    for duration in statistics.failures.copy().values():
        failures.count += duration.count
        failures.seconds += duration.seconds
    not_measured = pb.StatisticDuration(count=statistics.success.count)
    return pb.ModelStatistics(
        name=protocol_name(model, encoded=encoded),
        version=model.version,
        last_inference=statistics.last_ms,
        inference_count=statistics.images,
        execution_count=statistics.executions,
        inference_stats=pb.InferStatistics(
            success=_duration(statistics.success),
            fail=_duration(failures),
            queue=_duration(statistics.queue),
            compute_input=_duration(statistics.decode),
            compute_infer=_duration(statistics.infer),
            compute_output=not_measured,
        ),
        batch_stats=[
            pb.InferBatchStatistics(batch_size=size, compute_infer=_duration(duration))
            for size, duration in sorted(statistics.batches.copy().items())
        ],
    )


def protocol_name(model: NamedModel, *, encoded: bool) -> str:
    """Return the model name that the protocol uses for encoded or preprocessed images."""
    return model.name + ENCODED_SUFFIX * encoded


def _duration(duration: Duration) -> pb.StatisticDuration:
    return pb.StatisticDuration(count=duration.count, ns=int(1e9 * duration.seconds))
