-- For a first look: everything passes and is recorded, but for the guards. Read the record, then write a policy that is
-- narrower.
policy "lab-open"
default "audit"

include "guards"

test {
  allow = {
    "tcp to 203.0.113.1 port 443",
    "udp to www.example.com port 53",
    "icmp to 203.0.113.1",
    "tcp to 10.0.0.7 port 5432",
  },
  deny = {
    "tcp to 169.254.169.254 port 80",
    "tcp to 127.0.0.1 port 22",
  },
}
