"""`unfreeze serve`."""

import asyncio
import logging
from typing import Annotated

from cyclopts import Parameter
from rich.logging import RichHandler

from serve.options import ServeOptions
from unfreeze.console import REMARKS, RESULTS

EXAMPLES = """Examples:

    unfreeze serve --repository models/
    unfreeze serve --repository models/ --port 9000 --max-batch 16 --max-delay-ms 2
"""


def serve(options: Annotated[ServeOptions, Parameter(name="*")]) -> None:
    """Serve every model of a repository over gRPC until SIGTERM or Ctrl-C, then finish what is in flight.

    It speaks the Open Inference Protocol (models NAME and NAME.encoded), unfreeze.v1.Classifier, gRPC health and
    reflection. Prints one line once it answers.

    Args:
        options: what to serve, and how.
    """
    from serve.server import Server
    from serve.server import serve as run_serve

    logging.basicConfig(
        level=logging.INFO, format="%(message)s", handlers=[RichHandler(console=REMARKS, show_path=False)]
    )

    def ready(server: Server) -> None:
        RESULTS.print(f"serving {options.repository} on {options.host}:{server.port}", markup=False)

    asyncio.run(run_serve(options, ready))
