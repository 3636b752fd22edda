/* The rows of the filter: what is refused, with which errno, and why. The errno is the one of a
 * kernel that lacks the thing or of a caller that may not use it, so that programs take the way
 * they have for such hosts. */
#include "filter/filter.h"
#include "base/mem.h"
#include <errno.h>
#include <linux/if_tun.h>
#include <linux/seccomp.h>
#include <netinet/in.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#ifndef IPPROTO_MPTCP
#define IPPROTO_MPTCP 262
#endif
#define SIOCGSKNS_NUMBER 0x894C
#define TUNGETDEVNETNS_NUMBER 0x54E3
#define NEW_NAMESPACES                                                                             \
	(CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET | \
		CLONE_NEWCGROUP)
#define NEW_TIME 0x80u /* CLONE_NEWTIME: in clone(2) these bits are the exit signal */

#define HOST (LAT_FILTER_TABLES | LAT_FILTER_ASK)
#define ALLOW SECCOMP_RET_ALLOW
#define NO(e) (SECCOMP_RET_ERRNO | (e))
/* clang-format off: a row a line */
#define IS(n, v)                                                                                   \
	{                                                                                          \
		LAT_FILTER_EQ, n, UINT32_MAX, v                                                    \
	}
#define TYPE(v)                                                                                    \
	{                                                                                          \
		LAT_FILTER_EQ, 1, 0xf, v                                                           \
	} /* without SOCK_NONBLOCK and SOCK_CLOEXEC */
#define ANY(n, bits)                                                                               \
	{                                                                                          \
		LAT_FILTER_ANY, n, bits, 0                                                         \
	}
/* clang-format on */

static const char exotic[] = "a family whose sockets the wall does not see";
static const char trapped[] = "its packets end in the trap, or are judged by the group's programs";
static const char judged[] = "an address of IP's length: the group's programs judge it";
static const char member[] = "the kernel itself sends reports, which no program of the group sees";
static const char elsewhere[] = "the packet would go elsewhere than the call says";
static const char mediated[] = "its connects are mediated";
static const char namespaces[] =
	"a namespace of its own has its own rules and more kernel behind it";
static const char mounts[] = "the view of the files is the launcher's";
static const char others[] = "reaches into another process, its memory or its descriptors";
static const char kernel[] = "changes or programs the kernel itself";
static const char uring[] = "makes sockets and connects that no filter sees";
static const char terminal[] = "types into the operator's terminal";

/* clang-format off */
const struct lat_filter_rule lat_filter_rules[] = {
	{ "connect", ALLOW, { IS(2, sizeof(struct sockaddr_in)) }, judged, LAT_FILTER_TABLES },
	{ "connect", ALLOW, { IS(2, sizeof(struct sockaddr_in6)) }, judged, LAT_FILTER_TABLES },
	{ "connect", SECCOMP_RET_USER_NOTIF, { { 0 } }, "early errno, identity, AF_UNIX by mediation" },

	{ "socket", ALLOW, { IS(0, AF_UNIX), TYPE(SOCK_STREAM) }, mediated },
	{ "socket", ALLOW, { IS(0, AF_UNIX), TYPE(SOCK_SEQPACKET) }, mediated },
	{ "socket", NO(ESOCKTNOSUPPORT), { IS(0, AF_UNIX) }, "each sendto re-aims it" },
	{ "socket", ALLOW, { IS(0, AF_INET), TYPE(SOCK_STREAM), IS(2, 0) }, trapped },
	{ "socket", ALLOW, { IS(0, AF_INET), TYPE(SOCK_STREAM), IS(2, IPPROTO_TCP) }, trapped },
	{ "socket", ALLOW, { IS(0, AF_INET), TYPE(SOCK_STREAM), IS(2, IPPROTO_MPTCP) }, trapped, LAT_FILTER_TRAP },
	{ "socket", NO(EPROTONOSUPPORT), { IS(0, AF_INET), TYPE(SOCK_STREAM) }, "SCTP and the like; MPTCP's extra flows" },
	{ "socket", ALLOW, { IS(0, AF_INET), TYPE(SOCK_DGRAM), IS(2, 0) }, trapped },
	{ "socket", ALLOW, { IS(0, AF_INET), TYPE(SOCK_DGRAM), IS(2, IPPROTO_UDP) }, trapped },
	{ "socket", ALLOW, { IS(0, AF_INET), TYPE(SOCK_DGRAM), IS(2, IPPROTO_ICMP) }, trapped },
	{ "socket", NO(EPROTONOSUPPORT), { IS(0, AF_INET), TYPE(SOCK_DGRAM) }, "UDP-Lite and the like" },
	{ "socket", NO(EPERM), { IS(0, AF_INET), TYPE(SOCK_RAW) }, "forges packets" },
	{ "socket", NO(ESOCKTNOSUPPORT), { IS(0, AF_INET) }, exotic },
	{ "socket", ALLOW, { IS(0, AF_INET6), TYPE(SOCK_STREAM), IS(2, 0) }, trapped },
	{ "socket", ALLOW, { IS(0, AF_INET6), TYPE(SOCK_STREAM), IS(2, IPPROTO_TCP) }, trapped },
	{ "socket", ALLOW, { IS(0, AF_INET6), TYPE(SOCK_STREAM), IS(2, IPPROTO_MPTCP) }, trapped, LAT_FILTER_TRAP },
	{ "socket", NO(EPROTONOSUPPORT), { IS(0, AF_INET6), TYPE(SOCK_STREAM) }, "SCTP and the like; MPTCP's extra flows" },
	{ "socket", ALLOW, { IS(0, AF_INET6), TYPE(SOCK_DGRAM), IS(2, 0) }, trapped },
	{ "socket", ALLOW, { IS(0, AF_INET6), TYPE(SOCK_DGRAM), IS(2, IPPROTO_UDP) }, trapped },
	{ "socket", ALLOW, { IS(0, AF_INET6), TYPE(SOCK_DGRAM), IS(2, IPPROTO_ICMPV6) }, trapped },
	{ "socket", NO(EPROTONOSUPPORT), { IS(0, AF_INET6), TYPE(SOCK_DGRAM) }, "UDP-Lite and the like" },
	{ "socket", NO(EPERM), { IS(0, AF_INET6), TYPE(SOCK_RAW) }, "forges packets" },
	{ "socket", NO(ESOCKTNOSUPPORT), { IS(0, AF_INET6) }, exotic },
	{ "socket", ALLOW, { IS(0, AF_NETLINK), IS(2, 0) }, "getifaddrs" },
	{ "socket", NO(EPROTONOSUPPORT), { IS(0, AF_NETLINK) }, "other netlink families" },
	{ "socket", NO(EPERM), { IS(0, AF_PACKET) }, "forges packets" },
	{ "socket", NO(EAFNOSUPPORT), { { 0 } }, exotic },

	{ "socketpair", ALLOW, { IS(0, AF_UNIX), TYPE(SOCK_STREAM) }, "joined to itself" },
	{ "socketpair", ALLOW, { IS(0, AF_UNIX), TYPE(SOCK_SEQPACKET) }, "joined to itself" },
	{ "socketpair", NO(ESOCKTNOSUPPORT), { IS(0, AF_UNIX) }, "each sendto re-aims it" },
	{ "socketpair", NO(EOPNOTSUPP), { IS(0, AF_INET) }, "as the kernel says" },
	{ "socketpair", NO(EOPNOTSUPP), { IS(0, AF_INET6) }, "as the kernel says" },
	{ "socketpair", NO(EAFNOSUPPORT), { { 0 } }, exotic },

	{ "setsockopt", NO(ENODEV), { IS(1, IPPROTO_IP), IS(2, IP_ADD_MEMBERSHIP) }, member, HOST },
	{ "setsockopt", NO(ENODEV), { IS(1, IPPROTO_IP), IS(2, IP_ADD_SOURCE_MEMBERSHIP) }, member, HOST },
	{ "setsockopt", NO(ENODEV), { IS(1, IPPROTO_IP), IS(2, MCAST_JOIN_GROUP) }, member, HOST },
	{ "setsockopt", NO(ENODEV), { IS(1, IPPROTO_IP), IS(2, MCAST_JOIN_SOURCE_GROUP) }, member, HOST },
	{ "setsockopt", NO(ENODEV), { IS(1, IPPROTO_IPV6), IS(2, IPV6_ADD_MEMBERSHIP) }, member, HOST },
	{ "setsockopt", NO(ENODEV), { IS(1, IPPROTO_IPV6), IS(2, IPV6_JOIN_ANYCAST) }, member, HOST },
	{ "setsockopt", NO(ENODEV), { IS(1, IPPROTO_IPV6), IS(2, MCAST_JOIN_GROUP) }, member, HOST },
	{ "setsockopt", NO(ENODEV), { IS(1, IPPROTO_IPV6), IS(2, MCAST_JOIN_SOURCE_GROUP) }, member, HOST },
	{ "setsockopt", NO(EPERM), { IS(1, IPPROTO_IPV6), IS(2, IPV6_RTHDR) }, elsewhere, HOST },
	{ "setsockopt", NO(EPERM), { IS(1, IPPROTO_IPV6), IS(2, IPV6_2292RTHDR) }, elsewhere, HOST },

	{ "ioctl", NO(EPERM), { IS(1, TIOCSTI) }, terminal },
	{ "ioctl", NO(EPERM), { IS(1, TIOCLINUX) }, terminal },
	{ "ioctl", NO(EPERM), { IS(1, TIOCCONS) }, terminal },
	{ "ioctl", NO(EPERM), { IS(1, SIOCGSKNS_NUMBER) }, "the network namespace behind a socket" },
	{ "ioctl", NO(EPERM), { IS(1, TUNGETDEVNETNS_NUMBER) }, "the network namespace behind a device" },
	{ "ioctl", NO(EPERM), { IS(1, TUNSETIFF) }, "a device that belongs to nobody is anybody's to write to" },
	{ "ioctl", NO(EPERM), { IS(1, TUNSETQUEUE) }, "a device that belongs to nobody is anybody's to write to" },

	{ "clone", NO(EPERM), { ANY(0, NEW_NAMESPACES) }, namespaces },
	{ "clone3", NO(ENOSYS), { { 0 } }, "flags in memory: libc falls back to clone" },
	{ "unshare", NO(EPERM), { ANY(0, NEW_NAMESPACES | NEW_TIME) }, namespaces },
	{ "setns", NO(EPERM), { { 0 } }, namespaces },

	{ "socketcall", NO(ENOSYS), { { 0 } }, "arguments in memory; has direct calls since 4.3" },
	{ "io_uring_setup", NO(ENOSYS), { { 0 } }, uring },
	{ "io_uring_enter", NO(ENOSYS), { { 0 } }, uring },
	{ "io_uring_register", NO(ENOSYS), { { 0 } }, uring },
	{ "seccomp", NO(EPERM), { IS(0, SECCOMP_SET_MODE_FILTER), ANY(1, SECCOMP_FILTER_FLAG_NEW_LISTENER) },
		"a second listener could answer in our place" },

	{ "mount", NO(EPERM), { { 0 } }, mounts },
	{ "umount", NO(EPERM), { { 0 } }, mounts },
	{ "umount2", NO(EPERM), { { 0 } }, mounts },
	{ "pivot_root", NO(EPERM), { { 0 } }, mounts },
	{ "chroot", NO(EPERM), { { 0 } }, mounts },
	{ "open_tree", NO(EPERM), { { 0 } }, mounts },
	{ "open_tree_attr", NO(EPERM), { { 0 } }, mounts },
	{ "move_mount", NO(EPERM), { { 0 } }, mounts },
	{ "fsopen", NO(EPERM), { { 0 } }, mounts },
	{ "fsconfig", NO(EPERM), { { 0 } }, mounts },
	{ "fsmount", NO(EPERM), { { 0 } }, mounts },
	{ "fspick", NO(EPERM), { { 0 } }, mounts },
	{ "mount_setattr", NO(EPERM), { { 0 } }, mounts },
	{ "open_by_handle_at", NO(EPERM), { { 0 } }, mounts },

	{ "ptrace", NO(EPERM), { { 0 } }, others },
	{ "process_vm_readv", NO(EPERM), { { 0 } }, others },
	{ "process_vm_writev", NO(EPERM), { { 0 } }, others },
	{ "pidfd_getfd", NO(EPERM), { { 0 } }, others },
	{ "kcmp", NO(EPERM), { { 0 } }, others },

	{ "bpf", NO(EPERM), { { 0 } }, kernel },
	{ "perf_event_open", NO(EPERM), { { 0 } }, kernel },
	{ "userfaultfd", NO(EPERM), { { 0 } }, kernel },
	{ "keyctl", NO(EPERM), { { 0 } }, "keyrings are shared with processes outside" },
	{ "add_key", NO(EPERM), { { 0 } }, "keyrings are shared with processes outside" },
	{ "request_key", NO(EPERM), { { 0 } }, "runs a helper outside" },
	{ "kexec_load", NO(EPERM), { { 0 } }, kernel },
	{ "kexec_file_load", NO(EPERM), { { 0 } }, kernel },
	{ "init_module", NO(EPERM), { { 0 } }, kernel },
	{ "finit_module", NO(EPERM), { { 0 } }, kernel },
	{ "delete_module", NO(EPERM), { { 0 } }, kernel },
	{ "swapon", NO(EPERM), { { 0 } }, kernel },
	{ "swapoff", NO(EPERM), { { 0 } }, kernel },
	{ "reboot", NO(EPERM), { { 0 } }, kernel },
	{ "quotactl", NO(EPERM), { { 0 } }, kernel },
	{ "quotactl_fd", NO(EPERM), { { 0 } }, kernel },
	{ "acct", NO(EPERM), { { 0 } }, kernel },
	{ "iopl", NO(EPERM), { { 0 } }, kernel },
	{ "ioperm", NO(EPERM), { { 0 } }, kernel },
};
/* clang-format on */

const size_t lat_filter_rule_count = LAT_ARRAY_SIZE(lat_filter_rules);
const uint32_t lat_filter_last_call = 469; /* file_setattr, Linux 6.17 */
