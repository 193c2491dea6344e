"""Files that are written whole or not at all."""

from pathlib import Path

import pytest

from nc_fast.files import untrusted


def test_replacing_leaves_the_old_file_when_writing_fails(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def write_and_fail():
        with untrusted.replacing(path) as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_and_fail()
    assert path.read_bytes() == b"old"
    with untrusted.replacing(path) as file:
        file.write(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_replacing_follows_links_and_spares_devices(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "target")
    with untrusted.replacing(tmp_path / "link") as file:
        file.write(b"through")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_bytes() == b"through"
    with untrusted.replacing("/dev/null") as file:
        file.write(b"gone")
    assert not Path("/dev/null").is_file()
