-- The private networks around the host, by address and by the names that local routers give; nothing beyond.
policy "lan-only"
default "deny"

include "guards"

set "lan" { "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7" }
allow "any to @lan"
allow "in any from @lan"
allow("any to *.lan, *.home.arpa, *.internal", { private = true })

test {
  allow = {
    "tcp to 192.168.1.10 port 445",
    "udp to 10.0.0.1 port 53",
    "tcp to fd12::1 port 22",
    "icmp to 172.16.0.1",
    "tcp to nas.lan at 192.168.1.10 port 443",
    "in tcp from 192.168.1.20 port 8080",
  },
  deny = {
    "tcp to 203.0.113.1 port 443",
    "tcp to 172.32.0.1 port 80",
    "tcp to www.example.com port 443",
    "tcp to 169.254.169.254 port 80",
    "in tcp from 203.0.113.1 port 8080",
  },
}
