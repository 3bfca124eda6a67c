"""Which listener is asked, and with which token."""

from __future__ import annotations

from pathlib import Path

import click
from twisted.trial.unittest import SynchronousTestCase

from tests.cli.command import SET, TOKEN, UNSET, URL, Server, ran, response
from twisted_lb.cli.client import Place
from twisted_lb.cli.failures import Failed
from twisted_lb.cli.target import Given, place_of_endpoint, place_of_url, target

FULL = {"TOKENLB_URL": URL, "TOKENLB_TOKEN": "t1", "ADMIN_LISTEN": "tcp:7", "ADMIN_TOKEN": "t2"}


class TargetTests(SynchronousTestCase):
    def _env(self, text: str) -> str:
        path = Path(self.mktemp())
        path.write_text(text)
        return str(path)

    def _target(self, given: Given, environment: dict[str, str]) -> tuple[str, str]:
        place, token = target(given, environment)
        return place.shown, token

    def test_order(self) -> None:
        """Options, then the variables of the command, then the settings of the program: the environment, then .env."""
        file = self._env("ADMIN_LISTEN=tcp:8:interface=127.0.0.1\nADMIN_TOKEN=t3\n")
        given = Given("http://localhost:6", "t0", env_file=file)
        self.assertEqual(self._target(given, FULL), ("http://localhost:6", "t0"))
        given = Given(env_file=file)
        self.assertEqual(self._target(given, FULL), (URL, "t1"))
        settings = {name: text for name, text in FULL.items() if name.startswith("ADMIN_")}
        self.assertEqual(self._target(given, settings), ("http://localhost:7", "t2"))
        self.assertEqual(self._target(given, {}), ("http://127.0.0.1:8", "t3"))
        self.assertEqual(self._target(Given(env_file=self._env("")), {}), ("http://127.0.0.1:9090", ""))

    def test_token_files(self) -> None:
        """The token may be in a file that an option or the setting names."""
        file = self._env("t4\n")
        self.assertEqual(self._target(Given(token_file=file), FULL)[1], "t4")
        self.assertEqual(self._target(Given(), {"ADMIN_TOKEN_FILE": file})[1], "t4")
        with self.assertRaises(Failed):
            target(Given(token_file="no-such-file"), {})
        with self.assertRaises(click.UsageError):
            target(Given(token="a", token_file=file), {})

    def test_own_token_stays_here(self) -> None:
        """ADMIN_TOKEN is of the program of this directory: another machine that was named does not get it."""
        for url in ("http://10.0.0.1:9090", "https://lb.test", "http://localhost.test:9090"):
            self.assertEqual(target(Given(url), {"ADMIN_TOKEN": "t2"})[1], "")
        for url in ("http://127.0.0.1:1", "http://localhost:1", "http://[::1]:1", "unix:/run/x"):
            self.assertEqual(target(Given(url), {"ADMIN_TOKEN": "t2"})[1], "t2")
        # One that was set as the listener is that of the program.
        self.assertEqual(target(Given(), {"ADMIN_TOKEN": "t2", "ADMIN_LISTEN": "tcp:1:interface=10.0.0.1"})[1], "t2")

    def test_env_file_is_read_if_needed(self) -> None:
        """A file of settings that cannot be read is an error, unless nothing in it is needed."""
        missing = Given(URL, env_file="no-such-file")
        self.assertEqual(target(missing, {})[1], "")
        for given in (missing._replace(url=None, token="t"), missing._replace(url="http://localhost:1")):
            with self.assertRaises(Failed):
                target(given, {})
            self.assertEqual(target(given._replace(url="http://localhost:1", token="t"), {})[1], "t")

    def test_token_that_cannot_be_sent(self) -> None:
        """A token with a line end in it is refused, and not shown."""
        with self.assertRaises(Failed) as caught:
            target(Given(URL, "secret\r\nX: y"), {})
        self.assertNotIn("secret", str(caught.exception))


class PlaceTests(SynchronousTestCase):
    def test_urls(self) -> None:
        """Schemes have their ports; a path comes before those of the API; a socket has a path."""
        self.assertEqual(place_of_url("https://lb.test/a/")[1:], ("lb.test", 443, "/a", True, ""))
        self.assertEqual(place_of_url("http://[::1]:9")[1:], ("::1", 9, "", False, ""))
        self.assertEqual(place_of_url("unix:/run/x.sock").unix_path, "/run/x.sock")

    def test_wrong_urls(self) -> None:
        """Others are errors, which do not repeat a password in them."""
        wrong = ("lb.test:9090", "ftp://x", "http://", "http://x:y", "unix:", "http://x/a b")
        for url in (*wrong, "http://u:geheim@x", "http://x?geheim"):
            with self.assertRaises(click.UsageError) as caught:
                place_of_url(url)
            self.assertNotIn("geheim", str(caught.exception))

    def test_endpoints(self) -> None:
        """An endpoint is reached at its interface, or on this machine if that is any."""
        for endpoint, host, port in (
            ("tcp:9090:interface=127.0.0.1", "127.0.0.1", 9090),
            ("tcp:9090", "localhost", 9090),
            ("tcp:port=9090:interface=0.0.0.0", "localhost", 9090),
            ("tcp6:9090", "::1", 9090),
            (r"tcp6:9090:interface=fd00\:\:1", "fd00::1", 9090),
        ):
            place = place_of_endpoint(endpoint)
            self.assertEqual((place.host, place.port), (host, port))
        self.assertEqual(place_of_endpoint(r"tcp6:1:interface=\:\:1").shown, "http://[::1]:1")
        self.assertEqual(place_of_endpoint("unix:/run/x:mode=660"), Place("unix:/run/x", "", 0, unix_path="/run/x"))
        for endpoint in ("systemd:domain=INET:name=admin", "tcp:http", "", "tcp"):
            with self.assertRaises(click.UsageError):
                place_of_endpoint(endpoint)


class OptionTests(SynchronousTestCase):
    def test_anywhere(self) -> None:
        """Options are taken before and after each word of the command; the last one counts."""
        for arguments in (
            ["--url", "http://a.test", "--token", "t", "--timeout", "3", "users", "list"],
            ["users", "--url", "http://a.test", "--token", "t", "list", "--timeout", "3"],
            ["--url", URL, "users", "--token", "s", "list", "--url", "http://a.test", "--token", "t", "--timeout", "3"],
        ):
            server = Server(response({"users": [], "next": None}))
            self.assertEqual(ran(arguments, server).status, 0)
            [(place, seconds, _)] = server.connections
            found = (place.host, seconds, server.asked[0].fields["Authorization"])
            self.assertEqual(found, ("a.test", 3, "Bearer t"))

    def test_no_token(self) -> None:
        """Without a token none is sent, and a 401 says where to give one."""
        server = Server(response({"detail": "No."}, 401))
        found = ran(["users", "list"], server, environment={**UNSET, "TOKENLB_URL": URL})
        self.assertNotIn("Authorization", server.asked[0].fields)
        self.assertEqual(found.status, 5)
        self.assertIn("Give a token: --token-file", found.err)

    def test_not_in_help(self) -> None:
        """A token of the environment is in no help."""
        self.assertNotIn(TOKEN, ran(["users", "list", "--help"], Server(), environment=SET).out)
