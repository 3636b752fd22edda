-- Denials, and the start and end of the run, go to the socket; the script `run` puts its path here.
policy "custom-sink"

audit { "deny", "drop", "run", to = unix "/SOCKET" }

drop "tcp to 198.51.100.0/24"
