"""Every error that unfreeze raises on purpose.

    UnfreezeError
    ├── OptionsError                an option is out of its range
    ├── ImageError                  an image cannot be used
    │   ├── EmptyImageError         no bytes, or no pixels
    │   ├── NotAnImageError         not in a supported format
    │   ├── DamagedImageError       in a supported format, but truncated or broken
    │   ├── ImageTooLargeError      more pixels than the limit
    │   └── UnsupportedImageError   a kind of image that is not supported, or only with an option or an extra
    ├── DataError                   a dataset cannot be trained on
    ├── WeightsError                pretrained weights are not available or do not fit
    ├── CheckpointError             a run's folder cannot be used
    ├── DivergenceError             training diverged to infinity or NaN
    ├── ManifestError               a manifest is malformed, or of an unknown schema
    ├── RepositoryError             a model repository, or a name in it, is not valid
    ├── ModelError                  a model file cannot be used
    ├── SourceError                 what a device takes new versions from cannot be read
    ├── RefusedVersionError         a version is not what was published or signed, or fails on this device
    ├── ProofError                  an exported model does not agree with the trained one
    └── ServingError                a request was refused
        ├── InvalidRequestError       the request is not valid
        ├── UnknownModelError         there is no such model, or no such version of it
        ├── UnknownRegionError        there is no such region of shared memory
        ├── RegionExistsError         there is a region of shared memory of this name
        ├── UnsupportedRequestError   this server does not support the call
        ├── ModelUnavailableError     the model is in the repository, but cannot be loaded
        ├── QueueFullError            too many requests are waiting
        ├── DeadlineError             the response would be too late
        ├── ForbiddenError            the caller is not allowed to do this
        └── DrainingError             the server is shutting down

They carry no transport's codes: `unfreeze.serve.status` maps them to gRPC status codes.
"""


class UnfreezeError(Exception):
    """Base of all errors; the message says what was found, what was expected and what to do."""


class OptionsError(UnfreezeError, ValueError):
    """An option is out of its range."""


class ImageError(UnfreezeError):
    """An image cannot be used."""


class EmptyImageError(ImageError):
    """The image has no bytes, or no pixels."""


class NotAnImageError(ImageError):
    """The bytes are not an image in a supported format."""


class DamagedImageError(ImageError):
    """The format is supported, but the content is truncated or broken."""


class ImageTooLargeError(ImageError):
    """The image has more pixels than the limit."""


class UnsupportedImageError(ImageError):
    """The image is of a kind that is not supported, or only with an option or an extra; the message says which."""


class DataError(UnfreezeError):
    """A dataset cannot be trained on."""


class WeightsError(UnfreezeError):
    """Pretrained weights are not available, or do not fit the network."""


class CheckpointError(UnfreezeError):
    """A run's folder cannot be used."""


class DivergenceError(UnfreezeError):
    """Training diverged to infinity or NaN."""


class ManifestError(UnfreezeError):
    """A manifest is malformed, or of a schema that this version does not know."""


class RepositoryError(UnfreezeError):
    """A model repository, or a name in it, is not valid."""


class ModelError(UnfreezeError):
    """A model file cannot be used."""


class SourceError(UnfreezeError):
    """What a device takes new versions from cannot be read: a network, a server or a folder that is not there."""


class RefusedVersionError(UnfreezeError):
    """A version is refused: it is not what was published or signed, or it fails on this device.

    Args:
        message: why.
        retry_s: seconds after which to try again; None if that cannot help.
    """

    def __init__(self, message: str, retry_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_s = retry_s


class ProofError(UnfreezeError):
    """An exported model does not agree with the trained one."""


class ServingError(UnfreezeError):
    """A request was refused."""


class InvalidRequestError(ServingError):
    """The request is not valid."""


class UnknownModelError(ServingError):
    """There is no such model, or no such version of it."""


class UnknownRegionError(ServingError):
    """There is no such region of shared memory."""


class RegionExistsError(ServingError):
    """There is a region of shared memory of this name."""


class UnsupportedRequestError(ServingError):
    """This server does not support the call."""


class ModelUnavailableError(ServingError):
    """The model is in the repository, but cannot be loaded."""


class QueueFullError(ServingError):
    """Too many requests are waiting.

    Args:
        message: which queue is full.
        retry_s: seconds after which to try again.
    """

    def __init__(self, message: str, retry_s: float = 0.1) -> None:
        super().__init__(message)
        self.retry_s = retry_s


class DeadlineError(ServingError):
    """The response would come after the caller's deadline."""


class ForbiddenError(ServingError):
    """The caller is not allowed to do this."""


class DrainingError(ServingError):
    """The server is shutting down and accepts no new requests."""


class RestartingError(ServingError):
    """A process of the server has ended and is being restarted."""


def first_line(error: BaseException) -> str:
    """Shorten another library's error message to one line of at most 300 characters."""
    return " ".join(str(error).split())[:300] or type(error).__name__
