"""A type checker reads the types of the installed packages, and reports wrong arguments."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("jaxasr", "interventions", "experiments")

SCRIPT = """
import numpy as np

import jaxasr

asr = jaxasr.load("tiny.en")
mel = np.zeros((1, 80, 3000), np.float32)
memory, acts = asr.model.encode(mel, readout=jaxasr.select("encoder.resid_post"))
out = asr.generate(memory, max_new_tokens=10)
first: str = out.text[0]
double: jaxasr.Edit = lambda x, at: 2 * x
logits, _ = asr.model.decode(np.array([[1, 2]]), memory, {"decoder.mlp_out": double})

jaxasr.load(3)  # wrong
asr.generate("speech.wav")  # wrong
asr.generate(memory, max_new_tokens="10")  # wrong
asr.model.encode(mel, readout="encoder.resid_post")  # wrong
jaxasr.select(7)  # wrong
second: int = out.text[0]  # wrong
"""


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_declare_their_types(package):
    assert (ROOT / package / "py.typed").exists()


def test_only_the_wrong_arguments_of_a_script_are_reported(tmp_path):
    pytest.importorskip("basedpyright")
    (tmp_path / "script.py").write_text(SCRIPT)
    settings = {"include": ["script.py"], "typeCheckingMode": "basic", "extraPaths": [str(ROOT)]}
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(settings))
    command = [sys.executable, "-m", "basedpyright", "--outputjson", "--pythonpath", sys.executable]
    report = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    errors = {
        error["range"]["start"]["line"]
        for error in json.loads(report.stdout)["generalDiagnostics"]
        if error["severity"] == "error"
    }
    lines = SCRIPT.splitlines()
    assert errors == {number for number, line in enumerate(lines) if line.endswith("# wrong")}
