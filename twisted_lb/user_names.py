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

import re
import unicodedata

from idna import valid_contextj

MAX_NAME_CHARACTERS = 128
# What a text may have before it is normalized: the sorting of marks takes time that grows faster than the text.
MAX_TEXT_CHARACTERS = 4 * MAX_NAME_CHARACTERS
# UTS #39 section 5.4: "Forbid sequences of more than 4 nonspacing marks".
MAX_MARKS = 4

_NON_JOINER = "\u200c"
_JOINER = "\u200d"
_VIRAMA = 9  # the canonical combining class of what suppresses a vowel
_SKIN_TONES = "\U0001f3fb-\U0001f3ff"

# Unicode 15, DerivedCoreProperties.txt: Default_Ignorable_Code_Point
_IGNORABLE = (
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f"
    "\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
# The Braille pattern without dots, the stand-in for an object, a filler of Khitan, the note without head, and the
# blanks of hieroglyphs.
_BLANK = "\u2800\ufffc\U00016fe4\U0001d159\U00013441\U00013442"
_INVISIBLE = re.compile(f"[{_IGNORABLE}{_BLANK}]")

# Unicode 15, emoji-data.txt: Extended_Pictographic
_PICTOGRAPH = (
    "\u00a9\u00ae\u203c\u2049\u2122\u2139\u2194-\u2199\u21a9\u21aa\u231a\u231b\u2328\u2388\u23cf\u23e9-\u23f3\u23f8-"
    "\u23fa\u24c2\u25aa\u25ab\u25b6\u25c0\u25fb-\u25fe\u2600-\u2605\u2607-\u2612\u2614-\u2685\u2690-\u2705\u2708-\u2712"
    "\u2714\u2716\u271d\u2721\u2728\u2733\u2734\u2744\u2747\u274c\u274e\u2753-\u2755\u2757\u2763-\u2767\u2795-\u2797"
    "\u27a1\u27b0\u27bf\u2934\u2935\u2b05-\u2b07\u2b1b\u2b1c\u2b50\u2b55\u3030\u303d\u3297\u3299"
    "\U0001f000-\U0001f0ff\U0001f10d-\U0001f10f\U0001f12f\U0001f16c-\U0001f171\U0001f17e\U0001f17f\U0001f18e"
    "\U0001f191-\U0001f19a\U0001f1ad-\U0001f1e5\U0001f201-\U0001f20f\U0001f21a\U0001f22f\U0001f232-\U0001f23a"
    "\U0001f23c-\U0001f23f\U0001f249-\U0001f3fa\U0001f400-\U0001f53d\U0001f546-\U0001f64f\U0001f680-\U0001f6ff"
    "\U0001f774-\U0001f77f\U0001f7d5-\U0001f7ff\U0001f80c-\U0001f80f\U0001f848-\U0001f84f\U0001f85a-\U0001f85f"
    "\U0001f888-\U0001f88f\U0001f8ae-\U0001f8ff\U0001f90c-\U0001f93a\U0001f93c-\U0001f945\U0001f947-\U0001faff"
    "\U0001fc00-\U0001fffd"
)
# They only say in which style a symbol is shown, and most keyboards write one behind each: the same name without.
_PRESENTATION = re.compile(f"(?<=[{_PICTOGRAPH}])[\ufe0e\ufe0f]|(?<=[0-9#*])[\ufe0e\ufe0f](?=\u20e3)")
# UTS #51 section 1.4.3: emoji_zwj_element (ZWJ emoji_zwj_element)+
_JOINED_EMOJI = re.compile(f"[{_PICTOGRAPH}{_SKIN_TONES}]\u200d[{_PICTOGRAPH}]")


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
    name = _without_idle_joiners(normalized(_PRESENTATION.sub("", text)))
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
    if category in ("Cc", "Cf") or _INVISIBLE.match(character):
        raise BadName(f"{_shown(character)} cannot be seen.")


def _joins(name: str, at: int) -> bool:
    """Whether the joiner in this place changes how letters or emoji look, and so is a part of the name."""
    if not 0 < at < len(name) - 1:
        return False
    if _JOINED_EMOJI.match(name, at - 1):
        return name[at] == _JOINER
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
