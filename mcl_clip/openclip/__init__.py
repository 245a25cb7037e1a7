"""The one door to open_clip: what we take beyond the functions that its README shows, one module a subject.

Nothing else of the project imports such a name, so a host that moves is this package's work alone.
"""
