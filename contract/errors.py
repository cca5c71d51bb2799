"""Every error that unfreeze raises on purpose.

    UnfreezeError
    ├── OptionsError                an option is out of its range
    ├── ImageError                one image cannot be used
    │   ├── EmptyImageError         no bytes, or no pixels
    │   ├── NotAnImageError          the bytes are in no format that we read
    │   ├── DamagedImageError       the format is known, the content is truncated or broken
    │   ├── ImageTooLargeError      more pixels than the limit
    │   └── UnsupportedImageError   a pixel type with no agreed range
    ├── DataError                   a folder of images cannot be learned from
    ├── WeightsError                pretrained weights cannot be had or do not fit
    ├── CheckpointError             a run's folder cannot be read
    ├── DivergenceError             training came to numbers that are none
    ├── ManifestError               a manifest is malformed, or of a schema that we do not know
    ├── RepositoryError             a model repository, or a name in it, is wrong
    ├── ModelError                  a model file cannot be executed
    ├── ProofError                  an exported model is not what was trained
    └── ServingError                a request was refused
        ├── InvalidRequestError       the request itself is wrong
        ├── UnknownModelError         no such model, or no such version of it
        ├── ModelUnavailableError     the repository has it, but it cannot be loaded
        ├── QueueFullError            too much is waiting already
        ├── DeadlineError             the answer would come too late
        ├── ForbiddenError            the caller may not do this
        └── DrainingError             the server is going down

They carry no transport's codes: `unfreeze.serve.status` maps them to gRPC's.
"""


class UnfreezeError(Exception):
    """What all of our errors are; its text says what was found, what was expected and what to do."""


class OptionsError(UnfreezeError, ValueError):
    """An option is out of its range."""


class ImageError(UnfreezeError):
    """One image cannot be used."""


class EmptyImageError(ImageError):
    """There are no bytes, or no pixels."""


class NotAnImageError(ImageError):
    """The bytes are in no format that we read."""


class DamagedImageError(ImageError):
    """The format is known, but the content is truncated or broken."""


class ImageTooLargeError(ImageError):
    """The image has more pixels than the limit."""


class UnsupportedImageError(ImageError):
    """The pixels are of a type that has no agreed range of values."""


class DataError(UnfreezeError):
    """A folder of images cannot be learned from."""


class WeightsError(UnfreezeError):
    """Pretrained weights cannot be had, or do not fit the network."""


class CheckpointError(UnfreezeError):
    """A run's folder cannot be read."""


class DivergenceError(UnfreezeError):
    """Training came to infinities, or to numbers that are none."""


class ManifestError(UnfreezeError):
    """A manifest is malformed, or follows a schema that this version does not know."""


class RepositoryError(UnfreezeError):
    """A model repository, or a name in it, is wrong."""


class ModelError(UnfreezeError):
    """A model file cannot be executed."""


class ProofError(UnfreezeError):
    """An exported model does not answer as the trained one does."""


class ServingError(UnfreezeError):
    """A request was refused."""


class InvalidRequestError(ServingError):
    """The request itself is wrong."""


class UnknownModelError(ServingError):
    """There is no such model, or no such version of it."""


class ModelUnavailableError(ServingError):
    """The repository has it, but it cannot be loaded."""


class QueueFullError(ServingError):
    """Too much is waiting already.

    Args:
        message: what is full.
        retry_s: when there may be room again, in seconds from now.
    """

    def __init__(self, message: str, retry_s: float = 0.1) -> None:
        super().__init__(message)
        self.retry_s = retry_s


class DeadlineError(ServingError):
    """The answer would come after the caller stopped waiting for it."""


class ForbiddenError(ServingError):
    """The caller may not do this."""


class DrainingError(ServingError):
    """The server is going down and takes no new work."""


def first_line(error: BaseException) -> str:
    """Shorten another library's error to one line of at most 300 characters."""
    return " ".join(str(error).split())[:300] or type(error).__name__
