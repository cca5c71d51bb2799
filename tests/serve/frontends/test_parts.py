"""The parts of a server of several processes: shared memory, records, counters, and threads that decode."""

import asyncio
import os
import socket
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unfreeze.contract.errors import DeadlineError, ImageError, InvalidRequestError, QueueFullError
from unfreeze.serve.frontends.board import Board
from unfreeze.serve.frontends.children import ChildTask
from unfreeze.serve.frontends.decode_pool import DecodePool
from unfreeze.serve.frontends.link import Kind, Link, Record, error_document, error_from
from unfreeze.serve.frontends.region import Region, map_region
from unfreeze.serve.observability.logs import LogOptions
from unfreeze.serve.options import ServeOptions
from unfreeze.serve.scheduling.request import DEFAULT_PRIORITY, RequestTiming
from unfreeze.serve.scheduling.statistics import Statistics, merge_documents, statistics_from

SIZE = 2**20


@given(st.lists(st.one_of(st.integers(1, SIZE // 3), st.none()), max_size=60))
def test_parts_of_a_region_never_overlap(steps: list[int | None]) -> None:
    """Whatever the order of allocations and releases; in the end all of it is free again."""
    region, used = Region(SIZE), dict[int, int]()
    try:
        for size in steps:
            if size is None:
                if used:
                    begin = next(iter(used))
                    region.release(begin)
                    del used[begin]
            elif (begin := region.allocate(size)) is not None:
                end = begin + size
                assert end <= SIZE
                assert all(end <= other or begin >= other + length for other, length in used.items())
                used[begin] = size
        for begin in used:
            region.release(begin)
        assert region.allocate(SIZE) == 0
    finally:
        os.close(region.descriptor)


def test_a_region_is_seen_by_the_process_that_maps_it() -> None:
    """And memory above 32 MiB is given back when all parts are free."""
    region = Region(2**27)
    seen = map_region(os.dup(region.descriptor))
    begin = region.allocate(2**26)
    assert begin is not None
    region.view(begin, 2**26)[:] = 7
    assert (seen[begin : begin + 2**26] == 7).all()
    used = os.fstat(region.descriptor).st_blocks * 512
    region.release(begin)
    assert used >= 2**26
    assert os.fstat(region.descriptor).st_blocks * 512 <= 2**25
    os.close(region.descriptor)


class _Receiver:
    def __init__(self) -> None:
        self.received: list[tuple[Record, object]] = []

    def on_connected(self, link: Link) -> None:
        pass

    def on_record(self, record: Record, document: object) -> None:
        self.received.append((record, document))

    def on_closed(self) -> None:
        pass


@pytest.mark.parametrize("piece", [1, 7, 64, 10_000])
def test_records_arrive_whole_in_pieces_of_any_size(piece: int) -> None:
    """With the documents after them."""
    sent = [
        (Record(Kind.CLASSIFY, encoded=True, number=5, handle=2, size=3, begin=640, priority=9, deadline=1.5), None),
        (Record(Kind.MODELS), {"versions": [{"name": "ants \u2713"}]}),
        (Record(Kind.ANSWER, number=5, started=2.25, infer_s=0.125), None),
    ]

    async def send() -> bytes:
        ours, theirs = socket.socketpair()
        _, link = await asyncio.get_running_loop().create_unix_connection(lambda: Link(_Receiver()), sock=ours)
        for record, document in sent:
            link.send(record, document)
        await asyncio.sleep(0.05)
        link.close()
        with theirs:
            return theirs.recv(10_000)

    data, receiver = asyncio.run(send()), _Receiver()
    arriving = Link(receiver)
    for start in range(0, len(data), piece):
        arriving.data_received(data[start : start + piece])
    assert [(one._replace(size=0) if document else one, document) for one, document in receiver.received] == sent


@pytest.mark.parametrize(
    "error",
    [QueueFullError("full", 1.5), DeadlineError("late"), InvalidRequestError("image 1 of 2"), KeyError("secret")],
)
def test_errors_cross_with_their_type(error: Exception) -> None:
    """Others than ours cross without their text."""
    found = error_from(error_document(error))
    if isinstance(error, KeyError):
        assert isinstance(found, RuntimeError)
        assert "secret" not in str(found)
    else:
        assert (type(found), str(found)) == (type(error), str(error))
        assert getattr(found, "retry_s", None) == getattr(error, "retry_s", None)


def test_a_board_sums_over_the_other_processes() -> None:
    """What a dead process held is forgotten, except how often it was restarted."""
    board = Board.create(2)
    first, second = Board(board.descriptor, 2, 1), Board(board.descriptor, 2, 2)
    first.set_accepted(7, 3, 300)
    second.set_accepted(7, 2, 200)
    second.set_receiving(50)
    assert (first.accepted_elsewhere(7), second.accepted_elsewhere(7), board.accepted(7)) == ((2, 200), (3, 300), 5)
    assert (first.received_elsewhere(), second.received_elsewhere()) == (50, 0)
    board.set_speed(7, 0.25)
    assert first.speed(7) == 0.25
    board.count_restart(2)
    board.clear(2)
    assert (board.accepted(7), first.received_elsewhere(), board.restarts) == (3, 0, (0, 1))
    os.close(board.descriptor)


def test_counters_of_processes_add_up() -> None:
    """All of them, and the time of the last request is the latest."""
    one, other = Statistics(), Statistics()
    for statistics, images in ((one, 3), (other, 5)):
        statistics.add_success(images, RequestTiming(started=0.5, decode_s=0.25, infer_s=2.0))
        statistics.add_failure("DeadlineError", 1.0)
        statistics.add_batch(images, 0.5)
    one.last_ms, other.last_ms = 10, 20
    documents = [{"models": {"4": {"True": statistics.document()}}, "errors": {"X": 1}} for statistics in (one, other)]
    merged = merge_documents([{}, *documents])
    assert merged["errors"] == {"X": 2}
    found = statistics_from(merged["models"]["4"])
    assert found[False].success.count == 0
    total = found[True]
    assert (total.images, total.last_ms, total.executions, total.success.count) == (8, 20, 2, 2)
    assert total.failures["DeadlineError"].count == 2
    assert set(total.batches) == {3, 5}
    assert total.stages["decode"].seconds == 0.5
    assert sum(total.stages["infer"].counts) == 2


def test_a_task_survives_the_way_to_its_process(tmp_path: Path) -> None:
    """Options that are paths are paths again."""
    options = ServeOptions(repository=tmp_path, tls_cert=tmp_path / "c.pem", tls_key=tmp_path / "k.pem", frontends=3)
    task = ChildTask(
        row=2, frontends=3, options=options, logs=LogOptions(), address=tmp_path / "s", board=5, lifeline=6
    )
    assert ChildTask.from_json(task.to_json()) == task


def test_rows_of_a_cancelled_request_are_not_written() -> None:
    """They may belong to another request when its image has been decoded."""
    decoding, go_on = threading.Event(), threading.Event()
    rows = np.zeros((1, 1, 1, 3), np.uint8)

    def preprocess(data: bytes) -> np.ndarray:
        decoding.set()
        go_on.wait(10)
        return np.full((1, 1, 3), data[0], np.uint8)

    async def run() -> None:
        pool = DecodePool(1)
        task = asyncio.create_task(pool.decode([b"\x09"], rows, preprocess, None, DEFAULT_PRIORITY))
        await asyncio.to_thread(decoding.wait, 10)
        task.cancel()
        await asyncio.wait((task,))
        go_on.set()
        await pool.decode([b"\x05"], np.zeros((1, 1, 1, 3), np.uint8), preprocess, None, DEFAULT_PRIORITY)
        pool.close()

    asyncio.run(run())
    assert not rows.any()


def test_urgent_images_are_decoded_first_and_bad_ones_named() -> None:
    """In the order of priority, then of arrival."""
    order: list[int] = []
    begun, go_on = threading.Event(), threading.Event()

    def preprocess(data: bytes) -> np.ndarray:
        begun.set()
        go_on.wait(10)
        order.append(data[0])
        if data[0] == 3:
            raise ImageError("is broken")
        return np.full((1, 1, 3), data[0], np.uint8)

    async def run() -> list[object]:
        pool = DecodePool(1)

        async def decode(image: int, priority: int) -> float:
            return await pool.decode([bytes([image])], np.zeros((1, 1, 1, 3), np.uint8), preprocess, None, priority)

        first = asyncio.create_task(decode(1, 5))
        await asyncio.to_thread(begun.wait, 10)
        others = [asyncio.create_task(decode(image, priority)) for image, priority in ((2, 9), (3, 5), (4, 1))]
        await asyncio.sleep(0.05)
        go_on.set()
        results = await asyncio.gather(first, *others, return_exceptions=True)
        pool.close()
        return list(results)

    results = asyncio.run(run())
    assert order == [1, 4, 3, 2]
    assert str(results[2]) == "image 1 of 1: is broken"
    assert isinstance(results[2], InvalidRequestError)
