"""What a peer may make us hold or do, as named constants with the reason above each.

The one rule: every size that a peer declares is compared with a constant of this file, or with a limit handed
in by the caller, before anything of that size is allocated or walked.
"""

from __future__ import annotations

# The metadata is read as a whole before any of it is judged, so this is what a stranger can make us hold for
# nothing. A table row takes 50 to 100 bytes: room for MAX_TENSORS short ones or 40,000 with long names.
MAX_METADATA_BYTES = 4 * 1024 * 1024

# The largest models of today have a few thousand tensors. Each costs some microseconds to check, so the worst
# table holds the event loop for a fraction of a second; ten times more would be an outage.
MAX_TENSORS = 65_536

# msgpack spends one byte on an empty list and Python about sixty: without this bound 4 MiB of metadata become
# 300 MB and a second on the event loop. Counts every container and every item in one; a full table needs 3/4.
MAX_METADATA_VALUES = 1_048_576

# Items of one list or map of the metadata. The longest that makes sense is the tensor table itself.
MAX_CONTAINER_ITEMS = MAX_TENSORS

# Our messages nest three or four deep. Far below Python's recursion limit, so the recursive check of a message
# cannot overflow the stack.
MAX_METADATA_DEPTH = 16

# Characters in a tensor's name. Names of deeply nested modules reach 150.
MAX_NAME = 512

# Dimensions of a tensor. Real ones have at most 6; numpy stops at 32 or 64, torch at 64.
MAX_NDIM = 16

# Bytes of one tensor, its dimensions of zero taken as one: sizes and strides then fit a signed 64-bit integer
# in numpy and torch, even for an empty tensor whose other dimensions are huge.
MAX_TENSOR_BYTES = 2**63 - 1

# A body is kept in memory as a whole. The default lets a billion float32 parameters through.
DEFAULT_MAX_BODY_BYTES = 4 * 1024 * 1024 * 1024

# Bodies are written in pieces of this size: large enough that the cost of a call vanishes, small enough that
# a slow reader leaves no more than a few of them waiting.
WRITE_CHUNK_BYTES = 1024 * 1024

# aiohttp joins the HTTP header with the first piece of a body, on Python below 3.12.9 by copying both.
FIRST_PIECE_BYTES = 4096

# Ranks a server remembers, ended ones too: each costs up to a few kilobytes for its remembered lives.
MAX_RANKS = 65_536

# The least limit of an update's norm: what is smaller changes nothing in float32.
MIN_UPDATE_NORM = 1e-30

# Refused updates in a row: whoever wants more of them has no use for a limit.
MAX_QUARANTINE_AFTER = 1_000_000

# Ranks in quarantine that a status names.
MAX_QUARANTINE_ROWS = 100

# Groups of keys. Each has a thread of its own for its arithmetic.
MAX_GROUPS = 64

# Named barriers. They are never forgotten, so that a late repeat is told that it has passed.
MAX_BARRIERS = 1024

# Parts of one push. Overlap with the backward pass wants about ten.
MAX_PARTS = 1024

# Stages of a replica. Deeper pipelines are mostly bubble.
MAX_STAGES = 64

# Characters of the address at which a stage is reached: a URL.
MAX_ADDRESS = 256

# Things that must be the same in all stages of a replica (model, seed, ...).
MAX_PLAN = 32

# Characters of one of these: a digest has 64.
MAX_PLAN_TEXT = 256

# Characters of what a stage has to tell the others: some figures for each layer of the model. Every join of the replica
# is answered with those of all stages.
MAX_NOTES = 65_536

# Characters of the secret by which the stages of a replica know each other. One has 64.
MAX_SECRET = 256

# Characters of a session id. A UUID has 36.
MAX_SESSION_LENGTH = 64

# Figures a worker reports with a push (loss, accuracy, ...).
MAX_REPORTED_METRICS = 32

# Bytes of a figure's name in UTF-8. `validation/accuracy-top-5` has 25. Longer names, and those that cannot be printed,
# are left out; the update is applied all the same.
MAX_METRIC_NAME_BYTES = 64

# Different names of figures at once, over all live workers. A name costs a series of metrics for each worker. What is
# beyond is left out likewise, until others are no longer reported.
MAX_METRIC_NAMES = 64

# Seconds of a part of an iteration, as a worker reports them: a year. What is longer is a mistake of its clock, and
# would stretch every drawing of the run.
MAX_STEP_SECONDS = 31_536_000.0

# Members of the object that says them: room for parts that later versions tell apart.
MAX_STEP_TIMES = 16

# Ranks named in "waiting for"; the count in words goes on.
MAX_NAMED_WAITERS = 64

# Workers listed in the status, divided by the number of groups. Of a worker a person reads a line; the count goes on.
# A row has up to 13 KB: `MAX_NAMED_WAITERS` ranks that it waits for, and `MAX_REPORTED_METRICS` figures.
MAX_STATUS_ROWS = 1024

# So large `/v1/status` can become, with everything at its limits. It is made on the event loop, for each viewer's
# messages too: what has no bound here can stop a server.
MAX_STATUS_BYTES = 16 * 1024 * 1024

# The largest staleness bound in clocks. Beyond it, say async.
MAX_STALENESS = 1_000_000

# The longest grace of a round in seconds, an hour. Beyond it, ask for a larger quorum.
MAX_GRACE_SECONDS = 3600.0

# Readers that are not workers, parked at once. Workers are bounded by their number.
MAX_PARKED_READERS = 4096

# Viewers of `/v1/events` at once: a team looks at a run, not a crowd. One that reads nothing holds a few states of the
# run in the buffers of its connection.
MAX_VIEWERS = 64

# Connections at once: two for each of MAX_RANKS, one for its steps and one for its heartbeats. A process that may have
# fewer open files takes fewer. Beyond them the longest idle one is closed, those that never asked for anything first.
MAX_CONNECTIONS = 131_072

# From a connection, or from the first byte of a later request on it, to the end of the request's head: it has a few
# hundred bytes, and whoever needs longer for them only keeps a place. Bodies may take longer.
MAX_HEAD_SECONDS = 30.0

# The shortest lease: workers send three heartbeats in one, and time is a tick of 0.1 s. Nobody would live through less.
MIN_LEASE_SECONDS = 0.3

# The shortest limit for an iteration, or a run: it is looked at with every tick, and not more often.
MIN_ITERATION_LIMIT_SECONDS = 0.1

# The longest lease, a day: the kernel probes a silent connection three times in one, with pauses of 9 hours at most.
MAX_LEASE_SECONDS = 86_400.0

# The longest limit for an iteration, or a run: a year. Beyond it, ask for none.
MAX_ITERATION_LIMIT_SECONDS = 31_536_000.0

# The longest that a request may be parked. Longer waits are asked for again.
MAX_WAIT_SECONDS = 300.0

# How often it is looked whether a body still comes: whoever sends a byte now and then keeps memory, and a place.
MAX_BODY_WINDOW_SECONDS = 30.0

# So much of a body has to come in each such time, or its end; else its connection is closed. Modems were faster.
MIN_BODY_WINDOW_BYTES = 32 * 1024

# A JSON body: a join lists the keys of a stage, which may be many.
MAX_JSON_BYTES = 4 * 1024 * 1024

# One of all other control messages, which have a few hundred bytes. Reading JSON holds up everybody else, a MiB for
# some 10 ms.
MAX_CONTROL_BYTES = 64 * 1024

# A JSON document that lists tensors: a join reply, the question before an offer, or any other reply. Sized for a
# full table: MAX_TENSORS rows whose metadata fill a frame's 4 MiB take up to three times that with every name
# escaped, and a group's reply has little beside it. Reading it takes no longer than checking the table in a frame.
MAX_REPLY_JSON_BYTES = 32 * 1024 * 1024

# The JSON at the head of a safetensors file: the library that everybody reads these files with takes no longer one.
MAX_SAFETENSORS_HEADER_BYTES = 100_000_000
