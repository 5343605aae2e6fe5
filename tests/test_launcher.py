"""Hydra's own conformance suites: for an app without a batch entry, fused is the basic launcher."""

import pytest
from hydra import version
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.test_utils.launcher_common_tests import IntegrationTestSuite, LauncherTestSuite

from hydra_plugins.fused_launcher import FusedLauncher


@pytest.fixture
def hydras_own_default(hydra_restore_singletons) -> None:
    """The suites expect jobs to run in their directories, as they did before version_base existed."""
    version.setbase("1.1")


def test_hydra_finds_it():
    assert FusedLauncher.__name__ in [plugin.__name__ for plugin in Plugins.instance().discover(Launcher)]


@pytest.mark.usefixtures("hydras_own_default")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("launcher_name, overrides", [("fused", [])])
class TestFusedLauncher(LauncherTestSuite):
    pass


@pytest.mark.usefixtures("hydras_own_default")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "task_launcher_cfg, extra_flags",
    [({}, ["-m", "hydra/launcher=fused"])],
)
class TestFusedLauncherIntegration(IntegrationTestSuite):
    pass
