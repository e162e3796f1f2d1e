"""What several tests of evaluations share."""

import colours
import pytest


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """See ``colours.write_folders``."""
    root = tmp_path_factory.mktemp("colours")
    colours.write_folders(root)
    return root
