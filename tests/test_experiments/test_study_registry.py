"""The registry lists every study, and every study has presets and claims."""

import pytest
from typer.testing import CliRunner

from experiments import cli
from experiments.studies import registry, study


def test_the_registry_lists_the_files_of_the_folder():
    ids = list(registry.study_modules())
    of_paper = [name for name in ids if name[0] == "E"]
    assert of_paper == sorted(of_paper)
    assert {"E7", "E8"} <= set(ids)
    assert registry.sort_study_ids(["e8", "E7"]) == ["E7", "E8"]
    assert registry.sort_study_ids(["all"]) == ids
    result = CliRunner().invoke(cli.app, ["reproduce", "E99", "--out", "unwritten"])
    assert result.exit_code == 2
    assert "E99" in result.stderr


@pytest.mark.parametrize("name", registry.study_modules())
def test_every_study_has_presets_and_claims(name):
    imported = registry.study(name)
    assert isinstance(imported, study.Study)
    assert {"here", "builtin", "quick"} <= imported.presets.keys()
    assert imported.configured("builtin", quick=True).with_sources()
    assert imported.claims
