"""A file never takes the place of a folder, nor a folder that of a file."""

import pytest

from jaxdl.files import partial_folder, publish


def test_a_file_does_not_replace_a_folder_nor_a_folder_a_file(tmp_path):
    folder, file = tmp_path / "folder", tmp_path / "file"
    folder.mkdir()
    (folder / "kept").write_text("a")
    file.write_text("b")
    with partial_folder(tmp_path) as partial:
        (partial / "new_file").write_text("c")
        (partial / "new_folder").mkdir()
        with pytest.raises(IsADirectoryError, match=r"must be a file, got the folder .*/folder"):
            publish(partial / "new_file", folder)
        with pytest.raises(NotADirectoryError, match=r"must be a folder, got the file .*/file"):
            publish(partial / "new_folder", file)
        assert (partial / "new_file").exists()
        assert (partial / "new_folder").exists()
    assert (folder / "kept").read_text() == "a"
    assert file.read_text() == "b"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["file", "folder"]
