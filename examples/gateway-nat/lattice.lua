-- A gateway: an office network behind it, one uplink that is guarded. (In the demo both are veths in namespaces.)
device "uplink" { kind = "existing" }
policy { "gateway.lua" }

nat { source = "172.18.0.0/16", out = "uplink" }   -- the office goes out under the gateway's address
forward { from = "office", to = "uplink" }         -- flows that the office opens, and their replies; nothing else
