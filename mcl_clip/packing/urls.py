"""Images that rows of a data set on the hub name by URL; what such a row says is not trusted."""

from mcl_clip.packing import images
from mcl_clip.packing.rows import Skip

_REMOTE = ("https://", "http://", "hf://")


def read_url(url: str) -> bytes:
    """The bytes behind an http(s) or hf URL, or of a file in a zip there (`zip://NAME::URL`); `Skip` for any other.

    fsspec itself opens much more: this machine's files and devices, other machines by ssh, caches, databases.
    """
    import fsspec

    *archives, last = url.split("::")
    if not last.startswith(_REMOTE) or not all(link.startswith("zip://") for link in archives):
        raise Skip("a URL of another kind than http, https and hf")
    # As a stream, for a server may answer a request for a part with more than that.
    how = {} if archives or last.startswith("hf://") else {"block_size": 0}
    data = bytearray()
    try:
        with fsspec.open(url, "rb", **how) as file:
            while len(data) <= images.MAX_BYTES and (more := file.read(images.MAX_BYTES + 1 - len(data))):
                data += more
    except Exception:  # the network, the server, the archive
        raise Skip("its URL cannot be read") from None
    if len(data) > images.MAX_BYTES:
        raise Skip(f"larger than {images.MAX_BYTES >> 20} MiB")
    return bytes(data)
