"""What a run leaves behind: a folder claimed under an identity, files that are whole or absent, lines that outlive a
kill, and shards that know the rows they hold. Every verb that resumes, skips or reuses does it through this room.
"""

from usdm.runs.arguments import Arguments, arguments_of, own_source
from usdm.runs.folder import (
    RUN_FILE,
    RunFolder,
    RunRecord,
    claim,
    differences,
    is_running,
    read_run,
    record,
    started_with,
)
from usdm.runs.identity import Places, content_digest, digest, flat, hub_commit, input_digests, split_revision
from usdm.runs.kept import KeptAnswers
from usdm.runs.lines import JsonLines, read_lines, whole_lines
from usdm.runs.lookup import RowsById
from usdm.runs.processes import in_processes
from usdm.runs.publish import publishing, write_text
from usdm.runs.shards import FailedRow, Outcome, Rows, Shard, Shards, Share, Task
from usdm.runs.status import RunStatus, statuses

__all__ = [
    "split_revision",
    "RUN_FILE",
    "Arguments",
    "FailedRow",
    "JsonLines",
    "KeptAnswers",
    "Outcome",
    "Places",
    "Rows",
    "RowsById",
    "RunFolder",
    "RunRecord",
    "RunStatus",
    "Shard",
    "Shards",
    "Share",
    "Task",
    "arguments_of",
    "claim",
    "content_digest",
    "differences",
    "digest",
    "flat",
    "hub_commit",
    "in_processes",
    "input_digests",
    "is_running",
    "own_source",
    "publishing",
    "read_lines",
    "read_run",
    "record",
    "started_with",
    "statuses",
    "whole_lines",
    "write_text",
]
