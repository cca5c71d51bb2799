"""A child process of a server with --frontends: reads its task from standard input."""

import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable
from dataclasses import replace

from unfreeze.contract.cores import usable_cores
from unfreeze.contract.errors import UnfreezeError
from unfreeze.serve.frontends.board import Board
from unfreeze.serve.frontends.bridge import Bridge, CollectedModels
from unfreeze.serve.frontends.children import BEAT_S, ChildTask, Reports
from unfreeze.serve.frontends.process_metrics import process_metrics
from unfreeze.serve.frontends.region_folder import RegionFolder
from unfreeze.serve.frontends.remote_models import RemoteModels
from unfreeze.serve.models.watching import watch_repository
from unfreeze.serve.observability.logs import start_logging
from unfreeze.serve.observability.metrics import start_metrics
from unfreeze.serve.observability.recording_metrics import recording_metrics
from unfreeze.serve.observability.traffic_metrics import traffic_metrics
from unfreeze.serve.scheduling.receive_budget import ReceiveBudget
from unfreeze.serve.server import Server, freeze_objects
from unfreeze.serve.status import ERRORS_BY_STATUS


async def _execute_models(task: ChildTask, board: Board, reports: Reports, stop: asyncio.Event) -> None:
    """Load and execute the models."""
    options = task.options
    bridge = Bridge(options, board)
    await bridge.models.open()
    metrics = None
    if options.metrics:
        collected = CollectedModels(bridge)
        metrics = start_metrics(
            collected,
            options.metrics_host.strip("[]"),
            options.metrics_port,
            collected.errors,
            lambda: (
                *process_metrics(board),
                *recording_metrics(collected.recorded()),
                *traffic_metrics(bridge.models),
            ),
        )
    listener = socket.socket(fileno=task.listener)
    listener.setblocking(False)  # noqa: FBT003
    background = [asyncio.create_task(bridge.accept(listener))]
    if options.poll_s:
        background.append(asyncio.create_task(watch_repository(bridge.models, options.poll_s)))
    freeze_objects()
    reports.send(ready=True)
    await stop.wait()
    for one in background:
        one.cancel()
    bridge.close()
    await bridge.models.close()
    if metrics is not None:
        await asyncio.to_thread(metrics.close)


async def _accept_requests(task: ChildTask, board: Board, reports: Reports, stop: asyncio.Event) -> None:
    """Accept requests, decode their images, and have them classified."""
    options = replace(
        task.options, metrics=False, poll_s=0, frontends=1, uds=task.options.uds if task.row == 1 else None
    )
    budget = ReceiveBudget(options.max_queue_mib * 2**20, board.received_elsewhere, board.set_receiving)
    decoders = max(1, -(-usable_cores() // task.frontends))

    def connect(on_change: Callable[[], None]) -> RemoteModels:
        return RemoteModels(options, board, task.address, decoders, on_change)

    regions = RegionFolder(task.address.with_name("regions"))
    async with Server(options, connect, budget, regions, shares_ports=True) as server:
        freeze_objects()
        reports.send(port=server.port, http=None if server.http is None else server.http.address)
        await stop.wait()
    reports.send(answered=server.answered, rejected=ERRORS_BY_STATUS.total())


async def _beat(board: Board) -> None:
    """Show the parent that the event loop runs."""
    while True:
        board.beat()
        await asyncio.sleep(BEAT_S)


async def _run(task: ChildTask, reports: Reports) -> None:
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    loop.add_signal_handler(signal.SIGINT, lambda: None)  # Ctrl-C reaches all processes; the parent stops the others
    loop.add_reader(task.lifeline, stop.set)  # the parent has ended
    board = Board(task.board, task.frontends, task.row)
    run = _accept_requests if task.row else _execute_models
    beating = asyncio.create_task(_beat(board))
    work = asyncio.create_task(run(task, board, reports, stop))
    stopped = asyncio.create_task(stop.wait())
    await asyncio.wait((work, stopped), return_when=asyncio.FIRST_COMPLETED)
    loop.remove_reader(task.lifeline)
    await work
    beating.cancel()


def main() -> None:
    """Run the task."""
    task = ChildTask.from_json(sys.stdin.read())
    reports = Reports()
    start_logging(task.logs)
    try:
        asyncio.run(_run(task, reports))
    except UnfreezeError as error:
        reports.send(error=type(error).__name__, message=str(error))
        sys.exit(1)
    logging.shutdown()
    os._exit(0)  # unloading a runtime's libraries while it is loading a model would abort the process


if __name__ == "__main__":
    main()
