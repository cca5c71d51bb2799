"""Shards of the WebDataset format: tar files whose members are images and what belongs to them."""

import tarfile
from collections.abc import Iterator
from contextlib import closing

from unfreeze.batch.sources.entry import TAR, UNUSABLE, Entry, Item, SourceOptions
from unfreeze.batch.sources.images import describe
from unfreeze.batch.sources.unchanged import open_unchanged
from unfreeze.batch.storage import OpenFile, Stored, is_url, open_file, open_stream
from unfreeze.contract.counted import counted
from unfreeze.contract.errors import first_line
from unfreeze.contract.images.suffixes import has_image_suffix

_IMAGES_OF_AN_ENTRY = 32  # entries that follow each other are joined into blocks
_BUFFER_BYTES = 1 << 20
_TRUNCATED = "it is truncated"
_NO_IMAGE = "the tar file has no member with the suffix of an image"


class DamagedTarError(Exception):
    """A tar file ends early, or has something else where a member begins."""


class _CheckedMember(tarfile.TarInfo):
    """A member whose header is checked: `tarfile` takes a damaged one for the end of the archive."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> "_CheckedMember":
        if len(buf) < tarfile.BLOCKSIZE:
            raise DamagedTarError(_TRUNCATED)
        if buf.count(0) == tarfile.BLOCKSIZE:
            return super().frombuf(buf, encoding, errors)  # raises the error that means the end
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            raise DamagedTarError("it is damaged, or is no tar file (compressed ones have to be unpacked)") from error


def list_tar(file: Stored, options: SourceOptions) -> Iterator[Entry]:  # noqa: ARG001 - the interface of a format
    """List the images of a shard, in groups.

    A local file's headers are read, so that its images can be divided; a file behind a URL is one entry, because
    reading its headers would take a request for each.

    Args:
        file: the tar file.
        options: without effect.
    """
    if is_url(file.path):
        yield Entry(kind=TAR, path=file.path, version=file.version, count=0)
        return
    count, start, stop, total = 0, 0, 0, 0
    problem = ""
    try:
        with closing(open_file(file.path)) as raw, _open(raw, "r:") as tar:
            for member in _members(tar):
                _check_size(member, file)
                if count == _IMAGES_OF_AN_ENTRY:
                    yield _entry(file, count, start, member.offset)
                    count, start = 0, member.offset
                count, total, stop = count + _is_image(member), total + _is_image(member), tar.offset
    except (DamagedTarError, tarfile.TarError, OSError) as error:
        problem = f"after {counted(total, 'image')}: {_why(error)}"
    if count:
        yield _entry(file, count, start, stop)
    if problem or not total:
        yield Entry(kind=UNUSABLE, path=file.path, version=file.version, error=problem or _NO_IMAGE)


def read_members(entry: Entry, base: str) -> Iterator[Item]:
    """Read the images of a part of a shard, or of all of it, as a stream.

    Args:
        entry: the part.
        base: folder that local paths are relative to.

    Yields:
        The images; an item with an error if the file is damaged or has none.

    Raises:
        UnfreezeError: the file can no longer be opened, or has changed since it was listed.
    """
    raw, done = open_unchanged(entry, base, open_file if entry.start else open_stream), 0
    try:
        with closing(raw):
            if entry.start:
                raw.seek(entry.start)
            for item in _read(raw, entry):
                yield item
                done += 1
    except (DamagedTarError, tarfile.TarError, OSError, ValueError) as error:
        yield Item(path=entry.path, error=f"after {counted(done, 'image')}: {_why(error)}")
        return
    if not done:
        yield Item(path=entry.path, error=_NO_IMAGE)


def _read(raw: OpenFile, entry: Entry) -> Iterator[Item]:
    with _open(raw, "r|") as tar:
        for member in _members(tar):
            if _is_image(member):
                yield _item(tar, member, f"{entry.path}#{member.name}")
            if entry.stop and entry.start + tar.offset >= entry.stop:
                return


def _is_image(member: tarfile.TarInfo) -> bool:
    return has_image_suffix(member.name) and not member.isdir()


def _item(tar: tarfile.TarFile, member: tarfile.TarInfo, path: str) -> Item:
    if not member.isreg():
        return Item(path=path, key=_key(member.name), error="a link or a device inside the tar file, not an image")
    content = tar.extractfile(member)
    data = content.read() if content else b""
    if len(data) < member.size:
        raise DamagedTarError(_TRUNCATED)
    return Item(path=path, key=_key(member.name), data=data)


def _open(raw: OpenFile, mode: str) -> tarfile.TarFile:
    return tarfile.open(fileobj=raw, mode=mode, bufsize=_BUFFER_BYTES, tarinfo=_CheckedMember)  # type: ignore[call-overload, no-any-return]


def _members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Iterate over the members without keeping them."""
    while (member := tar.next()) is not None:
        yield member
        tar.members.clear()  # type: ignore[attr-defined]


def _check_size(member: tarfile.TarInfo, file: Stored) -> None:
    if member.offset_data + member.size > file.size:
        raise DamagedTarError(_TRUNCATED)


def _entry(file: Stored, count: int, start: int, stop: int) -> Entry:
    return Entry(kind=TAR, path=file.path, version=file.version, count=count, start=start, stop=stop)


def _key(name: str) -> str:
    """Return the key of a WebDataset sample: the path up to the first dot of the file's name."""
    folder, slash, file = name.rpartition("/")
    return folder + slash + file.partition(".")[0]


def _why(error: BaseException) -> str:
    if isinstance(error, tarfile.ReadError):
        return _TRUNCATED
    return describe(error) if isinstance(error, OSError) else first_line(error)
