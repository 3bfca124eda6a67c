"""Reading the settings: which source takes precedence, what is accepted, and the errors."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from twisted_lb.config.environment import READERS, read_notices, read_settings
from twisted_lb.config.settings import Settings

EXAMPLE = Path(__file__).parent.parent / ".env.example"


class PrecedenceTests(SynchronousTestCase):
    def read(self, options: dict[str, Any], environment: dict[str, str], env_file: str) -> Settings:
        settings, problems = read_settings(options, environment, env_file)
        self.assertEqual(problems, [])
        return settings

    def test_order(self) -> None:
        """An option beats the environment, which beats .env, which beats the default."""
        options, environment, env_file = {"data_dir": "option"}, {"DATA_DIR": "environment"}, "DATA_DIR=file"
        self.assertEqual(self.read(options, environment, env_file).data_dir, "option")
        self.assertEqual(self.read({}, environment, env_file).data_dir, "environment")
        self.assertEqual(self.read({}, {}, env_file).data_dir, "file")
        self.assertEqual(self.read({}, {}, "").data_dir, "data")

    def test_empty_is_the_default(self) -> None:
        """An empty value in the environment hides the one in .env, and stands for the default."""
        settings = self.read({}, {"REDIS_URL": "", "CONNECT_TIMEOUT": " "}, "REDIS_URL=redis://x\nCONNECT_TIMEOUT=7")
        self.assertEqual((settings.redis_url, settings.connect_timeout), ("", 5.0))

    def test_nothing_given(self) -> None:
        """Without any source the settings are the defaults."""
        self.assertEqual(self.read({}, {}, ""), Settings())

    def test_foreign_names(self) -> None:
        """Names of other programs are left alone, in the environment and in .env."""
        self.assertEqual(self.read({}, {"HOME": "/root", "listen": "x"}, "COMPOSE_PROJECT_NAME=x"), Settings())

    def test_listen_lists(self) -> None:
        """LISTEN holds several endpoints with spaces between, and --listen may be repeated."""
        expected = ("tcp:80", "tcp6:80:interface=\\:\\:1")
        self.assertEqual(self.read({"listen": list(expected)}, {}, "").listen, expected)
        self.assertEqual(self.read({}, {"LISTEN": "tcp:80  tcp6:80:interface=\\:\\:1 "}, "").listen, expected)

    def test_env_file_syntax(self) -> None:
        """.env may hold comments, quotes and `export`."""
        text = "# a comment\nexport DATA_DIR='a b'  # why\n\nADMIN_TOKEN=\"x#y\"\n"
        settings = self.read({}, {}, text)
        self.assertEqual((settings.data_dir, settings.admin_token), ("a b", "x#y"))


class ValueTests(SynchronousTestCase):
    def read(self, name: str, text: str) -> object:
        """The value of a setting, or None when there is a problem with it."""
        settings, problems = read_settings({}, {name.upper(): text})
        return None if problems else getattr(settings, name)

    def test_values(self) -> None:
        """Each text is read as this value, or (None) refused."""
        cases: list[tuple[str, str, object]] = [
            ("connect_timeout", "5", 5.0),
            ("connect_timeout", "0.25", 0.25),
            ("connect_timeout", "500ms", 0.5),
            ("connect_timeout", "10s", 10.0),
            ("connect_timeout", "1.5 M", 90.0),
            ("connect_timeout", "1h", 3600.0),
            ("connect_timeout", "24h", 86400.0),
            ("connect_timeout", "25h", None),
            ("connect_timeout", "0", None),
            ("connect_timeout", "-1", None),
            ("connect_timeout", "5x", None),
            ("connect_timeout", "s", None),
            ("connect_timeout", "1e3", None),
            ("connect_timeout", "nan", None),
            ("connect_timeout", "1 000", None),
            ("connect_timeout", "٣", None),
            ("drain_seconds", "0", 0.0),
            ("max_head_bytes", "65536", 65536),
            ("max_head_bytes", "64k", 65536),
            ("max_head_bytes", "1K", 1024),
            ("max_head_bytes", "1023", None),
            ("max_head_bytes", "2m", None),
            ("max_body_bytes", "10m", 10 * 1024**2),
            ("max_body_bytes", "1.5g", 3 * 1024**3 // 2),
            ("max_body_bytes", "0.3", None),
            ("max_body_bytes", "10kb", None),
            ("max_body_bytes", "0", 0),
            ("workers", "1", 1),
            ("workers", "0", None),
            ("workers", "257", None),
            ("workers", "+1", None),
            ("workers", "1.0", None),
            ("default_capacity", "1000000000", 1_000_000_000),
            ("default_capacity", "1000000001", None),
            ("default_rate_per_sec", "0", 0.0),
            ("default_rate_per_sec", "0.5", 0.5),
            ("default_rate_per_sec", "-0.1", None),
            ("default_rate_per_sec", "inf", None),
            ("default_rate_per_sec", "nan", None),
            ("redis_deadline", "100ms", 0.1),
            ("redis_deadline", "0", None),
            ("on_store_error", "Deny", "deny"),
            ("on_store_error", "allow", "allow"),
            ("on_store_error", "open", None),
            ("local_keys", "1", 1),
            ("local_keys", "0", None),
            ("global_capacity", "0", 0),
            ("global_capacity", "1000000001", None),
            ("global_rate_per_sec", "0.5", 0.5),
            ("global_rate_per_sec", "1000001", None),
            ("address_capacity", "0", 0),
            ("address_capacity", "-1", None),
            ("address_rate_per_sec", "0.001", 0.001),
            ("address_rate_per_sec", "0", None),
            ("key_prefix", "acme_live_", "acme_live_"),
            ("key_prefix", "acme", None),
            ("key_prefix", "acme-live_", None),
            ("self_service_create", "Off", "off"),
            ("self_service_create", "on", None),
            ("self_service_change", "off", False),
            ("self_service_change", "On", True),
            ("self_service_change", "no", None),
            ("max_capacity", "100", 100),
            ("max_capacity", "0", None),
            ("max_rate_per_sec", "2.5", 2.5),
            ("max_rate_per_sec", "-1", None),
            ("max_in_flight_per_key", "0", 0),
            ("max_in_flight_per_key", "1000001", None),
            ("max_wait", "0", 0.0),
            ("max_wait", "1m", 60.0),
            ("max_waiting", "0", 0),
            ("max_waiting", "x", None),
            ("redis_tls_ca_file", "a b.pem", "a b.pem"),
            ("redis_sentinel_password", "x#y", "x#y"),
            ("key_fields", "X-API-Key", ("x-api-key",)),
            ("key_fields", "x-key, authorization  x-key", ("x-key", "authorization")),
            ("key_fields", ",", None),
            ("key_fields", "x_key", None),
            ("key_fields", "x-key:", None),
            ("key_fields", "authorization host", None),
            ("key_fields", "Cookie", None),
            ("key_fields", "connection", None),
            ("key_fields", "x-forwarded-for", None),
            ("key_fields", "x-consumer-username", None),
            ("key_fields", "proxy-authorization", None),
            ("key_fields", "origin", None),
            ("key_fields", "a" * 65, None),
            ("key_query_parameter", "api_key", "api_key"),
            ("key_query_parameter", "", ""),
            ("key_query_parameter", "a&b", None),
            ("key_query_parameter", "a b", None),
            ("key_query_parameter", "key[]", None),
            ("key_query_parameter", "%6b", None),
            ("rate_limit_headers", "ratelimit", ("ratelimit",)),
            ("rate_limit_headers", "RateLimit X-RateLimit", ("x-ratelimit", "ratelimit")),
            ("rate_limit_headers", "none", ()),
            ("rate_limit_headers", "none ratelimit", None),
            ("rate_limit_headers", "x-ratelimit,ratelimit", None),
            ("listen", "8080", None),
            ("listen", "tcp:", None),
            ("listen", "tcp:80 8080", None),
            ("admin_listen", "tcp:80", "tcp:80"),
            ("admin_listen", "9090", None),
        ]
        for name, text, expected in cases:
            self.assertEqual(self.read(name, text), expected, (name, text))

    def test_every_setting_has_a_reader(self) -> None:
        """There is a reader for each field of Settings, and none besides."""
        self.assertEqual(set(READERS), {field.name for field in fields(Settings)})

    def test_readers_give_the_types_of_the_fields(self) -> None:
        """What is read from the example has the types of the defaults."""
        settings, _ = read_settings({}, {}, EXAMPLE.read_text())
        for field in fields(Settings):
            self.assertIs(type(getattr(settings, field.name)), type(field.default), field.name)


class ProblemTests(SynchronousTestCase):
    def problems(self, *sources: Any) -> list[str]:
        return read_settings(*sources)[1]

    def test_names_setting_source_and_expectation(self) -> None:
        """A problem says which setting, where it was written, what it was, and what was expected."""
        expected = "is not a whole number from 1 to 256"
        self.assertEqual(self.problems({"workers": "x"}, {}), [f"WORKERS (option --workers): 'x' {expected}"])
        self.assertEqual(self.problems({}, {"WORKERS": "x"}), [f"WORKERS (environment): 'x' {expected}"])
        self.assertEqual(
            self.problems({}, {}, "\n# why\nWORKERS=x\n", "my.env"), [f"WORKERS (my.env line 3): 'x' {expected}"]
        )

    def test_words(self) -> None:
        """A setting that is one of some words names them all."""
        expected = "ON_STORE_ERROR (environment): 'open' is not local, deny or allow"
        self.assertEqual(self.problems({}, {"ON_STORE_ERROR": "open"}), [expected])

    def test_all_at_once(self) -> None:
        """Every problem is reported, not the first only."""
        problems = self.problems({"listen": ["x"]}, {"HEAD_TIMEOUT": "x"}, "BODY_TIMEOUT=x\nSEND_TIMEOUT=x")
        self.assertEqual(len(problems), 4)

    def test_hidden_value_is_not_a_problem(self) -> None:
        """A wrong value that another source beats is not looked at."""
        self.assertEqual(self.problems({}, {"HEAD_TIMEOUT": "5"}, "HEAD_TIMEOUT=x"), [])

    def test_a_bucket_for_all_needs_a_rate(self) -> None:
        """A bucket of everyone that would be empty for good after a while is refused, and one with a rate is not."""
        (problem,) = self.problems({}, {"GLOBAL_CAPACITY": "100"})
        self.assertIn("GLOBAL_CAPACITY (environment): GLOBAL_RATE_PER_SEC must be greater than 0", problem)
        self.assertEqual(self.problems({}, {"GLOBAL_CAPACITY": "100", "GLOBAL_RATE_PER_SEC": "0.5"}), [])

    def test_workers_need_redis(self) -> None:
        """More than one worker on the embedded store is refused, and on Redis it is not."""
        (problem,) = self.problems({}, {"WORKERS": "2"})
        self.assertIn("WORKERS (environment): more than one worker needs REDIS_URL", problem)
        self.assertEqual(self.problems({}, {"WORKERS": "2", "REDIS_URL": "redis://x"}), [])

    def test_self_service_needs_what_it_says(self) -> None:
        """Creation with the token needs one, and new users get no more than anybody may set."""
        (problem,) = self.problems({}, {"SELF_SERVICE_CREATE": "token"})
        self.assertIn("SELF_SERVICE_CREATE (environment): it needs ADMIN_TOKEN", problem)
        self.assertEqual(self.problems({}, {"SELF_SERVICE_CREATE": "token", "ADMIN_TOKEN": "x"}), [])
        (problem,) = self.problems({}, {"MAX_CAPACITY": "3"})
        self.assertIn("MAX_CAPACITY (environment): it is below DEFAULT_CAPACITY, 5", problem)
        self.assertEqual(self.problems({}, {"MAX_CAPACITY": "3", "DEFAULT_CAPACITY": "2"}), [])

    def test_slips_in_the_file(self) -> None:
        """A line of .env that is no setting, or nearly one, is a problem with its line."""
        text = "WORKERS=1\n\nREDIS_URI=x\nconnect_timeout=5\nDATA_DIR\n!!\n"
        self.assertEqual(
            self.problems({}, {}, text),
            [
                ".env line 3: REDIS_URI is not a setting; did you mean REDIS_URL?",
                ".env line 4: connect_timeout is not a setting; did you mean CONNECT_TIMEOUT?",
                ".env line 5: expected NAME=value",
                ".env line 6: expected NAME=value",
            ],
        )


class AsWrittenTests(SynchronousTestCase):
    def test_nothing_is_expanded(self) -> None:
        """A value of .env with ${...} is taken as it is written, whatever the quotes and the environment."""
        for written in ("a${HOME}b", "'a${HOME}b'", '"a${HOME}b"'):
            settings, problems = read_settings({}, {"HOME": "x"}, f"ADMIN_TOKEN={written}")
            self.assertEqual((settings.admin_token, problems), ("a${HOME}b", []))

    def test_other_special_characters(self) -> None:
        """Backslashes, quotes, '$' and '#' within a value are a part of it."""
        cases = (
            ("p$s\\n#w'\"d", "p$s\\n#w'\"d"),
            ("'p $s\\n #w\"d'", "p $s\\n #w\"d"),
            ('"a\\"b #c"', 'a"b #c'),
            ("${", "${"),
            ("${A:-b}", "${A:-b}"),
        )
        for written, expected in cases:
            self.assertEqual(read_settings({}, {}, f"ADMIN_TOKEN={written}")[0].admin_token, expected, written)

    def test_notice(self) -> None:
        """What others would expand is told, without the value, and not where single quotes say that it is meant."""
        (notice,) = read_notices({}, "\nADMIN_TOKEN=geheim${HOME}")
        self.assertTrue(notice.startswith(".env line 2: ADMIN_TOKEN contains ${...}, which is not expanded"), notice)
        self.assertNotIn("geheim", notice)
        self.assertEqual(len(read_notices({}, 'ADMIN_TOKEN="${HOME}"')), 1)
        self.assertEqual(read_notices({}, "ADMIN_TOKEN='${HOME}'\nDATA_DIR=a$b"), [])

    def test_twice(self) -> None:
        """Of a name that is there twice the last counts, and the first is told of."""
        text = "WORKERS=2\nDATA_DIR=x\nWORKERS=1"
        self.assertEqual(read_settings({}, {}, text)[0].workers, 1)
        (notice,) = read_notices({}, text)
        self.assertEqual(notice, ".env line 3: WORKERS is set again; the value in .env line 1 is ignored")


class UnknownNamesTests(SynchronousTestCase):
    def test_file(self) -> None:
        """Every unknown name in .env is told with its line, its own or, where there is one, the nearest setting's."""
        text = "WORKERS=1\nLOG_LEVEL=debug\nREDIS_DEADLINE_FILE=x\nTOKENLB_LISTEN=tcp:80\nGREETING=x\nREDIS_TIMEOUT=3\n"
        lead = "this is not a setting, and is ignored"
        self.assertEqual(
            read_notices({}, text),
            [
                f"LOG_LEVEL (.env line 2): {lead}; the log level cannot be set",
                f"REDIS_DEADLINE_FILE (.env line 3): {lead}; the most similar setting is REDIS_DEADLINE",
                f"TOKENLB_LISTEN (.env line 4): {lead}; did you mean LISTEN?",
                f"GREETING (.env line 5): {lead}; .env.example lists all settings",
                f"REDIS_TIMEOUT (.env line 6): {lead}; the most similar setting is REDIS_URL",
            ],
        )

    def test_environment(self) -> None:
        """In the environment a name is told that begins as a setting does or is one but for a slip."""
        told = ("LOG_LEVEL", "REDIS_DEADLINE_FILE", "REDIS_PASSWORD", "DEFAULT_CAPACTY", "TOKENLB_X")
        notices = read_notices(dict.fromkeys(told, "geheim"))
        self.assertEqual([notice.partition(" ")[0] for notice in notices], sorted(told))
        self.assertNotIn("geheim", "".join(notices))
        self.assertIn("DEFAULT_CAPACTY (environment): ", notices[0])
        self.assertIn("the most similar setting is DEFAULT_CAPACITY", notices[0])

    def test_foreign_environment(self) -> None:
        """Names of other programs, of systemd and of Kubernetes are not told, and neither are settings."""
        names = """PATH HOME LANG PWD SHLVL TERM USER HOSTNAME LC_ALL PYTHONPATH VIRTUAL_ENV MAILCHECK DATABASE_URL
            LISTEN_FDS LISTEN_PID LISTEN_FDNAMES NOTIFY_SOCKET WATCHDOG_USEC INVOCATION_ID MAINPID MAKEFLAGS MAKELEVEL
            REDIS_PORT REDIS_PORT_6379_TCP REDIS_PORT_6379_TCP_ADDR REDIS_SERVICE_HOST REDIS_SERVICE_PORT_CLIENT
            TOKENLB_SERVICE_HOST TOKENLB_PORT KUBERNETES_SERVICE_HOST XDG_DATA_DIRS SSH_CONNECTION COLUMNS
            TOKENLB_URL TOKENLB_TOKEN WORKERS REDIS_URL""".split()
        self.assertEqual(read_notices(dict.fromkeys(names, "1")), [])

    def test_docker_compose(self) -> None:
        """What docker compose reads from the same file is not told."""
        self.assertEqual(read_notices({}, "COMPOSE_PROJECT_NAME=x\nDOCKER_HOST=x"), [])

    def test_many(self) -> None:
        """The .env of another program is not a flood of lines."""
        notices = read_notices({}, "".join(f"NAME{number}=x\n" for number in range(50)))
        self.assertEqual((len(notices), notices[-1]), (21, "and 30 more unknown names"))


class ExampleTests(SynchronousTestCase):
    def test_names(self) -> None:
        """.env.example has each setting once, and nothing else."""
        names = [line.partition("=")[0] for line in EXAMPLE.read_text().splitlines() if line and line[0] != "#"]
        self.assertEqual(sorted(names), sorted(field.name.upper() for field in fields(Settings)))

    def test_defaults(self) -> None:
        """The values in .env.example are the defaults."""
        self.assertEqual(read_settings({}, {}, EXAMPLE.read_text()), (Settings(), []))
        self.assertEqual(read_notices({}, EXAMPLE.read_text()), [])

    def test_comments(self) -> None:
        """Each setting in .env.example stands under a comment, its own or that of the setting before."""
        above = ""
        for line in EXAMPLE.read_text().splitlines():
            if line and line[0] != "#":
                self.assertNotEqual(above, "", line)
            above = line
