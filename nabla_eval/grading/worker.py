"""The process that runs computer algebra on untrusted answers.

Protocol on stdin and stdout: a message is its length in bytes (4 bytes, big-endian) and that many
bytes of JSON. The worker says {"ready": true} once, then answers every {"gold", "answer",
"seconds", "grader"} with {"equal", "error"}, and with the "answer" that math-verify found where it
grades. It ends when stdin closes. The deadline is processor time, so that a verdict does not depend
on what else the machine does: the kernel ends the process by SIGPROF, even inside long integer
arithmetic, and whether or not the parent still lives.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import struct
import sys
from typing import Any, BinaryIO

from nabla_eval.stopping import end_with


def read_message(stream: BinaryIO) -> Any | None:
    """The next message; None at the end of the stream."""
    header = stream.read(4)
    if len(header) < 4:
        return None
    return json.loads(stream.read(struct.unpack(">I", header)[0]))


def write_message(stream: BinaryIO, message: Any) -> None:
    """Send ``message`` (anything that JSON can say) at once."""
    body = json.dumps(message).encode()
    stream.write(struct.pack(">I", len(body)) + body)
    stream.flush()


def _limit_memory(megabytes: int) -> None:
    limit = megabytes * 1024 * 1024
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Refused where the hard limit is lower already, and by systems that do not limit memory.
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _verdict(request: dict[str, Any]) -> dict[str, Any]:
    from nabla_eval.grading.algebra import same_expression
    from nabla_eval.grading.compare import same

    gold, answer = request["gold"], request["answer"]
    try:
        if request["grader"] == "math_verify":
            from nabla_eval.grading.published import verdict

            equal, found = verdict(gold, answer)
            return {"equal": equal, "error": None, "answer": found}
        return {"equal": same(gold, answer, same_expression), "error": None}
    except (MemoryError, RecursionError) as error:
        return {"equal": False, "error": type(error).__name__}
    except Exception as error:
        # Computer algebra fails in as many ways as there are expressions; none of them is a match.
        return {"equal": False, "error": type(error).__name__}


def _warm_up() -> None:
    """Compare once what builds the parser's tables and imports SymPy's lazy parts.

    The first comparison takes many times as long as the next one, and its deadline is not meant
    for that.
    """
    from nabla_eval.grading.algebra import same_expression

    same_expression(r"\frac{x^{2}-1}{\sqrt{2}}+\sin(x)", r"\frac{(x-1)(x+1)}{\sqrt{2}}+\cos(x)")
    same_expression(r"\sqrt{8}", r"2\sqrt{2}")
    same_expression("2x+4y-3=0", "y=1-x")
    same_expression(r"[0,1)\cup (2,\infty)", r"(2,3)\cup [0,1)")


def main(megabytes: int, lifeline: int | None = None) -> None:
    """Serve requests until stdin closes, or at once end with who holds the pipe `lifeline`."""
    if lifeline is not None:
        end_with(lifeline)
    # Keep the protocol's stream to ourselves: a library that prints must not corrupt it.
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    try:
        _warm_up()
    except ImportError as error:
        write_message(replies, {"ready": False, "error": str(error)})
        return
    _limit_memory(megabytes)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    write_message(replies, {"ready": True})
    while (request := read_message(sys.stdin.buffer)) is not None:
        signal.setitimer(signal.ITIMER_PROF, request["seconds"])
        reply = _verdict(request)
        signal.setitimer(signal.ITIMER_PROF, 0)
        write_message(replies, reply)
        if reply["error"] == "MemoryError":
            return
