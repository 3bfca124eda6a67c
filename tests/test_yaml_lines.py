"""YAML with lines."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from twisted_lb.config.yaml_lines import NotYaml, read_yaml


class ReadYamlTests(SynchronousTestCase):
    def test_lines(self) -> None:
        """Each key and each item of a list has the line where it begins."""
        document = read_yaml("# comment\na:\n  - b: 1\n    c:\n      2\n  - 3\n")
        self.assertEqual(document.data, {"a": [{"b": 1, "c": 2}, 3]})
        for path, line in ((("a",), 2), (("a", 0), 3), (("a", 0, "b"), 3), (("a", 0, "c"), 4), (("a", 1), 6)):
            self.assertEqual(document.line(path), line, path)

    def test_line_of_what_is_missing(self) -> None:
        """What is not there has the line of what it would stand in."""
        document = read_yaml("\na: {}\n")
        self.assertEqual(document.line(("a", "b", 3)), 2)
        self.assertEqual(read_yaml("").line(("a",)), 1)

    def test_twice(self) -> None:
        """A key that is there again is noted with the line of the first one, at any depth."""
        document = read_yaml("a: 1\nb:\n  c: 1\n  c: 2\na: 3\n")
        self.assertEqual(document.twice, [(("b", "c"), 3), (("a",), 1)])

    def test_twice_through_an_alias(self) -> None:
        """An alias is not a second key."""
        self.assertEqual(read_yaml("a: &x {k: 1}\nb: *x\nc: [*x, *x]\n").twice, [])

    def test_loop(self) -> None:
        """A list that holds itself is read."""
        data = read_yaml("&a [*a]").data
        assert isinstance(data, list)
        self.assertIs(data[0], data)

    def test_asterisk(self) -> None:
        """A host such as *.example.com without quotes is an alias for YAML; the reason says what to do."""
        for text in ("a: *.example.com", "- {a: *.example.com, b: c}", "a: *", "a: *b"):
            error = self.assertRaises(NotYaml, read_yaml, text)
            self.assertIn("a text that begins with '*' has to be in quotes", str(error))

    def test_not_yaml(self) -> None:
        """What PyYAML cannot make safe data of raises NotYaml with the line, and nothing else."""
        cases = [
            ("a: 1\nb: [", 2),
            ("a:\n\tb: 1", 2),
            ("a: 1\nb: !!python/object/apply:os.system [id]", 2),
            ("a: 1\n---\nb: 2", 2),
            ("a: 1\n? [1]\n: 2", 2),
            ("a: *nowhere", 1),
            ("a: 2024-13-45", 1),
            ("a: \0", 1),
            ("[" * 5000, 1),
        ]
        for text, line in cases:
            self.assertEqual(self.assertRaises(NotYaml, read_yaml, text).line, line, text[:40])
