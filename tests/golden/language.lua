-- Every word and form of the language once.
policy "language"
default "drop"
keep_established(true)

set "db" { "10.0.0.5-10.0.0.9", "2001:db8:1::/48", "db.example" }
set "both" { "@db", "192.0.2.1" }

allow "tcp to API.Example.com, *.githost.example port https, 8000-8999"
allow { proto = "tcp", to = "10.42.0.0/16", port = "5432, 8000-8999", reason = "staging", log = false }
allow { proto = { "tcp", "udp" }, to = { "@both", "198.51.100.7" }, port = { 53, "853" } }
deny("udp to any port 443", { reason = "no QUIC", errno = "EACCES" })
allow "in tcp from 10.42.0.0/16 port ssh"
allow { proto = "tcp", from = "2001:DB8::/32", port = 22 }
ask("tcp to any port 22", { ttl = "10m", rate = "20/s" })
audit "icmp, icmpv6 to any"
drop "47 to 0.0.0.0/0, ::/0"
allow("tcp to host port 8080", { private = true })
deny "any to host"
allow "tcp to mesh"
allow "tcp to nas. port 445"
allow "tcp to any port 25 for 'mailer'"
deny { proto = "any", to = "any", uid = 1000, exe = "/usr/bin/curl" }
allow "tcp to both port 1"

unix "/run/service.sock"
on("ask", function(flow) return flow.port == 22 and "allow" or "deny" end)
on("connect", function() return "deny" end)
on("dns", function() return nil end)
limits { memory = "2G", cpu = 1.5, pids = 256, io = "50M", files = 1024 }
audit { "deny", "drop", to = file "agent.jsonl", rotate = "10M" }
audit { to = unix "/run/audit.sock" }
audit { "allow", to = syslog() }
test {
  allow = { "tcp to 10.42.0.7 port 5432", "in tcp from 10.42.1.1 port 22" },
  deny = "tcp to api.example.com at 10.0.0.1 port 443",
}
