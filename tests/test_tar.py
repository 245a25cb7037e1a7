"""Our reading and writing of tar headers against the standard library's."""

import io
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcl_clip.shards.tar import BLOCK, END_OF_ARCHIVE, TarError, header, members

_names = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\0"), min_size=1, max_size=300)
names = _names.map(lambda name: name.strip("/") or "x")


def archive(files, format, mtime=0):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=format) as tar:
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(data), mtime
            tar.addfile(info, io.BytesIO(data))
    return stream.getvalue()


@given(
    st.lists(st.tuples(names, st.binary(max_size=1500)), max_size=5),
    st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]),
    st.sampled_from([0, 1.5]),
)
def test_members_are_those_of_the_standard_library(files, format, mtime):
    data = archive(files, format, mtime)
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        expected = [(info.name, info.offset_data, info.size) for info in tar]
    found = list(members(data))
    assert [(member.name, member.data, member.size) for member in found] == expected
    stops = [0, *(member.stop for member in found)]
    assert [member.start for member in found] == stops[:-1]


@given(names, st.integers(0, 2**40))
def test_headers_are_read_by_the_standard_library(name, size):
    block = header(name, size)
    with tarfile.open(fileobj=io.BytesIO(block + END_OF_ARCHIVE), mode="r") as tar:
        info = tar.next()
    assert (info.name, info.size, info.mtime, info.isreg()) == (name, size, 0, True)
    plain = len(name.encode()) <= 100 and size < 8**11
    assert len(block) == (BLOCK if plain else len(block)) and len(block) % BLOCK == 0


def test_ustar_prefix_is_part_of_the_name():
    name = "/".join(["directory" * 5] * 3) + "/key.jpg"
    data = archive([(name, b"1")], tarfile.USTAR_FORMAT)
    assert [member.name for member in members(data)] == [name]


def test_links_and_directories_are_passed_over():
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for kind in (tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE):
            info = tarfile.TarInfo("a.jpg")
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
        info = tarfile.TarInfo("b.jpg")
        info.size = 3
        tar.addfile(info, io.BytesIO(b"abc"))
    assert [member.name for member in members(stream.getvalue())] == ["b.jpg"]


@pytest.mark.parametrize("format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_every_truncation_is_noticed(format):
    data = archive([("a" * 120 + ".jpg", b"x" * 700), ("b.txt", b"y")], format)
    end = list(members(data))[-1].stop
    for length in range(0, end + 1, 256):
        with pytest.raises(TarError, match="truncated"):
            list(members(data[:length]))


def test_anything_else_is_not_a_tar():
    for data in (b"\x1f\x8b" * 400, b"PK" * 600, bytes(range(256)) * 4):
        with pytest.raises(TarError, match="block 0 is not the header"):
            list(members(data))


def test_sizes_beyond_octal_are_read():
    info = tarfile.TarInfo("big.bin")
    info.size = 9 * 2**30
    block = info.tobuf(tarfile.GNU_FORMAT)
    with pytest.raises(TarError, match=f"ends at byte {BLOCK + 9 * 2**30}"):
        list(members(block))


@given(st.data())
def test_a_spoilt_tar_ends_in_members_inside_it_or_in_one_error(data):
    """Whatever a few wrong bytes, with checksums made good again, claim about sizes and names."""
    spoilt = bytearray(archive([("a" * 120, b"x" * 700), ("b.txt", b"y")], tarfile.PAX_FORMAT, 1.5))
    for _ in range(data.draw(st.integers(1, 4))):
        block = data.draw(st.integers(0, len(spoilt) // BLOCK - 1)) * BLOCK
        spoilt[block + data.draw(st.integers(0, BLOCK - 1))] = data.draw(st.sampled_from([*b"09-=: ", 0, 128, 255]))
        sound = sum(spoilt[block : block + BLOCK]) - sum(spoilt[block + 148 : block + 156]) + 8 * 32
        spoilt[block + 148 : block + 156] = b"%06o\0 " % sound
    place = 0
    try:
        for member in members(bytes(spoilt)):
            assert place <= member.start < member.data <= member.stop <= len(spoilt)
            place = member.stop
    except TarError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize("size", ["-1024", "x", "", "1_0"])
def test_an_extended_size_that_is_no_number_is_refused(size):
    info = tarfile.TarInfo("a.bin")
    info.pax_headers = {"size": size}
    block = info.tobuf(tarfile.PAX_FORMAT)
    with pytest.raises(TarError, match="size"):
        list(members(block + END_OF_ARCHIVE))


def _sparse(kind):
    """Headers of a sparse file as GNU tar writes them: of type S, or pax records of format 0.0, 0.1 or 1.0."""
    info = tarfile.TarInfo("a.jpg")
    info.size = BLOCK
    if kind == "S":
        info.type = b"S"
        return info.tobuf(tarfile.GNU_FORMAT)
    names = {"0.0": "GNU.sparse.numblocks", "0.1": "GNU.sparse.map", "1.0": "GNU.sparse.major"}
    info.pax_headers = {names[kind]: "1"}
    return info.tobuf(tarfile.PAX_FORMAT)


@pytest.mark.parametrize("kind", ["S", "0.0", "0.1", "1.0"])
def test_sparse_files_are_refused(kind):
    with pytest.raises(TarError, match="is a sparse file"):
        list(members(_sparse(kind) + bytes(BLOCK) + END_OF_ARCHIVE))
