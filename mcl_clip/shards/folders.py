"""What is in folders, each listed once: a call to the file system for every one of millions of tars takes minutes."""

import os


class Folders:
    """Folders as they were when first asked about."""

    def __init__(self) -> None:
        self._listed: dict[str, tuple[str, frozenset[str], frozenset[str]]] = {}

    def files(self, folder: str) -> frozenset[str]:
        """Names in a folder that are no folders; none where there is no such folder."""
        return self._of(folder)[1]

    def holds(self, path: str) -> bool:
        """Whether there is a file at a path; of a link, whether it leads somewhere."""
        folder, name = os.path.split(path)
        _, names, links = self._of(folder)
        return name in names and (name not in links or os.path.exists(path))

    def real(self, path: str) -> str:
        """The path without links; folders not listed yet are not for its sake."""
        folder, name = os.path.split(path)
        real, names, links = self._listed.get(folder, ("", (), ()))
        if name not in names or name in links:
            return os.path.realpath(path)
        return path if real == folder else f"{real}/{name}"

    def _of(self, folder: str) -> tuple[str, frozenset[str], frozenset[str]]:
        if folder not in self._listed:
            names, links = set(), set()
            try:
                with os.scandir(folder or ".") as entries:
                    for entry in entries:
                        if entry.is_symlink():
                            links.add(entry.name)
                        elif entry.is_dir():
                            continue
                        names.add(entry.name)
            except OSError:  # which the one that asks finds out by itself
                pass
            self._listed[folder] = os.path.realpath(folder or "."), frozenset(names), frozenset(links)
        return self._listed[folder]
