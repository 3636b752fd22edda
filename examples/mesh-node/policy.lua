policy "mesh-node"
default "deny"

set "mesh-net" { "10.42.0.0/24", "fd42::/64" }

allow "icmp to @mesh-net"
allow "icmpv6 to @mesh-net"
allow "in icmp from @mesh-net"
allow "in icmpv6 from @mesh-net"
allow { proto = "tcp", to = "@mesh-net", port = 5432, reason = "the database" }
allow { proto = "tcp", dir = "in", from = "@mesh-net", port = 5432, reason = "the database" }

test {
  allow = { "tcp to 10.42.0.2 port 5432", "in tcp from fd42::2 port 5432" },
  deny = { "tcp to 10.42.0.2 port 22", "in tcp from 10.42.0.2 port 22", "udp to 10.42.0.2 port 53" },
}
