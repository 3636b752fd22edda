-- One node of a mesh: latticed makes wf0, joins the peer, and lets through what policy.lua names. `./run` fills in the words
-- in capitals; the addresses are those of node A.
device "wf0" {
  address = { "10.42.0.1/24", "fd42::1/64" },
  mtu = 1420,
  wireguard = {
    key = file "wf0.key", -- wg genkey > wf0.key; chmod 600 wf0.key
    listen = 51820,
    peers = {
      { key = "PEER_KEY", endpoint = "203.0.113.2:51820", allowed = { "10.42.0.2/32", "fd42::2/128" } },
    },
  },
}
policy { "policy.lua" }
control "control.sock"
