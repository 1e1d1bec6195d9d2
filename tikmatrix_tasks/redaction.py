"""What nobody outside a run is to read, and how a text is freed of it.

Captions, comments, paths on the TikMatrix machine, secrets and header values are remembered when
this process first meets them. TikMatrix's own words may repeat them; they are taken out where those
words enter, in the client, so that nothing above need think of it.
"""

from __future__ import annotations

import json
import re
import threading
from collections import OrderedDict, defaultdict
from collections.abc import Iterable, Iterator

PRIVATE = "[private]"
PATH = "[path]"

SHORTEST = 4
"""Shorter texts are not looked for: a caption `a` would make noise of every sentence."""
WHOLE_WORDS_BELOW = 8
"""Texts shorter than this count as whole words only: `love` does not stand in `glove`."""
BEGINNING = 12
"""So many characters from the start of a longer text are taken for it: words may be cut short."""
MOST_CHARACTERS = 5_000_000
"""How much is remembered; beyond it the texts met longest ago are forgotten."""

_SEGMENT = r'[^\\/:*?"<>|\r\n,;]'
_WORD = r"""[^\s/\\:*?"'<>|,;)]"""
_ENDING = rf"(?:{_WORD}+(?: {_WORD}+){{0,4}}?\.\w{{1,5}}\b|{_WORD}*)"
_PATHS = re.compile(
    "|".join(
        (
            rf"(?<![A-Za-z0-9])[A-Za-z]:[\\/]+(?:{_SEGMENT}+[\\/]+)*{_ENDING}",  # a Windows drive
            rf"(?<![\w\\:])\\\\+[^\s\\/]+[\\/]+(?:{_SEGMENT}+[\\/]+)*{_ENDING}",  # a share
            rf"(?<![\w:/.\\~-])(?:file://|~)?/(?:{_WORD}+(?: {_WORD}+){{0,3}}/)+{_ENDING}",  # POSIX
        )
    )
)


class PrivateTexts:
    """Texts to be found again in others, with as much memory as `most_characters` takes.

    How long a search takes does not grow with how many there are, but with how many begin alike.
    """

    def __init__(self, most_characters: int = MOST_CHARACTERS) -> None:
        self._most_characters = most_characters
        self._characters = 0
        self._known: OrderedDict[str, None] = OrderedDict()  # first what was met longest ago
        self._by_start: defaultdict[str, set[str]] = defaultdict(set)
        self._lock = threading.Lock()

    def add(self, texts: Iterable[str]) -> None:
        """Remember texts, each with its lines, its alternatives, and its file's name."""
        with self._lock:
            for text in texts:
                for form in _forms(text):
                    self._add(form)
            while self._characters > self._most_characters:
                self._forget_oldest()

    def hide(self, text: str) -> str:
        """The text, with `[private]` in place of what is remembered."""
        parts, start, place = [], 0, 0
        with self._lock:
            while place <= len(text) - SHORTEST:
                length = self._length_at(text, place)
                if length:
                    parts += [text[start:place], PRIVATE]
                    start = place = place + length
                else:
                    place += 1
        return "".join([*parts, text[start:]])

    def _add(self, text: str) -> None:
        if text not in self._known:
            self._characters += len(text)
            self._by_start[text[:SHORTEST]].add(text)
        self._known[text] = None
        self._known.move_to_end(text)

    def _forget_oldest(self) -> None:
        text, _ = self._known.popitem(last=False)
        self._characters -= len(text)
        alike = self._by_start[text[:SHORTEST]]
        alike.discard(text)
        if not alike:
            del self._by_start[text[:SHORTEST]]

    def _length_at(self, text: str, place: int) -> int:
        """How long the longest private text, or beginning of one, is that stands there."""
        alike = self._by_start.get(text[place : place + SHORTEST], ())
        return max((_shared(private, text, place) for private in alike), default=0)


def _forms(text: str) -> Iterator[str]:
    """A text and the parts of it that may stand alone, each also as JSON writes it."""
    parts = [text, *re.split(r"[\r\n{|}]+", text)]
    if "/" in text or "\\" in text:
        parts.append(re.split(r"[\\/]", text.rstrip("\\/"))[-1])
    for part in dict.fromkeys(part.strip() for part in parts):
        forms = (part, json.dumps(part)[1:-1], json.dumps(part, ensure_ascii=False)[1:-1])
        yield from (form for form in dict.fromkeys(forms) if len(form) >= SHORTEST)


def _shared(private: str, text: str, place: int) -> int:
    """How much of a private text stands at a place; 0 where it is too little to tell."""
    if text.startswith(private, place):
        if len(private) >= WHOLE_WORDS_BELOW or _stands_alone(text, place, place + len(private)):
            return len(private)
        return 0
    length = BEGINNING
    if len(private) <= length or not text.startswith(private[:length], place):
        return 0
    while length < len(private) and text.startswith(private[length], place + length):
        length += 1
    return length


def _stands_alone(text: str, start: int, end: int) -> bool:
    before, after = text[start - 1 : start] if start else "", text[end : end + 1]
    return not (before.isalnum() and text[start].isalnum()) and not (
        after.isalnum() and text[end - 1].isalnum()
    )


_met = PrivateTexts()


def remember(texts: Iterable[str]) -> None:
    """Private texts that this process has met."""
    _met.add(texts)


def redact(text: str, also: Iterable[str] = ()) -> str:
    """A text without the private ones that this process has met, those in `also`, and paths.

    What looks like an absolute path is taken out, whosever it is; a link is not.
    """
    own = PrivateTexts()
    own.add(also)
    hidden = _met.hide(own.hide(text))
    return _PATHS.sub(PATH, hidden) if "/" in hidden or "\\" in hidden else hidden
