"""Settings, the folders they name, and how a command finds the service: without any process."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from plush_worker import service_file, xdg
from plush_worker.config import Settings, load_settings
from plush_worker.errors import ConfigurationError
from plush_worker.service_file import Service


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [name for name in os.environ if name.startswith("PLUSH_")]:
        if not name.startswith("PLUSH_TEST_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    (tmp_path / "config" / "plush").mkdir(parents=True)
    return tmp_path


def write_toml(folders: Path, text: str) -> None:
    (folders / "config" / "plush" / "plush.toml").write_text(text)


class TestSettings:
    def test_arguments_win_over_the_environment_and_that_over_the_file(
        self, folders: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write_toml(folders, 'worker_name = "file"\nworker_capacity = 7\nconcurrency = 2\n')
        monkeypatch.setenv("PLUSH_WORKER_NAME", "environment")
        monkeypatch.setenv("PLUSH_CONCURRENCY", "3")
        settings = load_settings(concurrency=5, worker_capacity=None)
        assert (settings.worker_name, settings.concurrency, settings.worker_capacity) == ("environment", 5, 7)
        assert settings.worker_queue == "worker.environment"

    def test_they_are_frozen_and_keep_passwords_out_of_their_repr(self) -> None:
        settings = load_settings(redis_url="redis://:secret@host/1")
        assert "secret" not in repr(settings)
        with pytest.raises(ValueError, match="frozen"):
            settings.concurrency = 9

    @pytest.mark.parametrize(
        ("given", "told"),
        [
            ({"concurrency": 0}, "PLUSH_CONCURRENCY"),
            ({"worker_name": "a b"}, "PLUSH_WORKER_NAME"),
            ({"redis_url": "http://x"}, "PLUSH_REDIS_URL"),
            ({"worker_renew_s": 4}, "at most half"),
            ({"no_such": 1}, "no_such"),
        ],
    )
    def test_a_wrong_one_is_named(self, given: dict[str, object], told: str) -> None:
        with pytest.raises(ConfigurationError, match=told):
            load_settings(**given)

    def test_a_file_that_is_no_toml_is_named(self, folders: Path) -> None:
        write_toml(folders, "redis_url = \n")
        with pytest.raises(ConfigurationError, match=r"plush\.toml"):
            load_settings()
        with pytest.raises(ConfigurationError, match=r"plush\.toml"):
            service_file.find_service()

    def test_the_password_comes_from_its_file(self, folders: Path) -> None:
        (folders / "password").write_text("p@ss/word\n")
        settings = load_settings(redis_url="unix:///run/redis.sock?db=2", redis_password_file=folders / "password")
        assert settings.redis_url == "unix://:p%40ss%2Fword@/run/redis.sock?db=2"
        own = load_settings(redis_url="redis://:own@h", redis_password_file=folders / "password")
        assert own.redis_url == "redis://:own@h"
        with pytest.raises(ConfigurationError, match="No such file"):
            load_settings(redis_url="redis://h", redis_password_file=folders / "nothing")

    def test_every_setting_has_a_default(self) -> None:
        assert isinstance(load_settings(), Settings)


class TestServiceFile:
    def test_what_a_living_process_wrote_is_found(self, folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = service_file.write_service(Service(redis_url="unix:///s", flower_url="http://127.0.0.1:1/"))
        assert path == folders / "state" / "plush" / "service.json"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        found = service_file.find_service()
        assert found is not None
        assert (found.redis_url, found.pid, found.source) == ("unix:///s", os.getpid(), str(path))
        monkeypatch.setenv("PLUSH_REDIS_URL", "redis://elsewhere")
        configured = service_file.find_service()
        assert configured is not None and configured.redis_url == "redis://elsewhere"
        service_file.remove_service(path)
        assert not path.exists()

    @pytest.mark.parametrize(
        "change", [{"pid": 2**22 + 1}, {"process_start": "1"}, {"boot_id": "another machine"}, {"pid": "x"}]
    )
    def test_what_a_dead_process_or_another_machine_wrote_is_not_believed(self, change: dict[str, object]) -> None:
        path = service_file.write_service(Service(redis_url="unix:///s"))
        path.write_text(json.dumps(json.loads(path.read_text()) | change))
        assert service_file.find_service() is None

    @pytest.mark.parametrize("text", ["", "[]", "{}", '{"pid": 1}', "\xff"])
    def test_a_damaged_file_is_no_service(self, folders: Path, text: str) -> None:
        path = xdg.private_dir(xdg.state_dir()) / "service.json"
        path.write_text(text, "latin-1")
        assert service_file.find_service() is None
        service_file.remove_service(path)
        assert path.exists(), "somebody else's file was removed"

    def test_the_runtime_folder_comes_first_and_the_state_folder_is_looked_at_too(
        self, folders: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        service_file.write_service(Service(redis_url="unix:///in-state"))
        (folders / "run").mkdir(mode=0o700)
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(folders / "run"))
        found = service_file.find_service()
        assert found is not None and found.redis_url == "unix:///in-state"
        assert service_file.write_service(Service(redis_url="unix:///in-run")).is_relative_to(folders / "run")
        found = service_file.find_service()
        assert found is not None and found.redis_url == "unix:///in-run"

    def test_the_settings_file_counts(self, folders: Path) -> None:
        write_toml(folders, 'redis_url = "redis://there"\n')
        found = service_file.find_service()
        assert found is not None and found.redis_url == "redis://there" and found.source.endswith("plush.toml")


class TestFolders:
    def test_a_private_folder_is_made_private(self, folders: Path) -> None:
        (folders / "open").mkdir(mode=0o755)
        assert stat.S_IMODE(xdg.private_dir(folders / "open").stat().st_mode) == 0o700

    def test_a_link_or_a_file_in_its_place_is_refused(self, folders: Path) -> None:
        (folders / "link").symlink_to(folders)
        (folders / "file").touch()
        for name in ("link", "file", "file/below"):
            with pytest.raises(ConfigurationError, match=name):
                xdg.private_dir(folders / name)

    def test_relative_folders_of_the_environment_are_ignored(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("XDG_STATE_HOME", "relative")
        monkeypatch.setenv("XDG_RUNTIME_DIR", "relative")
        assert xdg.state_dir() == Path.home() / ".local/state/plush" and xdg.runtime_dir() is None

    def test_a_socket_path_has_a_bound(self) -> None:
        assert xdg.fits_socket(Path("/" + "x" * 102)) and not xdg.fits_socket(Path("/" + "x" * 103))

    def test_a_process_is_named_by_pid_and_start(self) -> None:
        assert xdg.process_start(os.getpid()).isdigit()
        assert xdg.process_start(2**22 + 1) == ""
