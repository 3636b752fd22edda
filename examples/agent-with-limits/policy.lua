-- What a coding agent may use of the host while it builds and tests: half a processor, 100 megabytes, 40 processes.
policy "agent-with-limits"
default "deny"

limits { memory = "100M", cpu = 0.5, pids = 40, files = 256 }
