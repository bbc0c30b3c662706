# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
import json
import subprocess
import sys

from ansible_collections.homelab.peer_relay.plugins.modules import text_files


def run(*files: dict, check: bool = False) -> dict:
    arguments = {"files": list(files), "_ansible_check_mode": check, "_ansible_diff": True}
    process = subprocess.run(
        [sys.executable, text_files.__file__],
        input=json.dumps({"ANSIBLE_MODULE_ARGS": arguments}),
        capture_output=True,
        text=True,
        check=False,
    )
    return json.loads(process.stdout)


def file(path, content="1\n", **options) -> dict:
    return {"path": str(path), "content": content, **options}


def mode(path) -> int:
    return path.stat().st_mode & 0o777


def test_files_are_put_in_place_with_their_folders_and_a_second_run_changes_nothing(tmp_path):
    program, settings = tmp_path / "bin/hello", tmp_path / "etc/deep/hello.conf"
    files = [file(program, "#!/bin/sh\n", mode="0755"), file(settings, "ä\n")]
    assert run(*files)["changed_files"] == [str(program), str(settings)]
    assert (mode(program), mode(settings), mode(settings.parent)) == (0o755, 0o644, 0o755)
    assert settings.read_text(encoding="utf-8") == "ä\n"
    assert not run(*files)["changed"]
    assert sorted(path.name for path in settings.parent.iterdir()) == ["hello.conf"]


def test_only_what_differs_is_written(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    run(file(one), file(two))
    result = run(file(one), file(two, "2\n"))
    assert result["changed_files"] == [str(two)]
    assert [(each["before"], each["after"]) for each in result["diff"]] == [("1\n", "2\n")]
    two.chmod(0o600)
    assert run(file(one), file(two, "2\n"))["changed_files"] == [str(two)]
    assert mode(two) == 0o644


def test_check_mode_changes_nothing_and_says_all(tmp_path):
    path = tmp_path / "etc/one"
    result = run(file(path, validate="false %s"), check=True)
    assert result["changed_files"] == [str(path)]
    assert result["diff"][0]["after"] == "1\n"
    assert not path.parent.exists()


def test_what_does_not_validate_leaves_the_file_as_it_was(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    run(file(two, validate="grep --quiet 1 %s"))
    result = run(file(one), file(two, "2\n", validate="sh -c 'echo wrong in $0 >&2; exit 3' %s"))
    assert result["failed"]
    assert result["msg"] == f"{two} does not validate and stays as it was: wrong in {two}"
    assert result["changed_files"] == [str(one)]
    assert two.read_text() == "1\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]


def test_a_link_is_replaced_and_what_it_leads_to_is_left_alone(tmp_path):
    other, path = tmp_path / "other", tmp_path / "one"
    other.write_text("1\n")
    path.symlink_to(other)
    assert run(file(path, "2\n"))["changed"]
    assert (path.is_symlink(), path.read_text(), other.read_text()) == (False, "2\n", "1\n")


def test_bad_input_is_named(tmp_path):
    assert run(file("relative"))["msg"] == "path is 'relative': give it from the root, such as /etc/relative"
    assert "mode of" in run(file(tmp_path / "one", mode="rw"))["msg"]
    (tmp_path / "folder").mkdir()
    assert "Is a directory" in run(file(tmp_path / "folder"))["msg"]
