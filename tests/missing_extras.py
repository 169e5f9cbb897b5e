"""What is said where a package is not installed, in a process that cannot import it."""

import json
import subprocess
import sys

#: every use fails, and what it says is kept
TRY_ALL = """
import json, sys
sys.modules[sys.argv[1]] = None
said = []
for use in json.loads(sys.argv[2]):
    try:
        exec(use, {})
    except Exception as error:
        said.append(str(error))
    else:
        raise SystemExit(use + " works")
print(json.dumps(said))
"""


def python(*words):
    return subprocess.run([sys.executable, "-c", *words], capture_output=True, text=True)


def errors(missing, uses):
    """The messages of these lines of code without the package ``missing``, of which each fails."""
    done = python(TRY_ALL, missing, json.dumps(uses))
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert len(said) == len(uses)
    return said
