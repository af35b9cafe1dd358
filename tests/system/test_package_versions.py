import subprocess

from lejepa_hf.system.package_versions import code_commit, package_versions


def test_commit_of_the_code(tmp_path):
    def git(*arguments):
        identity = ["-c", "user.name=nobody", "-c", "user.email=nobody@example.com"]
        command = ["git", "-C", str(tmp_path), *identity, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    git("init")
    assert code_commit(tmp_path) is None  # of nothing yet
    (tmp_path / "code.py").write_text("x = 1\n", encoding="utf-8")
    git("add", ".")
    git("commit", "-m", "Begin")
    assert git("rev-parse", "HEAD").startswith(code_commit(tmp_path))
    (tmp_path / "code.py").write_text("x = 2\n", encoding="utf-8")
    assert code_commit(tmp_path).endswith("-dirty")
    (tmp_path / "site-packages").mkdir()
    assert code_commit(tmp_path / "site-packages") is None


def test_the_commit_is_among_the_versions(monkeypatch):
    for commit in ("0123abc", None):
        monkeypatch.setattr("lejepa_hf.system.package_versions.code_commit", lambda commit=commit: commit)
        assert package_versions().get("commit") == commit
