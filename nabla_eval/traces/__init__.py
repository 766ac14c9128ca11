"""Traces: one JSON line per problem with every decision and every cost (DESIGN 8).

Written while a run goes on, flushed per problem, so that a killed run resumes from them.
"""

from nabla_eval.traces.index import done
from nabla_eval.traces.read import read, restore
from nabla_eval.traces.reuse import unlike
from nabla_eval.traces.schema import Record
from nabla_eval.traces.write import TraceWriter, record, trace_path

__all__ = [
    "Record",
    "TraceWriter",
    "done",
    "read",
    "record",
    "restore",
    "trace_path",
    "unlike",
]
