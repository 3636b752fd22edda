-- What no program should reach by accident: the cloud's metadata services, link-local addresses, and the services that
-- listen on the host's own loopback. Include it first. A rule that opens one host port stands before it:
--   allow "tcp to host port 5432"
--   include "guards"
policy "guards"

set "metadata" {
  "169.254.169.254", "fd00:ec2::254", -- most clouds
  "100.100.100.200", -- Alibaba Cloud
  "168.63.129.16", -- Azure
  "192.0.0.192", -- Oracle Cloud, the older one
  "metadata.google.internal",
}
deny("any to @metadata", { reason = "cloud metadata holds credentials" })
deny("any to 169.254.0.0/16, fe80::/10", { reason = "link-local" })
deny("any to host, 0.0.0.0/8, ::", { reason = "the host's own services" })

test {
  deny = {
    "tcp to 169.254.169.254 port 80",
    "tcp to metadata.google.internal port 80",
    "tcp to fd00:ec2::254 port 80",
    "udp to fe80::1 port 53",
    "tcp to 127.0.0.1 port 5432",
    "tcp to ::1 port 5432",
    "tcp to 0.0.0.0 port 22",
  },
}
