"""The link: how a head's logits become probabilities."""

from torch import Tensor, nn

SOFTMAX, SIGMOID = "softmax", "sigmoid"
LINKS = (SOFTMAX, SIGMOID)


def probabilities(logits: Tensor, link: str, temperature: float = 1.0) -> Tensor:
    """Give each class its probability; a graph that ONNX can hold.

    Args:
        logits: float32 [N, C].
        link: "softmax", or "sigmoid" for a sigmoid of each logit, divided by their sum, as scikit-learn's one-vs-rest
            classifiers have it.
        temperature: what the logits are divided by first.

    Returns:
        Float32 [N, C]; rows sum to 1.
    """
    return _log_weights(logits / temperature, link).softmax(1)


def negative_log_likelihoods(logits: Tensor, labels: Tensor, link: str, temperature: float = 1.0) -> Tensor:
    """Measure how surprising each true label was.

    Args:
        logits: float [N, C].
        labels: int64 [N].
        link: as for `probabilities`.
        temperature: what the logits are divided by first.

    Returns:
        Float [N]: minus the logarithm of the true label's probability, in nats.
    """
    return nn.functional.cross_entropy(_log_weights(logits / temperature, link), labels, reduction="none")


def _log_weights(logits: Tensor, link: str) -> Tensor:
    """Give logarithms of what is proportional to the probabilities.

    Minus softplus is the sigmoid's logarithm. torch's own `logsigmoid` becomes log(sigmoid(x)) in ONNX, which is minus
    infinity below -104.
    """
    return {SOFTMAX: lambda z: z, SIGMOID: lambda z: -nn.functional.softplus(-z)}[link](logits)
