-- What is typed into `lattice repl --write` on the node.
rules()
explain "tcp to 203.0.113.2 port 8080"
allow("tcp to 203.0.113.2 port 8080", { ttl = 60, reason = "look at the staging server" })
explain "tcp to 203.0.113.2 port 8080"
temporary()
remove(1)
