"""Watch a model repository for new versions."""

import asyncio
import logging

from unfreeze.contract.errors import UnfreezeError
from unfreeze.serve.models.served import ServedModels

_log = logging.getLogger(__name__)


async def watch_repository(models: ServedModels, poll_s: float) -> None:
    """Load new versions and unload removed ones until this task is cancelled; a check that fails is logged.

    Args:
        models: the served models.
        poll_s: seconds between two checks.
    """
    while True:
        await asyncio.sleep(poll_s)
        try:
            await models.refresh()
        except (UnfreezeError, OSError) as error:
            _log.warning("cannot check the repository for new versions: %s", error)
        except Exception:  # noqa: BLE001 - the next check may succeed
            _log.exception("cannot check the repository for new versions")
