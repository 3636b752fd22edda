-- Nothing leaves and nothing comes in. Start here, add one allow line for each thing that is needed:
--   include "default-deny"
--   allow "tcp to api.example.com port 443"
policy "default-deny"
default "deny"

include "guards"

test {
  deny = {
    "tcp to 203.0.113.1 port 443",
    "udp to 2001:db8::1 port 53",
    "icmp to 203.0.113.1",
    "tcp to www.example.com port 443",
    "in tcp from 203.0.113.1 port 22",
  },
}
