"""The environment: read once, every fault at once, defaults for the rest."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from shared.errors import SettingsError
from shared.settings import ROOT, Settings, embedded_socket, env_example
from tests.builders import settings

UNIX_PATH_MAX = 107
A_LABEL = (
    "must be name=value, each of at most 63 letters, digits, dots, dashes, underscores or slashes, "
    "like zone=a,gpu=h100"
)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("app_host", "0.0.0.0"),
        ("app_port", 5000),
        ("app_debug", False),
        ("web_processes", 2),
        ("web_threads", 64),
        ("proxy_connect_timeout_s", 3.0),
        ("proxy_first_byte_timeout_s", 600.0),
        ("proxy_idle_timeout_s", 300.0),
        ("proxy_allow_paths", ()),
        ("redis_url", f"unix://{ROOT}/.run/redis/redis.sock"),
        ("embedded_redis", True),
        ("node_address", "127.0.0.1"),
        ("node_labels", {}),
        ("node_fake_gpus", ()),
        ("node_drain_timeout_s", 3600.0),
        ("run_dir", ROOT / ".run"),
        ("models_dir", ROOT / ".models"),
        ("keep_engines", False),
        ("drain_timeout_s", 30.0),
        ("stop_timeout_s", 20.0),
        ("start_stall_timeout_s", 600.0),
        ("restart_backoff_s", 10.0),
        ("restart_backoff_max_s", 300.0),
        ("restart_reset_after_s", 600.0),
        ("restart_max_failed_starts", 5),
        ("restart_max_per_hour", 10),
        ("hang_grace_s", 120.0),
        ("vllm_command", (str(ROOT / ".engines/default/bin/vllm"),)),
        ("vllm_base_port", 9000),
        ("vllm_max_instances", 20),
        ("vllm_default_dtype", "auto"),
        ("vllm_default_kv_cache_dtype", "auto"),
        ("vllm_default_trust_remote_code", True),
        ("vllm_default_timeout_s", 600),
        ("vllm_config", ROOT / "configs/vllm_config.json"),
        ("engine_env_file", ROOT / "configs/engine.env"),
        ("hf_endpoint", ""),
        ("hf_home", ""),
        ("hf_token", ""),
        ("http_proxy", ""),
        ("https_proxy", ""),
        ("flower_port", 5555),
    ],
)
def test_an_empty_environment_gives_the_defaults(name: str, value: object) -> None:
    assert getattr(settings(), name) == value


def test_a_node_is_named_after_its_host() -> None:
    assert settings().node_name.startswith(socket.gethostname()[:1])


@pytest.mark.parametrize(
    ("variable", "text", "name", "value"),
    [
        ("APP_PORT", " 5001 ", "app_port", 5001),
        ("APP_DEBUG", "Yes", "app_debug", True),
        ("KEEP_ENGINES", "on", "keep_engines", True),
        ("VLLM_DEFAULT_TRUST_REMOTE_CODE", "0", "vllm_default_trust_remote_code", False),
        ("DRAIN_TIMEOUT", "0.5", "drain_timeout_s", 0.5),
        ("VLLM_DEFAULT_TIMEOUT", "0", "vllm_default_timeout_s", 0),
        ("VLLM_MAX_INSTANCES", "0", "vllm_max_instances", 0),
        ("VLLM_COMMAND", "docker run 'my image'", "vllm_command", ("docker", "run", "my image")),
        ("NODE_NAME", "gpu-1.example", "node_name", "gpu-1.example"),
        ("NODE_LABELS", "zone=a, gpu=h100", "node_labels", {"zone": "a", "gpu": "h100"}),
        ("NODE_LABELS", "example.com/spot=", "node_labels", {"example.com/spot": ""}),
        ("NODE_FAKE_GPUS", "4x80GiB", "node_fake_gpus", (81_920,) * 4),
        ("NODE_FAKE_GPUS", "2x24gib,512MiB", "node_fake_gpus", (24_576, 24_576, 512)),
        ("NODE_DRAIN_TIMEOUT", "60", "node_drain_timeout_s", 60.0),
        ("RUN_DIR", "/var/lib/fleet", "run_dir", Path("/var/lib/fleet")),
        ("MODELS_DIR", "~/models", "models_dir", Path.home() / "models"),
        ("VLLM_CONFIG", "configs/mine.json", "vllm_config", ROOT / "configs/mine.json"),
        ("REDIS_URL", "rediss://u:p@h:6380/1", "redis_url", "rediss://u:p@h:6380/1"),
        ("REDIS_URL", "unix:///run/redis.sock", "redis_url", "unix:///run/redis.sock"),
    ],
)
def test_a_variable_is_read_as_what_it_means(
    variable: str, text: str, name: str, value: object
) -> None:
    assert getattr(settings(**{variable: text}), name) == value


@pytest.mark.parametrize(
    ("variable", "text", "wanted"),
    [
        ("APP_PORT", "0", "must be a whole number from 1 to 65535"),
        ("APP_PORT", "65536", "must be a whole number from 1 to 65535"),
        ("APP_PORT", "http", "must be a whole number from 1 to 65535"),
        ("APP_PORT", "5e3", "must be a whole number from 1 to 65535"),
        ("APP_DEBUG", "maybe", "must be true or false"),
        ("WEB_THREADS", "1", "must be a whole number from 2 to 4096"),
        ("DRAIN_TIMEOUT", "-1", "must be a number of seconds, like 30 or 0.5, at most 604800"),
        ("DRAIN_TIMEOUT", "nan", "must be a number of seconds, like 30 or 0.5, at most 604800"),
        ("DRAIN_TIMEOUT", "1m", "must be a number of seconds, like 30 or 0.5, at most 604800"),
        ("NODE_NAME", "a/b", "must be 1 to 63 letters, digits, dots, dashes or underscores"),
        ("NODE_NAME", "-a", "must be 1 to 63 letters, digits, dots, dashes or underscores"),
        ("NODE_NAME", "a" * 64, "must be 1 to 63 letters, digits, dots, dashes or underscores"),
        ("NODE_LABELS", "zone=a,zone=b", "zone is given twice"),
        *(
            ("NODE_LABELS", text, f"{text!r} {A_LABEL}")
            for text in ("zone", "=a", "zone=-a", "a" * 64 + "=b")
        ),
        *(
            (
                "NODE_FAKE_GPUS",
                text,
                f"{text!r} must be a number of GPUs and the memory of each, like 4x80GiB",
            )
            for text in ("4", "4x80", "4x80GB", "0x80GiB", "-1x80GiB")
        ),
        ("NODE_FAKE_GPUS", "65x1GiB", "65 GPUs: must be at most 64"),
        ("VLLM_DEFAULT_TIMEOUT", "-1", "must be a whole number of at least 0"),
        ("VLLM_DEFAULT_TIMEOUT", "1.5", "must be a whole number of at least 0"),
        ("VLLM_COMMAND", "'vllm", "No closing quotation"),
    ],
)
def test_a_fault_names_the_variable_its_value_and_what_would_be_right(
    variable: str, text: str, wanted: str
) -> None:
    with pytest.raises(SettingsError) as raised:
        settings(**{variable: text})
    assert raised.value.faults == (f"{variable}={text!r}: {wanted}",)


def test_a_fault_of_a_secret_does_not_show_it() -> None:
    with pytest.raises(SettingsError) as raised:
        settings(REDIS_URL="http://user:password@host")
    (fault,) = raised.value.faults
    assert fault == "REDIS_URL=...: must start with redis://, rediss:// or unix://"


@pytest.mark.parametrize("sign", ["/", "?", "#", "["])
def test_a_password_that_breaks_its_url_is_not_quoted(sign: str) -> None:
    with pytest.raises(SettingsError) as raised:
        settings(REDIS_URL=f"redis://:s3cret{sign}word@host:6379/0")
    [fault] = raised.value.faults
    assert fault.startswith("REDIS_URL=...: not a URL like redis://:password@host:6379/0; ")
    assert "s3cret" not in str(raised.value)
    assert raised.value.__context__ is None


def test_every_fault_is_reported_at_once() -> None:
    wrong = {"APP_PORT": "x", "APP_DEBUG": "x", "REDIS_URL": "x", "STOP_TIMEOUT": "x"}
    with pytest.raises(SettingsError) as raised:
        settings(**wrong)
    assert [fault.partition("=")[0] for fault in raised.value.faults] == list(wrong)


def test_ports_of_all_instances_must_exist() -> None:
    with pytest.raises(SettingsError, match=r"VLLM_BASE_PORT \+ VLLM_MAX_INSTANCES = 65536: .*"):
        settings(VLLM_BASE_PORT="65535", VLLM_MAX_INSTANCES="1")


def test_the_last_port_may_be_the_last_there_is() -> None:
    assert settings(VLLM_BASE_PORT="65535", VLLM_MAX_INSTANCES="0").vllm_base_port == 65535


@pytest.mark.parametrize("text", ["", "  "])
def test_empty_is_unset(text: str) -> None:
    variables = [line[2:].partition("=")[0] for line in assignments()]
    assert settings(**dict.fromkeys(variables, text)) == settings()


def test_a_redis_of_the_users_own_is_not_embedded() -> None:
    assert not settings(REDIS_URL="redis://localhost").embedded_redis


def test_the_embedded_redis_listens_in_the_run_directory() -> None:
    assert settings(RUN_DIR="/srv/fleet").redis_url == "unix:///srv/fleet/redis/redis.sock"


def test_a_path_too_long_for_a_socket_is_replaced_by_a_folder_of_the_users_own() -> None:
    path = embedded_socket(Path("/" + "x" * 200))
    assert len(os.fsencode(path)) <= UNIX_PATH_MAX
    assert path.parent.name.startswith(f"vllm-fleet-{os.getuid()}-")


def test_the_longest_path_that_a_socket_can_have_is_used() -> None:
    run_dir = Path("/" + "x" * (UNIX_PATH_MAX - len("//redis/redis.sock")))
    assert embedded_socket(run_dir) == run_dir / "redis/redis.sock"


def test_the_replaced_path_is_the_same_each_time_and_another_for_each_run_directory() -> None:
    folders = [Path("/" + name * 200) for name in ("x", "x", "y")]
    first, again, other = map(embedded_socket, folders)
    assert first == again != other


@pytest.mark.parametrize(
    "variable", ["REDIS_URL", "HF_TOKEN", "HTTP_PROXY", "HTTPS_PROXY", "SSL_CERT_FILE"]
)
def test_secrets_are_not_in_the_repr(variable: str) -> None:
    assert "hush" not in repr(settings(**{variable: "redis://u:hush@host"}))


def test_only_named_variables_are_handed_on_to_engines() -> None:
    env = {"PATH": "/bin", "HOME": "/root", "AWS_SECRET_ACCESS_KEY": "x", "VLLM_BASE_PORT": "9000"}
    assert settings(**env).inherited_env == {"PATH": "/bin", "HOME": "/root"}


def in_checkout(
    folder: Path, code: str, dotenv: str, **env: str
) -> subprocess.CompletedProcess[str]:
    """Run code in a checkout of only the settings, with that `.env`."""
    (folder / "shared").mkdir()
    for name in ("__init__.py", "errors.py", "settings.py"):
        shutil.copy(ROOT / "shared" / name, folder / "shared" / name)
    (folder / ".env").write_text(dotenv)
    return subprocess.run(
        [sys.executable, "-c", f"from shared.settings import Settings; {code}"],
        cwd=folder,
        env={"PATH": os.environ["PATH"], **env},
        capture_output=True,
        text=True,
        check=False,
    )


PRINT_LOADED = "s = Settings.load(); print(s.app_port, s.flower_port)"


def test_the_environment_wins_over_the_dotenv_file(tmp_path: Path) -> None:
    dotenv = "APP_PORT=1111\nFLOWER_PORT=2222\n"
    assert in_checkout(tmp_path, PRINT_LOADED, dotenv, APP_PORT="3333").stdout == "3333 2222\n"


def test_a_given_environment_is_all_there_is(tmp_path: Path) -> None:
    code = "print(Settings.from_env({}).app_port)"
    assert in_checkout(tmp_path, code, "APP_PORT=1111\n").stdout == "5000\n"


def test_a_program_with_a_wrong_environment_says_all_that_is_wrong(tmp_path: Path) -> None:
    ran = in_checkout(tmp_path, "Settings.load_or_exit()", "APP_PORT=x\nAPP_DEBUG=x\n")
    assert ran.stderr.splitlines() == [
        "the environment is wrong (see env.example):",
        "  APP_PORT='x': must be a whole number from 1 to 65535",
        "  APP_DEBUG='x': must be true or false",
    ]


def test_a_program_with_a_wrong_environment_exits_with_status_2(tmp_path: Path) -> None:
    assert in_checkout(tmp_path, "Settings.load_or_exit()", "APP_PORT=x\n").returncode == 2


def assignments() -> list[str]:
    """Return the lines of env.example that would set something, still commented out."""
    return [line for line in env_example().splitlines() if line.startswith("# ") and "=" in line]


def test_env_example_says_what_the_settings_are() -> None:
    assert (ROOT / "env.example").read_text() == env_example()


def test_what_env_example_shows_is_what_happens_without_it() -> None:
    shown = dict(line[2:].split("=", 1) for line in assignments())
    assert Settings.from_env(shown) == settings()


def test_everything_in_env_example_is_commented_out() -> None:
    assert all(line.startswith("#") or not line for line in env_example().splitlines())


@pytest.mark.parametrize(
    ("text", "paths"),
    [
        ("/sleep", ("/sleep",)),
        ("/sleep, /inference/*", ("/sleep", "/inference/*")),
        (" /a/b,/c  /*\t/", ("/a/b", "/c", "/*", "/")),
    ],
)
def test_engine_paths_to_open(text: str, paths: tuple[str, ...]) -> None:
    assert settings(PROXY_ALLOW_PATHS=text).proxy_allow_paths == paths


@pytest.mark.parametrize(
    "path",
    ["sleep", "*", "/a*", "/*/a", "/a/**", "//a", "/a//b", "/a/../b", "/..", "/./a", "/a%2fb",
     "/a?b", "/a#b", "/a\\b", "http://x/y", "/ä"],
)  # fmt: skip
def test_an_engine_path_that_could_not_match_plainly_is_refused(path: str) -> None:
    with pytest.raises(SettingsError, match=r"PROXY_ALLOW_PATHS.*must be a plain path"):
        settings(PROXY_ALLOW_PATHS=f"/good {path}")
