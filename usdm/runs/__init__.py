"""What a run leaves behind: a folder claimed under an identity, files that are whole or absent, lines that outlive a
kill, and shards that know the rows they hold. Every verb that resumes, skips or reuses does it through this room.
"""

from usdm.runs.folder import RUN_FILE, RunFolder, RunRecord, claim, differences, is_running, read_run
from usdm.runs.identity import content_digest, digest, flat, input_digests
from usdm.runs.lines import JsonLines, read_lines, whole_lines
from usdm.runs.publish import publishing, write_text
from usdm.runs.shards import Rows, Shard, Shards, Task

__all__ = [
    "RUN_FILE",
    "JsonLines",
    "Rows",
    "RunFolder",
    "RunRecord",
    "Shard",
    "Shards",
    "Task",
    "claim",
    "content_digest",
    "differences",
    "digest",
    "flat",
    "input_digests",
    "is_running",
    "publishing",
    "read_lines",
    "read_run",
    "whole_lines",
    "write_text",
]
