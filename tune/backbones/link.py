"""The link: how a head's logits become probabilities."""

from torch import Tensor, nn

SOFTMAX, SIGMOID = "softmax", "sigmoid"
LINKS = (SOFTMAX, SIGMOID)


def probabilities(logits: Tensor, link: str, temperature: float = 1.0) -> Tensor:
    """Compute class probabilities with operations that export to ONNX.

    Args:
        logits: float32 [N, C].
        link: "softmax", or "sigmoid": the sigmoid of each logit, divided by their sum, as in scikit-learn's
            one-vs-rest classifiers.
        temperature: divides the logits first.

    Returns:
        Float32 [N, C]; rows sum to 1.
    """
    return log_weights(logits / temperature, link).softmax(1)


def negative_log_likelihoods(logits: Tensor, labels: Tensor, link: str, temperature: float = 1.0) -> Tensor:
    """Compute the negative log-likelihood of each true label.

    Args:
        logits: float [N, C].
        labels: int64 [N].
        link: see `probabilities`.
        temperature: divides the logits first.

    Returns:
        Float [N], in nats.
    """
    return nn.functional.cross_entropy(log_weights(logits / temperature, link), labels, reduction="none")


def log_weights(logits: Tensor, link: str) -> Tensor:
    """Return the logarithms of weights that are proportional to the probabilities."""
    if link == SOFTMAX:
        return logits
    if link == SIGMOID:
        # The logarithm of the sigmoid. torch's `logsigmoid` is exported as log(sigmoid(x)): -infinity below -104.
        return -nn.functional.softplus(-logits)
    raise ValueError(f"link must be one of {', '.join(LINKS)}, got {link!r}")
