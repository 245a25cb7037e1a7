"""From the classes as data write them to names as one says them, in the right order."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache

from eval.data.classification_set import ClassificationSet
from eval.data.images import Sample
from mcl_clip.errors import UserError
from mcl_clip.loading.class_folders import numbers_of
from mcl_clip.openclip.zero_shot import IMAGENET_CLASSNAMES


def own_names(found: ClassificationSet) -> ClassificationSet:
    """The set with readable names made of its keys; numbers stay numbers, and are no names."""
    return replace(found, classnames=readable(found.keys), is_named=not all(key.isdecimal() for key in found.keys))


def listed_names(found: ClassificationSet, listed: Sequence[str], where: str) -> ClassificationSet:
    """The set with the names of a list, `where` it stands.

    Classes that are numbers (see `numbers_of`) take the names in the order of the numbers; with class 0 among
    them they may be some of the list's, and name n is class n's. Where the list holds the classes' own names, those say
    which is which. All else is matched by position, which is noted. Raises `UserError` when the list does not fit.
    """
    keys = found.keys or found.classnames
    numbers = numbers_of(keys)
    if numbers is not None and min(numbers) == 0 and len(keys) < len(listed) > max(numbers):
        return _all_of_list(found, listed, numbers)
    if len(listed) != len(keys):
        raise UserError(
            f"{where} has {len(listed)} names for {len(keys)} classes, {_some(keys)}; give one name a line for each"
        )
    notes = found.notes
    if (own := _by_name(listed, keys) or _by_name(listed, found.classnames)) is not None:
        listed = own
    elif numbers is None or numbers != list(range(numbers[0], numbers[0] + len(keys))) or numbers[0] > 1:
        order = "by number" if numbers is not None else "in the order of the data"
        shown = [f"{key} is '{name}'" for key, name in zip(keys, listed, strict=True)]
        notes = (*notes, f"{where} is matched to the classes by position, classes {order}: {_some(shown)}")
    return replace(found, classnames=tuple(listed), is_named=True, notes=notes)


def _by_name(listed: Sequence[str], names: Sequence[str]) -> list[str] | None:
    """The list in the order of `names` where it holds just these, else None."""
    spoken = {_spoken(name): name for name in listed}
    if len(spoken) < len(listed) or spoken.keys() != {_spoken(name) for name in names}:
        return None
    return [spoken[_spoken(name)] for name in names]


def _all_of_list(found: ClassificationSet, listed: Sequence[str], numbers: Sequence[int]) -> ClassificationSet:
    def samples() -> Iterator[Sample]:
        return (replace(sample, label=numbers[int(sample.label)]) for sample in found.samples())

    keys = tuple(map(str, range(len(listed))))
    note = f"{len(numbers)} of the {len(listed)} named classes have images"
    return replace(
        found, classnames=tuple(listed), samples=samples, keys=keys, is_named=True, notes=(*found.notes, note)
    )


def require_names(found: ClassificationSet) -> None:
    """`UserError` where prompts would hold bare numbers."""
    if not found.is_named:
        raise UserError(
            f"the classes of {found.name} are numbers, {_some(found.classnames)}, which name nothing in a prompt; "
            "give their names, one a line in the order of the numbers, with --classnames FILE (numbers too, if that is "
            "what the images show)"
        )


def readable(names: Sequence[str]) -> tuple[str, ...]:
    """Names as one says them: open_clip's for ImageNet classes, else the set's with spaces for underscores.

    ImageNet, or a part of it, is known by WordNet ids (n01440764); the whole of it also by WordNet's words.
    """
    by_id, words = _imagenet()
    if names and all(name in by_id for name in names):
        return tuple(by_id[name] for name in names)
    agree = sum(name.split(",")[0] == word.split(",")[0] for name, word in zip(names, words, strict=False))
    if len(names) == len(words) and agree > 0.95 * len(words):
        return tuple(by_id.values())
    return tuple(name.replace("_", " ") for name in names)


@cache
def _imagenet() -> tuple[dict[str, str], list[str]]:
    """open_clip's class name by WordNet id, and WordNet's words; both in ImageNet's order."""
    from timm.data import ImageNetInfo

    info = ImageNetInfo("imagenet-1k")
    words = [info.index_to_description(index) for index in range(info.num_classes())]
    return dict(zip(info.label_names(), IMAGENET_CLASSNAMES, strict=True)), words


def _spoken(name: str) -> str:
    return " ".join(name.replace("_", " ").casefold().split())


def _some(words: Sequence[str]) -> str:
    return ", ".join(words) if len(words) <= 4 else f"{', '.join(words[:3])}, ..., {words[-1]}"
