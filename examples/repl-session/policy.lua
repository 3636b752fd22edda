policy "node"
allow "tcp to 203.0.113.0/24 port 80, 443"
allow "icmp to any"
