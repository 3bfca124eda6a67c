"""What a user may be called, so that no two users have names that look the same because of what cannot be seen.

The rules are those of the FreeformClass of PRECIS (RFC 8264 section 4.3) and its OpaqueString (RFC 8265 section 4.2),
which let people have names of several words, in any script and with symbols, with these differences:

- Emoji of several parts, which are joined by U+200D, are allowed; PRECIS knows joiners between letters only.
- White space is the space, once between two words.  PRECIS has any other white space mapped to spaces.
- Characters that are blank without being ignorable, such as U+2800, are refused.
- Combining marks begin no name, and do not pile up (UTS #39 section 5.4).

The way of a name:

1) text -> without what keyboards write and nobody sees, in NFC: how it is stored, compared and shown
2) each character by itself: is it one, and can it be seen
3) characters beside each other: spaces, joiners, marks
"""

from __future__ import annotations

import unicodedata
from bisect import bisect_right

from idna import valid_contextj

MAX_NAME_CHARACTERS = 128
# What a text may have before it is normalized: the sorting of marks takes time that grows faster than the text.
MAX_TEXT_CHARACTERS = 4 * MAX_NAME_CHARACTERS
# UTS #39 section 5.4: "Forbid sequences of more than 4 nonspacing marks".
MAX_MARKS = 4

_NON_JOINER = "\u200c"
_JOINER = "\u200d"
_PRESENTATION = ("\ufe0e", "\ufe0f")
_KEYCAP = "\u20e3"
_VIRAMA = 9  # the canonical combining class of what suppresses a vowel


class _Characters:
    """A set of characters, as the files of Unicode write it: code points and ranges of them, in hexadecimal."""

    def __init__(self, ranges: str) -> None:
        ends = [one.partition("-")[::2] for one in ranges.split()]
        self._first = [int(first, 16) for first, _ in ends]
        self._last = [int(last or first, 16) for first, last in ends]

    def __contains__(self, character: str) -> bool:
        """Whether it is one of them; the empty text is none."""
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
    """The text is not the name of a user.  It says why, unless that can be seen."""


def normalized(name: str) -> str:
    """The form in which names are stored and compared: NFC (RFC 8265 section 4.2.2)."""
    return unicodedata.normalize("NFC", name)


def equal_forms(name: str) -> list[str]:
    """The forms in which a name of today may have been stored by those who did not normalize, the present one first."""
    forms = (normalized(name), unicodedata.normalize("NFD", name))
    return list(dict.fromkeys(forms))


def user_name(text: str) -> str:
    """The name that `text` stands for.  Raises BadName."""
    if len(text) > MAX_TEXT_CHARACTERS:
        raise BadName
    name = _without_idle_joiners(normalized(_without_presentation(text)))
    if not 1 <= len(name) <= MAX_NAME_CHARACTERS or name != name.strip():
        raise BadName
    for at, character in enumerate(name):
        _check_character(name, at, character)
    # Only now, because the rules for joiners are for characters that there are.
    for at, character in enumerate(name):
        if character in (_JOINER, _NON_JOINER) and not _joins(name, at):
            raise BadName(f"{_shown(character)} joins nothing in this place, and cannot be seen.")
    _check_marks(name)
    return name


def _without_presentation(text: str) -> str:
    """Without what says only in which style a symbol is shown, which most keyboards write behind each."""
    if not any(selector in text for selector in _PRESENTATION):
        return text
    return text[:1] + "".join(
        character
        for before, character, after in zip(text, text[1:], text[2:] + " ")
        if character not in _PRESENTATION
        or not (before in _PICTOGRAPHS or (before in "0123456789#*" and after == _KEYCAP))
    )


def _without_idle_joiners(name: str) -> str:
    """Without the U+200C that are written in Persian, Urdu and others between letters that never join."""
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
        # The ends are looked at already.
        if name[at + 1] == " ":
            raise BadName("There are two spaces in a row, which look like one.")
        return
    if character in (_JOINER, _NON_JOINER):
        return
    category = unicodedata.category(character)
    if category in ("Cn", "Co", "Cs"):
        raise BadName(f"{_shown(character)} is no character that everybody knows.")
    if category in ("Zs", "Zl", "Zp"):
        raise BadName(f"{_shown(character)} is white space that looks like another; write a space.")
    if category in ("Cc", "Cf") or character in _IGNORABLE or character in _BLANK:
        raise BadName(f"{_shown(character)} cannot be seen.")


def _joins(name: str, at: int) -> bool:
    """Whether the joiner in this place changes how letters or emoji look, and so is a part of the name."""
    if not 0 < at < len(name) - 1:
        return False
    # UTS #51 section 1.4.3: emoji_zwj_element (ZWJ emoji_zwj_element)+
    if name[at + 1] in _PICTOGRAPHS:
        return name[at] == _JOINER and (name[at - 1] in _PICTOGRAPHS or name[at - 1] in _SKIN_TONES)
    # RFC 5892 appendices A.1 and A.2: after a virama, and U+200C between Arabic letters that would join.
    if _is_letter(name[at + 1]):
        return valid_contextj(name, at)
    # UAX #31 section 2.3 has it before a virama too, as Bengali and Sinhala write it.
    return (
        name[at] == _JOINER
        and unicodedata.combining(name[at + 1]) == _VIRAMA
        and _is_letter(name[at - 1])
        and _is_letter(name[at + 2 : at + 3])
    )


def _check_marks(name: str) -> None:
    before = " "
    marks = 0
    # Decomposed, because a letter may have one already.
    for character in unicodedata.normalize("NFD", name):
        category = unicodedata.category(character)
        if category[0] == "M" and before == " ":
            raise BadName(f"{_shown(character)} is a combining mark without a letter.")
        marks = marks + 1 if category in ("Mn", "Me") else 0
        if marks > MAX_MARKS:
            raise BadName(f"There are more than {MAX_MARKS} combining marks on a letter.")
        if marks > 1 and character == before:
            raise BadName(f"{_shown(character)} is there twice in a row, which looks like once.")
        before = character


def _is_letter(character: str) -> bool:
    return character != "" and unicodedata.category(character)[0] == "L"


def _is_arabic_letter(character: str) -> bool:
    """... or one of a script that is written like it."""
    return _is_letter(character) and unicodedata.bidirectional(character) == "AL"


def _shown(character: str) -> str:
    return f"U+{ord(character):04X}"
