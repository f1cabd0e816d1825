import os
import stat

import pytest

from fedfs.errors import SetupError
from fedfs.nnunet.system.environment import (
    RAW,
    RESULTS,
    NnUNetPaths,
    from_environment,
    set_variables,
)


@pytest.fixture
def environ(paths):
    return paths.variables()


def test_the_usual_variables_name_the_folders(paths, environ):
    assert from_environment(environ) == paths


@pytest.mark.parametrize("name", ["nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"])
@pytest.mark.parametrize("value", [None, "", "/nowhere/at/all"])
def test_a_missing_variable_or_folder_is_named(environ, name, value):
    changed = {key: v for key, v in environ.items() if key != name}
    if value is not None:
        changed[name] = value
    with pytest.raises(SetupError, match=name) as caught:
        from_environment(changed)
    assert caught.value.hint


def test_preprocessed_and_results_are_created_beside_raw(paths, environ):
    paths.preprocessed.rmdir()
    paths.results.rmdir()
    from_environment(environ)
    assert paths.preprocessed.is_dir()
    assert paths.results.is_dir()


def test_raw_is_never_created(paths, environ):
    paths.raw.rmdir()
    with pytest.raises(SetupError, match="nnUNet_raw"):
        from_environment(environ)
    assert not paths.raw.exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_named(paths, environ):
    paths.results.chmod(stat.S_IRUSR | stat.S_IXUSR)
    with pytest.raises(SetupError, match="nnUNet_results .* cannot be written to"):
        from_environment(environ)


def test_variables_are_put_back(monkeypatch, tmp_path):
    monkeypatch.setenv(RAW, "before")
    monkeypatch.delenv(RESULTS, raising=False)
    with set_variables(NnUNetPaths(tmp_path, tmp_path, tmp_path).variables()):
        assert os.environ.get(RAW) == os.environ.get(RESULTS) == str(tmp_path)
    assert os.environ.get(RAW) == "before"
    assert RESULTS not in os.environ
