-- What each probe of lattice.caps does, what needs it, and the fix where there is one.
local userns = require "lattice.sandbox.userns"

local M = {}

---@class lattice.doctor.Fact
---@field how string
---@field needed_for string
---@field required boolean?  `lattice run` cannot work without it
---@field fix string?

local userns_fix = "sysctl -w kernel.unprivileged_userns_clone=1 (Debian), user.max_user_namespaces > 0; "
  .. "inside a container: allow clone(CLONE_NEWUSER), unshare and mount in its seccomp profile; "
  .. "inside a chroot none can be made"
local module_fix = "load it once as root: modprobe %s (and name it in /etc/modules-load.d/lattice.conf)"

local group_fix = "root, or a group of your own: systemd-run --user --scope -p Delegate=yes -- lattice ..."

---@type table<string, lattice.doctor.Fact>
M.facts = {
  user_namespace = { required = true, needed_for = "run without privileges",
    how = "unshare(CLONE_NEWUSER) and writing the id maps", fix = userns_fix },
  net_namespace = { required = true, needed_for = "the wall around the program's network",
    how = "a network namespace with its loopback up", fix = userns_fix },
  mount_namespace = { required = true, needed_for = "a private /proc, resolv.conf and hidden sockets",
    how = "a tmpfs mounted in a mount namespace", fix = userns_fix },
  pid_namespace = { required = true, needed_for = "ending the whole process tree at once",
    how = "a child as pid 1 that mounts /proc",
    fix = "inside a container /proc must not be masked (docker: --security-opt systempaths=unconfined)" },
  nested_user_namespace = { required = true, needed_for = "the program's own uid, without capabilities",
    how = "a user namespace inside a user namespace", fix = userns_fix },
  nf_tables = { required = true, needed_for = "the trap's rules",
    how = "a table, a chain and a rule in a network namespace", fix = module_fix:format("nf_tables") },
  nfqueue = { needed_for = "holding a new flow until the verdict (or nfqueue_compat)",
    how = "a packet through nf_tables' queue expression", fix = module_fix:format("nft_queue") },
  nfqueue_compat = { needed_for = "holding a new flow until the verdict (or nfqueue)",
    how = "a packet through the xtables target NFQUEUE in nf_tables",
    fix = module_fix:format("-a xt_NFQUEUE nft_compat nfnetlink_queue") },
  tproxy = { required = true, needed_for = "handing a connection to the relay with its destination kept",
    how = "a tproxy rule, and a transparent socket",
    fix = module_fix:format("-a nft_tproxy nf_tproxy_ipv4 nf_tproxy_ipv6") },
  seccomp_notify = { required = true, needed_for = "naming the program behind a flow, unix sockets",
    how = "a child's call answered through a listener",
    fix = "a kernel with CONFIG_SECCOMP_FILTER >= 5.0; a filter around us must allow seccomp(2)" },
  seccomp_notify_addfd = { needed_for = "kernel mode's fast lane",
    how = "a descriptor put into a child by its answer", fix = "Linux >= 5.14" },
  seccomp_notify_killable = { needed_for = "calls that a signal must not restart",
    how = "a filter with WAIT_KILLABLE_RECV", fix = "Linux >= 5.19" },
  seccomp_notify_sync = { needed_for = "connects answered five times faster",
    how = "SYNC_WAKE_UP set on a listener", fix = "Linux >= 6.6; works without, only slower" },
  pidfd_getfd = { required = true, needed_for = "connecting the program's own socket for it",
    how = "a child's descriptor duplicated",
    fix = "Linux >= 5.6 and kernel.yama.ptrace_scope 0 or 1; in a container, a seccomp profile that allows it" },
  sock_diag = { required = true, needed_for = "telling inside unix sockets from outside ones",
    how = "a dump of unix sockets", fix = module_fix:format("-a unix_diag inet_diag tcp_diag udp_diag") },
  preload = { needed_for = "run --mode preload, which is advisory",
    how = "liblattice_intercept.so loaded, its connect refusing without a supervisor",
    fix = "install liblattice_intercept.so beside lattice, or in the libdir beside its folder" },
  ping_socket = { needed_for = "ping from inside for a normal user",
    how = "an ICMP datagram socket",
    fix = 'sysctl -w net.ipv4.ping_group_range="0 2147483647" (root does not need it)' },
  landlock = { needed_for = "a second fence for files",
    how = "a rule set made and enforced on a child",
    fix = "Linux >= 5.13 with landlock in the lsm= list of the command line" },
  tun_device = { needed_for = "wf0 and TUN devices of our own",
    how = "a TUN device made in a network namespace",
    fix = "chmod 0666 /dev/net/tun (udev does so on most systems), modprobe tun" },
  cgroup_v2 = { needed_for = "limits, and kernel mode's identity",
    how = "a group made below our own and removed",
    fix = group_fix },
  cgroup_v1 = { needed_for = "limits where the controllers are still on v1",
    how = "a group made below our own in each hierarchy", fix = "root, or a delegated hierarchy" },
  limit_memory = { needed_for = "limits { memory }",
    how = "a child of a group that was killed for taking more", fix = group_fix },
  limit_swap = { needed_for = "limits { swap }",
    how = "the same without swap", fix = group_fix .. ", and a kernel that counts swap (swapaccount=1 on v1)" },
  limit_cpu = { needed_for = "limits { cpu }",
    how = "a child of a group that was held back for spinning", fix = group_fix },
  limit_pids = { needed_for = "limits { pids } of the whole tree (an rlimit serves)",
    how = "a fork refused in a group", fix = group_fix },
  limit_io = { needed_for = "limits { io }",
    how = "a rate for each disk of /sys/block, taken by the kernel",
    fix = group_fix .. ", a disk, and a kernel with CONFIG_BLK_DEV_THROTTLING" },
  bpf_tc = { needed_for = "the ebpf enforcer (pro)",
    how = "a tc program loaded", fix = "CAP_BPF and CAP_NET_ADMIN: run latticed" },
  bpf_cgroup = { needed_for = "kernel mode (pro)",
    how = "a connect in a group of its own, refused by a program attached to it",
    fix = "CAP_BPF and CAP_NET_ADMIN: run latticed" },
  tcx = { needed_for = "the ebpf enforcer's hooks (or clsact)",
    how = "a program on lo of a network namespace counts a packet", fix = "Linux >= 6.6, as root; clsact serves" },
  clsact = { needed_for = "the ebpf enforcer's hooks (or tcx)",
    how = "the same by a clsact qdisc and a filter", fix = module_fix:format("-a sch_ingress cls_bpf") .. ", as root" },
  bpf_ring = { needed_for = "the ebpf enforcer's events",
    how = "a program writes into a ring buffer", fix = "Linux >= 5.8, as root" },
  bpf_lpm = { needed_for = "the ebpf enforcer's tables",
    how = "the longest prefix found in a trie", fix = "CONFIG_BPF_SYSCALL, as root" },
  bpf_swap = { needed_for = "the ebpf enforcer's reload without a gap",
    how = "a map of maps whose slot is changed", fix = "CONFIG_BPF_SYSCALL, as root" },
  iptables_nft = { needed_for = "the iptables enforcer, NAT and FORWARD (or iptables_legacy)",
    how = "a chain with state, a mark and REJECT in a network namespace, IPv4 and IPv6",
    fix = "apt-get install iptables; "
      .. module_fix:format("-a nft_compat xt_conntrack xt_connmark ipt_REJECT ip6t_REJECT") },
  iptables_legacy = { needed_for = "the iptables enforcer, NAT and FORWARD (or iptables_nft)",
    how = "the same by the legacy back end",
    fix = "apt-get install iptables; " .. module_fix:format("-a ip_tables ip6_tables xt_conntrack xt_connmark") },
  nflog = { needed_for = "the iptables enforcer's events",
    how = "a packet of a rule with NFLOG received", fix = module_fix:format("-a xt_NFLOG nfnetlink_log") },
  ipset = { needed_for = "nothing by itself: large policies of other tools",
    how = "a set made and filled in a network namespace",
    fix = "apt-get install ipset; " .. module_fix:format("-a ip_set ip_set_hash_net") },
  wireguard = { needed_for = "wf0 in the kernel (or wireguard_go)",
    how = "a wireguard device made in a network namespace", fix = module_fix:format("wireguard") },
  wireguard_go = { needed_for = "wf0 where the kernel has no WireGuard (or wireguard)",
    how = "wireguard-go --version", fix = "apt-get install wireguard-go" },
}

-- What `latticed` would build on, from the strongest to the weakest.
local hooks = { { "tcx", "TCX" }, { "clsact", "clsact" } }
local backends = { { "iptables_nft", "nft" }, { "iptables_legacy", "legacy" } }
local devices = { { "wireguard", "kernel" }, { "wireguard_go", "wireguard-go" } }

local function pick(ok, list)
  for _, row in ipairs(list) do
    if ok[row[1]] then return row[2] end
  end
end

--- What `latticed` could use here; the verdict on `lattice run` does not depend on it.
---@param ok table<string, boolean>  by the name of the probe
---@param edition string
---@return { enforcers: string[], without: string[], wireguard: string? }
function M.node(ok, edition)
  local enforcers, without = {}, {}
  local hook, backend = pick(ok, hooks), pick(ok, backends)
  local lacking = {}
  for _, name in ipairs({ "bpf_tc", "bpf_ring", "bpf_lpm", "bpf_swap" }) do
    if not ok[name] then lacking[#lacking + 1] = name end
  end
  if not hook then lacking[#lacking + 1] = "tcx or clsact" end
  if edition ~= "pro" then
    without[1] = "ebpf: a Pro feature" .. (#lacking == 0 and ", which this host could run" or "")
  elseif #lacking > 0 then
    without[1] = "ebpf: no " .. table.concat(lacking, ", ")
  else
    enforcers[1] = ("ebpf (%s)"):format(hook)
  end
  if backend then
    enforcers[#enforcers + 1] = ("iptables (%s%s)"):format(backend, ok.nflog and "" or ", no events: no nflog")
  else
    without[#without + 1] = "iptables: no iptables_nft or iptables_legacy"
  end
  return { enforcers = enforcers, without = without, wireguard = pick(ok, devices) }
end

--- Probes that begin in a user namespace: without one they say nothing of their own.
M.in_user_namespace = {
  net_namespace = true, mount_namespace = true, pid_namespace = true, nested_user_namespace = true,
  nf_tables = true, nfqueue = true, nfqueue_compat = true, tproxy = true, tun_device = true,
}

--- What to do about a probe that failed.
---@param name string
---@param code string?
---@return string?
function M.fix(name, code)
  local namespace = name == "user_namespace" or M.in_user_namespace[name]
  if namespace and (code == "EPERM" or code == "EACCES" or code == "ENOSPC") then
    local cause = userns.cause()
    if cause then return cause end
  end
  local fact = M.facts[name]
  return fact and fact.fix
end

return M
