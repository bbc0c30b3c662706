# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from ansible_collections.homelab.peer_relay.plugins.modules import directory_files


def run(path: Path, files: dict, check: bool = False) -> dict:
    arguments = {"path": str(path), "files": files, "_ansible_check_mode": check}
    process = subprocess.run(
        [sys.executable, directory_files.__file__],
        input=json.dumps({"ANSIBLE_MODULE_ARGS": arguments}),
        capture_output=True,
        text=True,
        check=False,
    )
    return json.loads(process.stdout)


def content(path: Path) -> dict:
    return {file.name: file.read_text(encoding="utf-8") for file in path.iterdir()}


def test_the_directory_holds_these_files_and_no_others(tmp_path):
    target = tmp_path / "package"
    assert run(target, {"a.py": "1\n", "b.py": ""})["changed_files"] == ["a.py", "b.py"]
    (target / "__pycache__").mkdir()
    (target / "__pycache__" / "a.pyc").touch()

    result = run(target, {"a.py": "2\n", "c.py": "ä\n"})

    assert result["changed_files"] == ["__pycache__", "a.py", "b.py", "c.py"]
    assert content(target) == {"a.py": "2\n", "c.py": "ä\n"}
    assert [path.name for path in tmp_path.iterdir()] == ["package"]


def test_names_may_have_directories_in_front(tmp_path):
    target = tmp_path / "package"
    files = {"a.py": "1\n", "inner/b.py": "2\n", "inner/deep/c.py": "3\n"}
    assert run(target, files)["changed_files"] == sorted(files)
    assert (target / "inner/deep/c.py").read_text(encoding="utf-8") == "3\n"
    assert (target / "inner").stat().st_mode & 0o777 == 0o755
    assert not run(target, files)["changed"]
    (target / "inner" / "__pycache__").mkdir()
    (target / "other").mkdir()
    assert run(target, files)["changed_files"] == ["inner/__pycache__", "other"]
    (target / "inner").chmod(0o777)
    assert run(target, files)["changed"]
    assert (target / "inner").stat().st_mode & 0o777 == 0o755
    assert run(target, {"a.py": "1\n"})["changed_files"] == ["inner"]
    assert content(target) == {"a.py": "1\n"}


def test_a_second_run_changes_nothing(tmp_path):
    files = {"a.py": "1\n", "empty.py": ""}
    run(tmp_path / "package", files)
    before = (tmp_path / "package").stat().st_ino
    assert not run(tmp_path / "package", files)["changed"]
    assert (tmp_path / "package").stat().st_ino == before


def test_check_mode_tells_and_does_nothing(tmp_path):
    result = run(tmp_path / "package", {"a.py": "1\n"}, check=True)
    assert result["changed"]
    assert result["diff"][0]["after"] == "1\n"
    assert not (tmp_path / "package").exists()


def test_another_mode_is_mended(tmp_path):
    run(tmp_path / "package", {"a.py": "1\n"})
    (tmp_path / "package" / "a.py").chmod(0o666)
    assert run(tmp_path / "package", {"a.py": "1\n"})["changed_files"] == ["a.py"]


def test_a_failure_leaves_the_old_files(tmp_path, monkeypatch):
    target = tmp_path / "package"
    run(target, {"a.py": "1\n"})
    rename = Path.rename

    def refuse(self, to):
        if to == target and not self.name.endswith(".old"):
            raise OSError(28, os.strerror(28), str(to))
        return rename(self, to)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(OSError, match="No space"):
        directory_files.write_all(target, {"a.py": "2\n"})
    assert content(target) == {"a.py": "1\n"}


def test_a_path_is_no_name(tmp_path):
    assert "names relative to path" in run(tmp_path / "package", {"../a.py": ""})["msg"]
