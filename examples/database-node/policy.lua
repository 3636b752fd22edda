-- A database: the application's prefix comes in on its port, and nothing goes out. What nobody allowed is denied, in both
-- directions: another service on this host, a stranger, a replica that an intruder asks for.
policy "database-node"

allow "in tcp from 192.0.2.0/24 port 6379"
