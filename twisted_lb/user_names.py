"""Valid names of users: no two users have names that differ only in invisible characters.

The rules are those of the FreeformClass of PRECIS (RFC 8264 section 4.3) and its OpaqueString (RFC 8265 section 4.2),
which allow names of several words, in any script and with symbols, with these differences:

- Emoji of several parts, joined by U+200D, are allowed; PRECIS allows joiners between letters only.
- The only white space is a single space between words.  PRECIS maps other white space to spaces.
- Characters that are blank without being ignorable, such as U+2800, are rejected.
- A name does not begin with a combining mark, and marks are not stacked (UTS #39 section 5.4).

The steps:

1) remove invisible characters that keyboards insert, and normalize to NFC, the form that is stored, compared and shown
2) check each character: is it assigned and visible
3) check adjacent characters: spaces, joiners, marks
"""

from __future__ import annotations

import unicodedata
from bisect import bisect_right

from idna import valid_contextj

MAX_NAME_CHARACTERS = 128
# Before normalization, since the time to sort marks grows faster than the length of the text.
MAX_TEXT_CHARACTERS = 4 * MAX_NAME_CHARACTERS
# UTS #39 section 5.4: "Forbid sequences of more than 4 nonspacing marks".
MAX_MARKS = 4

_NON_JOINER = "\u200c"
_JOINER = "\u200d"
_PRESENTATION = ("\ufe0e", "\ufe0f")
_KEYCAP = "\u20e3"
_VIRAMA = 9  # the canonical combining class of viramas


class _Characters:
    """A set of characters in the notation of the Unicode data files: code points and ranges, in hexadecimal."""

    def __init__(self, ranges: str) -> None:
        ends = [one.partition("-")[::2] for one in ranges.split()]
        self._first = [int(first, 16) for first, _ in ends]
        self._last = [int(last or first, 16) for first, last in ends]

    def __contains__(self, character: str) -> bool:
        """Whether the set contains it; False for the empty text."""
        at = bisect_right(self._first, ord(character)) - 1 if character else -1
        return at >= 0 and ord(character) <= self._last[at]


# Unicode 14, DerivedCoreProperties.txt: Default_Ignorable_Code_Point
_IGNORABLE = _Characters(
    "AD 34F 61C 115F-1160 17B4-17B5 180B-180F 200B-200F 202A-202E 2060-206F 3164 FE00-FE0F FEFF FFA0 FFF0-FFF8 "
    "1BCA0-1BCA3 1D173-1D17A E0000-E0FFF"
)
# The Braille pattern without dots, the stand-in for an object, the blanks of hieroglyphs, a filler of Khitan, and the
# note without head.
_BLANK = _Characters("2800 FFFC 13441-13442 16FE4 1D159")
# Unicode 14, emoji-data.txt: Extended_Pictographic, and of Emoji_Modifier all
_PICTOGRAPHS = _Characters(
    "A9 AE 203C 2049 2122 2139 2194-2199 21A9-21AA 231A-231B 2328 2388 23CF 23E9-23F3 23F8-23FA 24C2 25AA-25AB "
    "25B6 25C0 25FB-25FE 2600-2605 2607-2612 2614-2685 2690-2705 2708-2712 2714 2716 271D 2721 2728 2733-2734 "
    "2744 2747 274C 274E 2753-2755 2757 2763-2767 2795-2797 27A1 27B0 27BF 2934-2935 2B05-2B07 2B1B-2B1C 2B50 "
    "2B55 3030 303D 3297 3299 1F000-1F0FF 1F10D-1F10F 1F12F 1F16C-1F171 1F17E-1F17F 1F18E 1F191-1F19A 1F1AD-1F1E5 "
    "1F201-1F20F 1F21A 1F22F 1F232-1F23A 1F23C-1F23F 1F249-1F3FA 1F400-1F53D 1F546-1F64F 1F680-1F6FF 1F774-1F77F "
    "1F7D5-1F7FF 1F80C-1F80F 1F848-1F84F 1F85A-1F85F 1F888-1F88F 1F8AE-1F8FF 1F90C-1F93A 1F93C-1F945 1F947-1FAFF "
    "1FC00-1FFFD"
)
_SKIN_TONES = _Characters("1F3FB-1F3FF")


class BadName(ValueError):
    """The text is not a valid name.  The message gives the reason, unless it is obvious."""


def normalized(name: str) -> str:
    """The form in which names are stored and compared: NFC (RFC 8265 section 4.2.2)."""
    return unicodedata.normalize("NFC", name)


def equal_forms(name: str) -> list[str]:
    """The forms in which versions without normalization may have stored this name, beginning with the present one."""
    forms = (normalized(name), unicodedata.normalize("NFD", name))
    return list(dict.fromkeys(forms))


def user_name(text: str) -> str:
    """The name for `text`, normalized.  Raises BadName."""
    if len(text) > MAX_TEXT_CHARACTERS:
        raise BadName
    name = _without_idle_joiners(normalized(_without_presentation(text)))
    if not 1 <= len(name) <= MAX_NAME_CHARACTERS or name != name.strip():
        raise BadName
    for at, character in enumerate(name):
        _check_character(name, at, character)
    # After the check of all characters, because the rules for joiners need assigned characters.
    for at, character in enumerate(name):
        if character in (_JOINER, _NON_JOINER) and not _joins(name, at):
            raise BadName(f"{_shown(character)} joins nothing here, and is invisible.")
    _check_marks(name)
    return name


def _without_presentation(text: str) -> str:
    """Without the selectors of a symbol's presentation style, which most keyboards append."""
    if not any(selector in text for selector in _PRESENTATION):
        return text
    return text[:1] + "".join(
        character
        for before, character, after in zip(text, text[1:], text[2:] + " ")
        if character not in _PRESENTATION
        or not (before in _PICTOGRAPHS or (before in "0123456789#*" and after == _KEYCAP))
    )


def _without_idle_joiners(name: str) -> str:
    """Without U+200C between letters that never join, as it is written in Persian, Urdu and other languages."""
    if _NON_JOINER not in name:
        return name
    return "".join(
        character
        for at, character in enumerate(name)
        if character != _NON_JOINER
        or not (_is_arabic_letter(name[at - 1 : at]) and _is_arabic_letter(name[at + 1 : at + 2]))
        or valid_contextj(name, at)
    )


def _check_character(name: str, at: int, character: str) -> None:
    if character == " ":
        # Leading and trailing spaces were checked before.
        if name[at + 1] == " ":
            raise BadName("There are two spaces in a row, which look like one.")
        return
    if character in (_JOINER, _NON_JOINER):
        return
    category = unicodedata.category(character)
    if category in ("Cn", "Co", "Cs"):
        raise BadName(f"{_shown(character)} is an unassigned or private-use character.")
    if category in ("Zs", "Zl", "Zp"):
        raise BadName(f"{_shown(character)} is white space other than a space; use a space.")
    if category in ("Cc", "Cf") or character in _IGNORABLE or character in _BLANK:
        raise BadName(f"{_shown(character)} is invisible.")


def _joins(name: str, at: int) -> bool:
    """Whether the joiner in this place changes the appearance of letters or emoji, and so belongs to the name."""
    if not 0 < at < len(name) - 1:
        return False
    # UTS #51 section 1.4.3: emoji_zwj_element (ZWJ emoji_zwj_element)+
    if name[at + 1] in _PICTOGRAPHS:
        return name[at] == _JOINER and (name[at - 1] in _PICTOGRAPHS or name[at - 1] in _SKIN_TONES)
    # RFC 5892 appendices A.1 and A.2: after a virama, and U+200C between Arabic letters that would join.
    if _is_letter(name[at + 1]):
        return valid_contextj(name, at)
    # UAX #31 section 2.3 allows it before a virama too, as in Bengali and Sinhala.
    return (
        name[at] == _JOINER
        and unicodedata.combining(name[at + 1]) == _VIRAMA
        and _is_letter(name[at - 1])
        and _is_letter(name[at + 2 : at + 3])
    )


def _check_marks(name: str) -> None:
    before = " "
    marks = 0
    # Decomposed, because a precomposed letter contains a mark.
    for character in unicodedata.normalize("NFD", name):
        category = unicodedata.category(character)
        if category[0] == "M" and before == " ":
            raise BadName(f"{_shown(character)} is a combining mark without a letter.")
        marks = marks + 1 if category in ("Mn", "Me") else 0
        if marks > MAX_MARKS:
            raise BadName(f"There are more than {MAX_MARKS} combining marks on a letter.")
        if marks > 1 and character == before:
            raise BadName(f"{_shown(character)} is repeated, which looks like a single one.")
        before = character


def _is_letter(character: str) -> bool:
    return character != "" and unicodedata.category(character)[0] == "L"


def _is_arabic_letter(character: str) -> bool:
    """An Arabic letter, or one of a similar script."""
    return _is_letter(character) and unicodedata.bidirectional(character) == "AL"


def _shown(character: str) -> str:
    return f"U+{ord(character):04X}"
