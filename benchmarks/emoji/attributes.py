"""What a character's name says, as independent fields."""

from dataclasses import asdict, dataclass

from benchmarks.emoji.names import Character

GENDERS = {
    "man": "man",
    "men": "man",
    "boy": "man",
    "woman": "woman",
    "women": "woman",
    "girl": "woman",
    "prince": "man",
    "princess": "woman",
    "merman": "man",
    "mermaid": "woman",
}
PEOPLE = "people-body"
TONES = ("light", "medium-light", "medium", "medium-dark", "dark")
HAIR = ("red hair", "curly hair", "white hair", "bald", "blond hair")


@dataclass(frozen=True)
class Attributes:
    """None: the name does not say. head: the name before its colon. skin_tone: `light/dark` for two people."""

    group: str
    subgroup: str
    head: str
    gender: str | None
    skin_tone: str | None
    hair: str | None
    facing: str | None

    def record(self) -> dict[str, str | None]:
        """Plain values, for a `.json`."""
        return asdict(self)


def attributes_of(character: Character) -> Attributes:
    """Fields of `HEAD: modifier, modifier`."""
    head, _, tail = character.name.partition(": ")
    modifiers = [each.strip() for each in tail.split(",") if each.strip()]
    people = character.group == PEOPLE
    genders = {GENDERS[word] for word in head.split() if word in GENDERS} if people else set()
    tones = [each.removesuffix(" skin tone") for each in modifiers if each.endswith(" skin tone")]
    facing = [each.removeprefix("facing ") for each in modifiers if each.startswith("facing ")]
    return Attributes(
        group=character.group,
        subgroup=character.subgroup,
        head=head,
        gender=genders.pop() if len(genders) == 1 else None,
        skin_tone="/".join(tones) or None,
        hair=next((each for each in modifiers if each in HAIR), None),
        facing=facing[0] if facing else None,
    )
