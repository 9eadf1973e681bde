#!/usr/bin/env python3
"""Starts the development stand-in for the backend: scripts/tools/stand_in_backend says all of it.

python scripts/stand_in_backend.py [--port 3016] [--blocklist scripts/blocklist.txt]
"""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
# -P: what lies in the working directory, where its .env is, is no module of it.
command = [sys.executable, "-P", "-m", "scripts.tools.stand_in_backend", *sys.argv[1:]]
os.execve(sys.executable, command, {**os.environ, "PYTHONPATH": path})  # noqa: S606
