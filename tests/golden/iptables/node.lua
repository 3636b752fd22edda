-- What a node's policy is in iptables: node.v4 and node.v6.
policy "node"
default "drop"

deny  "any to 169.254.0.0/16, fe80::/10"
allow { proto = "tcp", to = "10.42.0.0/16", port = "5432, 8000-8999", reason = "staging" }
allow { proto = "udp", to = "any", port = 53, rate = 100 }
audit { proto = "any", to = "fd42::/64", port = 443 }
allow "tcp to db.example, *.svc.example port 443"
drop  "47 to any"
deny  { proto = "tcp", to = "10.0.0.0/8", log = false }
allow "icmp, icmpv6 to any"
allow "in tcp from 10.42.0.0/16 port 22"
