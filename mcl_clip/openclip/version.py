"""The version in use, which need not be the installed one when another stands before it on the path."""

from open_clip import __version__ as VERSION  # noqa: F401
