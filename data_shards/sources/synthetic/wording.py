"""Words of the synthetic world's questions: objects and counts in, phrases and answers in DriveLM's style out."""

from collections import Counter
from collections.abc import Sequence

from data_shards.schema import Question
from data_shards.sources.synthetic.driver import (
    SeenObject,
    important_objects,
)
from data_shards.sources.synthetic.objects import WorldObject

NUMBERS = ("no", "one", "two", "three", "four", "five")
STATES = {
    "Going ahead": "going ahead",
    "Stopped": "stopped",
    "Turn left": "turning left",
    "Turn right": "turning right",
}


def tagged_objects(seen: Sequence[SeenObject]) -> list[tuple[str, SeenObject]]:
    """The important objects among those seen, each with its tag, numbered from 1."""
    return [(entry.tag(number), entry) for number, entry in enumerate(important_objects(list(seen)), 1)]


def status_answer(entry: SeenObject) -> str:
    """Such as `Going ahead.`"""
    return f"{entry.item.status}."


def yes_or_no(truth: bool) -> str:
    """`Yes.` or `No.`"""
    return "Yes." if truth else "No."


def enumerated(parts: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b, and c`."""
    if len(parts) < 3:
        return " and ".join(parts)
    return f"{', '.join(parts[:-1])}, and {parts[-1]}"


def with_article(name: str) -> str:
    """`a bus`, `an orange car`."""
    return f"an {name}" if name[0] in "aeiou" else f"a {name}"


def with_state(item: WorldObject) -> str:
    """Such as `a red car that is turning left`; things that never move have no state."""
    return f"{with_article(item.name)} that is {STATES[item.status]}" if item.kind.moves else with_article(item.name)


def plural(name: str) -> str:
    """Of the name of a class."""
    return {"bus": "buses"}.get(name, f"{name}s")


def counted(entries: Sequence[SeenObject]) -> str:
    """How many there are of each class, in words: `two cars and one bus`."""
    counts = Counter(entry.item.kind.name for entry in entries)
    return enumerated([f"{NUMBERS[n]} {name if n == 1 else plural(name)}" for name, n in counts.items()])


def there_is(found: str) -> str:
    """`There is` or `There are`, with what was `counted`."""
    return f"There {'is' if found.startswith('one ') else 'are'} {found}"


def ask(kind: str, question: str, answer: str, *tags: int) -> Question:
    """A question of a kind with its answer, and the tags of the test form that it bears."""
    return Question(question=question, answer=answer, kind=kind, tags=tags)
