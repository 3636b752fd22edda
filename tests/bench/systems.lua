-- The systems that the bench compares: how each runs a command, and where the host's loopback is from there.
--
-- They run as an ordinary user (root's bench becomes nobody), in a network namespace that `enter` made: lo, and a veth
-- with a default route, which pasta looks for.
local M = {}

local policy = 'policy "bench"\nallow "tcp to host port 7777, 7778"\nallow "udp to host port 7777, 7778"\n'
local gateway = "203.0.113.2"

function M.quote(s) return "'" .. s:gsub("'", "'\\''") .. "'" end
local quote = M.quote

--- First line of a command's output, or nil.
---@param command string
---@return string?
function M.line_of(command)
  local pipe <close> = assert(io.popen("timeout -k 1 20 " .. command .. " 2>/dev/null </dev/null"))
  return pipe:read("l")
end

-- slirp4netns wants the namespace to be there before, and says on a descriptor when it is ready.
local slirp = [[
D=$(mktemp -d); mkfifo "$D/go"
unshare -Urn sh -c 'echo $$ >&3; exec 3>&-; read go; exec "$@"' sh "$@" 3>"$D/pid" <"$D/go" & C=$!
exec 5>"$D/go"
until [ -s "$D/pid" ]; do sleep 0.002; done
slirp4netns --configure --mtu=65520 --ready-fd=6 "$(cat "$D/pid")" tap0 6>"$D/ready" >/dev/null 2>&1 & S=$!
until [ -s "$D/ready" ]; do sleep 0.002; done
echo go >&5; wait $C; R=$?; kill $S; wait $S 2>/dev/null; rm -rf "$D"; exit $R]]

-- No network inside but a socket of the file system, and a socat on each side of it.
local proxy = [[
D=$(mktemp -d); P=$1; shift
socat "UNIX-LISTEN:$D/s,fork,backlog=512" "TCP:127.0.0.1:$P,nodelay" >/dev/null 2>&1 & S=$!
until [ -S "$D/s" ]; do sleep 0.002; done
BWRAP --unshare-net --bind "$D" "$D" sh -c 'socat "TCP-LISTEN:$1,fork,reuseaddr,backlog=512,nodelay" "UNIX-CONNECT:$2" \
  >/dev/null 2>&1 & L=$!; until ss -Hltn "sport = :$1" | grep -q .; do sleep 0.002; done
  shift 2; "$@"; R=$?; kill $L; exit $R' sh "$P" "$D/s" "$@"
R=$?; kill $S; wait $S 2>/dev/null; rm -rf "$D"; exit $R]]
local bwrap = "bwrap --unshare-user --unshare-pid --ro-bind / / --dev /dev --proc /proc"

local function script(text, words) return "sh -c " .. quote(text) .. " sh " .. words end

local function write(path, text)
  local f <close> = assert(io.open(path, "w"))
  f:write(text)
  return path
end

-- Those of the list that run here; the others with the reason.
local function working(all, become)
  local systems, left_out = {}, {}
  for _, system in ipairs(all) do
    if system.needs and not M.line_of("sh -c 'command -v " .. system.needs .. "'") then
      left_out[#left_out + 1] = system.name .. ": " .. system.needs .. " is not installed"
    elseif (system.no_root or system.root) and os.getenv("LATTICE_IN_USERNS") then
      left_out[#left_out + 1] = system.name .. (system.root and ": needs the host's root; run the bench as root"
        or ": does not run as root of a user namespace; run the bench as root")
    elseif M.line_of(become(system) .. system.run("/bin/echo ok", 7777)) ~= "ok" then
      left_out[#left_out + 1] = system.name .. ": is installed, but does not run here"
    else
      systems[#systems + 1] = system
    end
  end
  return systems, left_out
end

--- What can be compared here. A rival that is missing or does not run is in `left_out` with the reason.
---@param lattice string  path
---@param dir string      a folder that the ordinary user can read and write
---@param become fun(system: table): string  words before a command that make it the system's user's
---@return table[] systems  name, host, run(command, port) -> shell words
---@return string[] left_out
function M.list(lattice, dir, become)
  write(dir .. "/policy.lua", policy)
  local all = {
    { name = "native", host = "127.0.0.1", run = function(c) return c end },
    { name = "lattice run", id = "user", host = "127.0.0.1", run = function(c)
      return ("%s run -q --mode user --policy %s/policy.lua --audit %s/audit.jsonl -- %s"):format(lattice, dir, dir, c)
    end },
    { name = "bwrap, shared net", needs = "bwrap", host = "127.0.0.1", run = function(c) return bwrap .. " -- " .. c end },
    { name = "pasta -T (splice)", needs = "pasta", no_root = true, host = "127.0.0.1", run = function(c)
      return "pasta -q -4 --config-net -T 7777,7778 -- " .. c
    end },
    { name = "pasta (tap)", needs = "pasta", no_root = true, host = gateway, run = function(c)
      return "pasta -q -4 --config-net -- " .. c
    end },
    { name = "slirp4netns", needs = "slirp4netns", host = "10.0.2.2", run = function(c) return script(slirp, c) end },
    { name = "bwrap + socat", needs = "socat", host = "127.0.0.1", tcp_only = true, run = function(c, port)
      return script(proxy:gsub("BWRAP", bwrap), port .. " " .. c)
    end },
  }
  return working(all, become)
end

-- A question that is never met makes the filter notify every connect; the handler is asked each time.
local ask = policy .. 'ask "tcp to 192.0.2.1 port 22"\non("ask", function() return "deny" end)\n'
local handler = policy:gsub("allow", "ask")
  .. 'on("ask", function(flow) return flow.port > 7000 and "allow" or "deny", { scope = "once" } end)\n'

--- The modes of `lattice run`, native first; arguments and results as of list().
function M.modes(lattice, dir, become)
  for name, text in pairs({ policy = policy, ask = ask, handler = handler }) do
    write(("%s/%s.lua"):format(dir, name), text)
  end
  local function run(mode, file)
    return function(c)
      local base = dir .. "/" .. file
      return ("%s run -q --mode %s --policy %s.lua --audit %s-%s.jsonl -- %s"):format(lattice, mode, base, base, mode, c)
    end
  end
  return working({
    { name = "native", host = "127.0.0.1", run = function(c) return c end },
    { name = "kernel", id = "kernel", root = true, host = "127.0.0.1", run = run("kernel", "policy") },
    { name = "kernel, notify", root = true, host = "127.0.0.1", run = run("kernel", "ask") },
    { name = "kernel, notify + Lua", root = true, host = "127.0.0.1", run = run("kernel", "handler") },
    { name = "user", id = "user", host = "127.0.0.1", run = run("user", "policy") },
    { name = "user, Lua", host = "127.0.0.1", run = run("user", "handler") },
    { name = "preload", host = "127.0.0.1", run = run("preload", "policy") },
  }, become)
end

-- Namespaces of the bench's own, where nothing outlives it, a TUN device that everybody may open, and an ordinary user.
-- Gone when the bench ends.
local setup = [[
set -e
ip link set lo up
ip link add v0 type veth peer name v1; ip link set v0 up; ip link set v1 up
ip addr add 203.0.113.1/24 dev v0; ip route add default via 203.0.113.2
D=$(mktemp -d); export BENCH_DIR=$D
if [ "$(id -u)" = 0 ] && mknod -m 666 $D/tun c 10 200 2>/dev/null; then mount --bind $D/tun /dev/net/tun; fi
BECOME=
if [ -z "$LATTICE_IN_USERNS" ]; then
  chown 65534:65534 $D
  BECOME="setpriv --reuid 65534 --regid 65534 --clear-groups env HOME=$D"
fi
export BENCH_BECOME="$BECOME"
R=0; "$@" || R=$?
umount /dev/net/tun 2>/dev/null || true; rm -rf $D; exit $R]]

--- Runs the bench again where it may measure; returns its exit status.
---@param words string  shell words
---@return integer
function M.enter(words)
  local become = (M.line_of("id -u") == "0" and "" or "scripts/in-userns ")
    .. "unshare --net --mount --propagation private --pid --fork --kill-child --mount-proc "
  local _, _, status = os.execute(become .. script(setup, words))
  return status
end

return M
