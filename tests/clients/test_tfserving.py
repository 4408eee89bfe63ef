"""The `curl` lines of TF Serving's REST manual, read from the manual and run as they stand.

The manual is no part of this project: RUNG_CLIENTS_EXAMPLES names a folder with a copy of it. Its lines ask port 8501;
curl's own configuration sends that to the port that the kernel chose.
"""

import json
import os
import re
import subprocess

import pytest

MANUAL = "tensorflow/serving/tensorflow_serving/g3doc/api_rest.md"
_BLOCK = re.compile(r"^```(?:shell)?\n\$ (curl (?:.*\\\n)*.*)\n((?:(?!```).*\n)*)```", re.MULTILINE)

# Exports what the manual's model does: x / 2 + 3, for predict and regress.
EXPORT = """
import sys
import tensorflow as tf

class HalfPlusThree(tf.Module):
    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
    def serve(self, x):
        return {"y": x / 2 + 3}

module = HalfPlusThree()
tf.saved_model.save(module, sys.argv[1], signatures={"serving_default": module.serve})
"""


@pytest.fixture
def curl_home(serve, rung, python, tmp_path):
    """A folder whose `.curlrc` leads localhost:8501 to a server of half_plus_three, version 123."""
    folder = tmp_path / "half_plus_three"
    python(EXPORT, folder / "00000123")
    config = tmp_path / "models.config"
    config.write_text(f'model_config_list {{ config {{ name: "half_plus_three" base_path: "{folder}" }} }}')
    rung("models", "import", config)
    served = serve(".rung/repository")
    home = tmp_path / "home"
    home.mkdir()
    (home / ".curlrc").write_text(f'connect-to = "localhost:8501:127.0.0.1:{served.port}"\nsilent\n')
    return home


def test_the_manual_s_calls(example, curl_home):
    calls = _BLOCK.findall(example(MANUAL).read_text())
    assert len(calls) == 4
    for line, expected in calls:
        done = subprocess.run(
            ["bash", "-c", line],
            env={**os.environ, "CURL_HOME": str(curl_home)},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        if "-i" in line.split():
            assert done.stdout.startswith("HTTP/1.1 404 Not Found")
            assert list(json.loads(done.stdout.partition("\n\n")[2])) == ["error"]
        else:
            # The status has KServe's two fields beside the manual's: both protocols ask at this path.
            answer = json.loads(done.stdout)
            assert {key: value for key, value in answer.items() if key not in ("name", "ready")} == json.loads(expected)
