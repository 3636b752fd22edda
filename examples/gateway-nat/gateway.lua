policy "gateway"
default "deny"

-- It holds for what the office sends through the gateway as for the gateway itself.
allow { proto = "tcp", to = "203.0.113.0/24", port = "8080", reason = "the partner's service" }
allow "icmp to any"

test { allow = "tcp to 203.0.113.2 port 8080", deny = "tcp to 203.0.113.2 port 22" }
