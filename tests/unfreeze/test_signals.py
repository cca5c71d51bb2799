"""SIGTERM as an interrupt."""

import os
import signal

import pytest

from unfreeze.signals import sigterm_as_interrupt


def test_sigterm_raises_inside_the_block_and_the_handler_is_restored() -> None:
    """The signal raises KeyboardInterrupt, as Ctrl-C does; afterwards the previous handler is back."""
    previous = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), sigterm_as_interrupt():  # noqa: PT012 - the signal comes at any time
        os.kill(os.getpid(), signal.SIGTERM)
        signal.pause()
    assert signal.getsignal(signal.SIGTERM) is previous
