"""Valid names of users: nothing invisible, and one form for each name."""

from __future__ import annotations

import unicodedata
from time import thread_time

from hypothesis import settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.hypothesis_profile import given
from twisted_lb.user_names import MAX_NAME_CHARACTERS, BadName, equal_forms, normalized, user_name

FAMILY = "\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466"

# Names that stay as they are.
GOOD = [
    "user1", "Ann Lee", "O'Brien-\u0141uk", "a.b_c@d.example", "50% #1 fan!", "\u0430dmin", "\u2460", "\u65e5\u672c",
    "Nguy\u1ec5n Th\u1ecb \xc1nh", "Voil\xe0", "\xc5", "\u0427\u0435\u0445\u043e\u0432", "\uae40\ucca0\uc218",
    "\u02bbOkina",
    "\u0e2a\u0e21\u0e0a\u0e32\u0e22 \u0e17\u0e31\u0e49\u0e07",  # Thai, a tone on a vowel
    "\u05d9\u05b4\u05e9\u05b0\u05c2\u05e8\u05b8\u05d0\u05b5\u05dc",  # Hebrew, two points on a letter
    "\u0f56\u0f7c\u0f51", "\U0001f1e9\U0001f1ea", "\u2764", "x" * 128, "\xe9" * 128, "b\u0321\u0327\u0328\u0320",
    # Joiners between letters
    "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",  # Persian
    "\u06a9\u062a\u0627\u0628\u200c\u0647\u0627",
    "\u0915\u094d\u200c\u0937", "\u0915\u094d\u200d\u0937",  # Devanagari, after a virama
    "\u0d24\u0d4d\u200d\u0d30", "\u0dc1\u0dca\u200d\u0dbb\u0dd3",  # Malayalam, Sinhala
    "\u09b0\u200d\u09cd\u09af\u09be\u09ac",  # Bengali, before a virama
    # Joiners between emoji: a family, skin tones, a flag without its selector, an arrow that is a mathematical symbol
    FAMILY, f"{FAMILY} {FAMILY}", "\U0001f469\U0001f3fd\u200d\U0001f4bb", "\U0001f3f3\u200d\U0001f308",
    "\U0001f9d1\U0001f3fb\u200d\U0001f91d\u200d\U0001f9d1\U0001f3ff", "\U0001f642\u200d\u2194",
]  # fmt: skip

# Texts, and the names that they stand for.
OTHER_FORMS = [
    ("e\u0301", "\xe9"), ("\u212b", "\xc5"), ("\u212a", "K"), ("a\u0302\u0323", "\u1ead"),
    ("\u1112\u1161\u11ab", "\ud55c"),
    ("e\u0301" * 128, "\xe9" * 128),
    # Keyboards write U+FE0F behind symbols.
    ("\u2764\ufe0f", "\u2764"), ("\u2764\ufe0e", "\u2764"), ("1\ufe0f\u20e3", "1\u20e3"),
    ("\U0001f3f3\ufe0f\u200d\U0001f308", "\U0001f3f3\u200d\U0001f308"),
    ("\U0001f642\u200d\u2194\ufe0f", "\U0001f642\u200d\u2194"),
    # Persian: U+200C behind a letter that does not join
    ("\u0646\u0648\u0631\u200c\u0627\u0644\u062f\u06cc\u0646", "\u0646\u0648\u0631\u0627\u0644\u062f\u06cc\u0646"),
]  # fmt: skip

# Each is refused alone, at both ends, and between letters, digits and emoji.
NEVER = [
    "\u3164", "\u2800", "\uffa0", "\u034f", "\u115f", "\u1160", "\u17b4", "\u17b5", "\ufeff", "\u00ad", "\u061c",
    "\u180e",
    "\ufffc", "\U0001d159", "\U00016fe4", "\U0001bca0", "\U0001d173", "\U000e0001", "\U000e0041", "\U000e007f",
    "\U000e0100", "\U000e01ef", "\ue000", "\U000f0000", "\u0378", "\ufdd0", "\uffff", "\ud800", "\udfff",
    "\0", "\t", "\n", "\r", "\x1b", "\x7f", "\x85", "\x9f",
    "\xa0", "\u1680", "\u2000", "\u2003", "\u2007", "\u200a", "\u2028", "\u2029", "\u202f", "\u205f", "\u3000",
    *(chr(code) for start, end in ((0x180b, 0x180f), (0x200e, 0x200f), (0x202a, 0x202e), (0x2060, 0x206f),
                                   (0xfff0, 0xfffb)) for code in range(start, end + 1)),
    "\u200b",
]  # fmt: skip
# Refused where they are neither between letters that they join, nor behind a symbol.
SOMETIMES = [*(chr(code) for code in range(0xFE00, 0xFE10)), "\u200c", "\u200d"]

BAD = [
    "", " ", " a", "a ", "a  b", "a \u200d b", "x" * 129, "\xe9" * 129, "\u0958" * 65, "x" * 100_000,
    "ad\u200dmin", "ad\u200cmin", "1\u200d2", "\u0430\u200d\u0431", "\u65e5\u200d\u672c",
    # At an end, doubled, beside a space, or joining nothing
    "\u0915\u094d\u200d", "\u0915\u094d\u200c", "\u200d\u0937", "\u0645\u200c", "\u200c\u0645",
    "\u0915\u094d\u200d\u200d\u0937",
    "\u0645\u200c\u200c\u0645", "\u0915\u094d\u200d \u0937", "\u0915\u200d\u0937", "\u0915\u200c\u0937",
    "\u0645\u200d\u0645",
    "\u0915\u094d\u200d1", "\u09b0\u200d\u09cd",
    "\U0001f468\u200d", "\u200d\U0001f468", "\U0001f468\u200d\u200d\U0001f469", "\U0001f468\u200c\U0001f469",
    "a\u200d\U0001f469", "\U0001f468\u200da", "\U0001f468 \u200d\U0001f469", "\u20ac\u200d\u20ac",
    "\U0001f468\u200d\U0001f3fb",
    # Marks without a letter, and piled up
    "\u0301", "\u0301a", "a \u0301", "\u20e3", "\u093e", "b" + "\u0301\u0300\u0302\u0303\u0304", "b" + "\u0335" * 50,
    "a\u0332\u0332", "z\u0301\u0301", "\u017a\u0301",
]  # fmt: skip

_hard = st.sampled_from("ab \u0301\u0323\xe9\u0645\u0631\u200c\u200d\ufe0f\u0915\u094d\U0001f468\u2764")


class UserNameTests(SynchronousTestCase):
    def refused(self, text: str) -> None:
        try:
            name = user_name(text)
        except BadName:
            return
        self.fail(f"{ascii(text)} is {ascii(name)}")

    def test_good(self) -> None:
        """Names in any script, of several words, with symbols, emoji and the joiners that belong to them, are names."""
        for name in GOOD:
            self.assertEqual(user_name(name), name, ascii(name))

    def test_other_forms(self) -> None:
        """What stands for the same name is the same name."""
        for text, name in OTHER_FORMS:
            self.assertEqual(user_name(text), name, ascii(text))

    def test_never(self) -> None:
        """A character that is none, or that cannot be seen, or blank, is refused wherever it stands."""
        for character in NEVER:
            for form in ("{}", "{}a", "a{}", "a{}b", "1{}2", "\u0645{}\u0645", "\u0915\u094d{}\u0937"):
                self.refused(form.format(character))
            self.refused(f"\U0001f468{character}\U0001f469")

    def test_sometimes(self) -> None:
        """What is a part of some names is refused alone, at the ends, and between letters and digits."""
        for character in SOMETIMES:
            for form in ("{}", "{}a", "a{}", "a{}b", "1{}", "1{}2", "\xe9{}", "\u65e5{}\u672c", "a{}{}b"):
                self.refused(form.replace("{}", character))

    def test_bad(self) -> None:
        """Names that look like others by their spaces, joiners or marks are refused, and long ones."""
        for text in BAD:
            self.refused(text)

    def test_categories(self) -> None:
        """No character of a category that has no shape is a part of a name, and no mark is one by itself."""
        # All planes that have characters, and of the others, which have none or are for private use, a sample.
        sparse = (*range(0x20000, 0xE0000, 251), *range(0xE0200, 0x110000, 251))
        for code in (*range(0x20000), *range(0xE0000, 0xE0200), *sparse):
            category = unicodedata.category(chr(code))
            if category in ("Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp", "Zs"):
                if code != 0x20:
                    self.refused(f"a{chr(code)}b")
            elif category[0] == "M":
                self.refused(chr(code))

    def test_reasons(self) -> None:
        """The character is named, where it cannot be seen in the name."""
        for text, why in (
            ("a\ufe0fb", "U+FE0F is invisible."),
            ("a\u3000b", "U+3000 is white space other than a space; use a space."),
            ("a\U000e0041", "U+E0041 is invisible."),
            ("a\u200db", "U+200D joins nothing here, and is invisible."),
            ("a\ue000", "U+E000 is an unassigned or private-use character."),
            ("a  b", "There are two spaces in a row, which look like one."),
            (" a", ""),
        ):
            self.assertEqual(str(self.assertRaises(BadName, user_name, text)), why)

    def test_long_texts(self) -> None:
        """A text far too long to be a name is refused without being sorted, which would take a second for this one."""
        text = "a" + "\u0323\u0301" * 16_000
        times = []
        for _ in range(3):
            begun = thread_time()
            self.refused(text)
            times.append(thread_time() - begun)
        self.assertLess(min(times), 0.1)

    def test_equal_forms(self) -> None:
        """The composed form comes first, then the decomposed one where that is another."""
        self.assertEqual(equal_forms("ann"), ["ann"])
        for form in ("\xe9", "e\u0301"):
            self.assertEqual(equal_forms(form), ["\xe9", "e\u0301"])

    @settings(derandomize=True, database=None, max_examples=1000)
    @given(st.text() | st.text(_hard))
    def test_any_text(self, text: str) -> None:
        """What is a name stays one, in NFC, within its length, and has its ends in every encoding that trims spaces."""
        try:
            name = user_name(text)
        except BadName:
            return
        self.assertEqual(user_name(name), name)
        self.assertEqual(normalized(name), name)
        self.assertEqual(" ".join(name.split()), name)
        self.assertTrue(1 <= len(name) <= MAX_NAME_CHARACTERS)
