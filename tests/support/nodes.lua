-- Nodes for tests of the node agent: network namespaces joined by veths, with the tools of world.lua.
--
--   node  eth0 203.0.113.1, 2001:db8::1  ---- veth ----  eth0 203.0.113.2, 2001:db8::2  peer
--         c0   172.18.0.1,  fd18::1      ---- veth ----  eth0 172.18.0.2,  fd18::2      container (opts.container)
--   overlay by convention: wf0 10.42.0.1/24, fd42::1/64 on the node; 10.42.0.2/24, fd42::2/64 on the peer
--
-- The container's default routes lead to the node; the node does not forward until something tells it to. Everything is
-- torn down by close(), also what a failed test left. Needs root (or ./runtests' user namespace).
local World = require("world")
local uv = require("luv")

---@class Nodes: table  a World with the namespaces node, peer and container
local Nodes = setmetatable({}, { __index = World })
Nodes.__index = Nodes

local count = 0
local patience = tonumber(os.getenv("LATTICE_PATIENCE")) or 1
Nodes.latticed_path = World.lattice_path and World.lattice_path:gsub("[^/]*$", "latticed")
Nodes.address = {
  node = { outer = "203.0.113.1", outer6 = "2001:db8::1", overlay = "10.42.0.1", overlay6 = "fd42::1" },
  peer = { outer = "203.0.113.2", outer6 = "2001:db8::2", overlay = "10.42.0.2", overlay6 = "fd42::2" },
}

local pair = [[
  ip netns add NODE; ip netns add PEER
  ip link add eth0 netns NODE type veth peer name eth0 netns PEER
  for n in NODE PEER; do ip -n $n link set lo up; ip -n $n link set eth0 up; done
  ip -n NODE addr add 203.0.113.1/24 dev eth0; ip -n NODE addr add 2001:db8::1/64 dev eth0 nodad
  ip -n PEER addr add 203.0.113.2/24 dev eth0; ip -n PEER addr add 2001:db8::2/64 dev eth0 nodad
]]
local third = [[
  ip netns add CONTAINER
  ip link add c0 netns NODE type veth peer name eth0 netns CONTAINER
  ip -n CONTAINER link set lo up; ip -n CONTAINER link set eth0 up; ip -n NODE link set c0 up
  ip -n NODE addr add 172.18.0.1/16 dev c0; ip -n NODE addr add fd18::1/64 dev c0 nodad
  ip -n CONTAINER addr add 172.18.0.2/16 dev eth0; ip -n CONTAINER addr add fd18::2/64 dev eth0 nodad
  ip -n CONTAINER route add default via 172.18.0.1; ip -n CONTAINER -6 route add default via fd18::1
]]

--- Makes the namespaces.
---@param opts? { container?: boolean }
---@return Nodes
function Nodes.new(opts)
  count = count + 1
  local id = ("ln%d-%d"):format(uv.os_getpid(), count)
  local self = setmetatable({ node = id .. "n", peer = id .. "p", container = id .. "c", processes = {} }, Nodes)
  self.dir = assert(uv.fs_mkdtemp("/tmp/lattice-nodes-XXXXXX"))
  self.home = self.dir
  local script = pair .. (opts and opts.container and third or "")
  script = script:gsub("NODE", self.node):gsub("PEER", self.peer):gsub("CONTAINER", self.container)
  local ok, why = pcall(World.sh, script)
  if not ok then
    self:close()
    error(why, 2)
  end
  return self
end

--- The body of a test in nodes of its own, which are gone after it.
---@param make fun(): Nodes
---@param fn fun(nodes: Nodes)
---@return fun()
function Nodes.within(make, fn)
  return function()
    local nodes = make()
    local ok, err = xpcall(fn, debug.traceback, nodes)
    nodes:close()
    if not ok then error(err, 0) end
  end
end

--- Ends what was started and removes everything.
function Nodes:close()
  self:stop()
  for _, ns in ipairs({ self.node, self.peer, self.container }) do
    -- what an agent leaves when it is killed
    World.sh(("for pid in $(ip netns pids %s 2>/dev/null); do kill -9 $pid 2>/dev/null || true; done"):format(ns))
    World.sh(("ip netns del %s 2>/dev/null || true"):format(ns))
  end
  -- a bpffs that an agent mounted here and that outlived it
  World.sh(("awk '$2 ~ \"^%s/\" { print $2 }' /proc/mounts | while read -r at; do umount \"$at\"; done; rm -rf %s")
    :format(self.dir, self.dir))
end

--- Waits until fn returns something true, with a bound; that value, or the test fails.
---@param what string
---@param fn fun(): any
---@param ms? integer  default 10000
function Nodes.await(what, fn, ms)
  local until_ = uv.hrtime() + (ms or 10000) * 1e6 * patience
  repeat
    local value = fn()
    if value then return value end
    uv.run("nowait")
  until uv.hrtime() > until_
  error("waited in vain for " .. what, 2)
end

--- A shell command in a namespace ("node", "peer", "container"); the test fails when it does.
---@return string stdout
function Nodes:sh(where, text, opts)
  local p = self:run(where, { "/bin/sh", "-ec", text }, opts)
  if p.status ~= 0 then error(("%s: %s: %s%s"):format(where, text, p.out, p.err), 2) end
  return p.out
end

--- A shell command in none of them; the test fails when it does.
Nodes.sh_here = World.sh

--- Whether a shell command in a namespace ends with 0.
function Nodes:try(where, text, opts)
  return self:run(where, { "/bin/sh", "-c", text }, opts).status == 0
end

--- How many answers are missing in what ping printed; one that was on its way when it was ended is none.
---@param text string
function Nodes.lost_pings(text)
  local last, got = 0, 0
  for seq in text:gmatch("icmp_seq=(%d+) ttl") do
    last, got = math.max(last, math.tointeger(tonumber(seq))), got + 1
  end
  assert(got > 0, text)
  return last - got
end

--- A WireGuard key pair: private, public (base64).
function Nodes:keys()
  local private = self:sh("peer", "wg genkey"):gsub("%s", "")
  local public = self:sh("peer", "echo " .. private .. " | wg pubkey"):gsub("%s", "")
  return private, public
end

--- A WireGuard device by wireguard-go and the tools, without Lattice: the other end, or a device to guard.
--- spec: private, listen?, address = { "10.42.0.2/24", ... }, mtu?, name?, peers = { { public, endpoint?, allowed } }.
--- The result is its process; :wg(words) runs wg beside it (its socket is in a mount namespace of its own).
function Nodes:wireguard(where, spec)
  local name = spec.name or "wf0"
  local p = self:start(where, { "/bin/sh", "-ec",
    "mkdir -p /var/run/wireguard; mount -t tmpfs tmpfs /var/run/wireguard; exec wireguard-go -f " .. name })
  local inside = ("nsenter -t %d -m -n "):format(p.pid)
  function p.wg(_, words) return self:sh(where, inside .. "wg " .. words) end
  Nodes.await("wireguard-go", function()
    if p.status then error("wireguard-go ended: " .. p.out .. p.err) end
    return self:try(where, inside .. "wg show " .. name)
  end)
  local lines = { "[Interface]", "PrivateKey = " .. spec.private }
  if spec.listen then lines[#lines + 1] = "ListenPort = " .. spec.listen end
  for _, peer in ipairs(spec.peers or {}) do
    lines[#lines + 1] = "[Peer]\nPublicKey = " .. peer.public
    if peer.endpoint then lines[#lines + 1] = "Endpoint = " .. peer.endpoint end
    lines[#lines + 1] = "AllowedIPs = " .. table.concat(peer.allowed, ", ")
  end
  local conf = self:file(("%s-%d.conf"):format(name, p.pid), table.concat(lines, "\n") .. "\n", tonumber("600", 8))
  p:wg(("setconf %s %s"):format(name, conf))
  for _, address in ipairs(spec.address or {}) do
    self:sh(where, ("ip addr add %s dev %s %s"):format(address, name, address:match(":") and "nodad" or ""))
  end
  self:sh(where, ("ip link set %s mtu %d up"):format(name, spec.mtu or 1420))
  return p
end

--- The peer's end of a mesh with the node: a wf0 in the peer that knows the node's public key. Port 51820 on both.
---@param node_public string
---@param opts? { private?: string, allowed?: string[], mtu?: integer, endpoint?: string }
function Nodes:peer_end(node_public, opts)
  opts = opts or {}
  return self:wireguard("peer", {
    private = opts.private or self:keys(), listen = 51820, mtu = opts.mtu,
    address = { "10.42.0.2/24", "fd42::2/64" },
    peers = { { public = node_public, endpoint = opts.endpoint or "203.0.113.1:51820",
      allowed = opts.allowed or { "10.42.0.1/32", "fd42::1/128" } } },
  })
end

--- A wf0 on the node and one on the peer, joined, without Lattice: for tests of enforcers on "existing" devices.
---@return World.Process node, World.Process peer
function Nodes:mesh()
  local a, a_public = self:keys()
  local b, b_public = self:keys()
  local node = self:wireguard("node", { private = a, listen = 51820, address = { "10.42.0.1/24", "fd42::1/64" },
    peers = { { public = b_public, endpoint = "203.0.113.2:51820", allowed = { "10.42.0.2/32", "fd42::2/128" } } } })
  return node, self:peer_end(a_public, { private = b })
end

--- Starts `latticed` in the node namespace, as root. args: words behind the program's name.
function Nodes:latticed(args, opts)
  return self:start("node", { Nodes.latticed_path, table.unpack(args or {}) }, opts)
end

--- Starts `lattice` in the node namespace, as root.
function Nodes:lattice(args, opts)
  return self:run("node", { World.lattice_path, table.unpack(args) }, opts)
end

--- A capture on a device: begins at once; :stop() ends it and gives the packets as text (tcpdump -r) and the file's bytes.
function Nodes:capture(where, device, filter)
  self.captures = (self.captures or 0) + 1
  local path = ("%s/capture%d.pcap"):format(self.dir, self.captures)
  local p = self:start(where, { "tcpdump", "-Z", "root", "-n", "-s", "0", "-U", "--immediate-mode", "-B", "8192",
    "-i", device, "-w", path, filter })
  p:expect("listening on")
  function p.stop()
    p:kill("sigint")
    p:wait()
    local text = self:sh(where, "tcpdump -n -r " .. path .. " 2>/dev/null")
    return text, World.read(path)
  end
  return p
end

return Nodes
