/* Builds the sandbox and holds the command in it until the supervisor says go.
 *
 * Two processes inside: `init` (pid 1 of the new pid namespace, root of the first user namespace, owner of the trap
 * network namespace) and the command (in a nested user namespace, own uid, no capability, seccomp filter). The supervisor
 * stays outside and gets descriptors of sockets that init made inside. No Lua, no loop here.
 *
 * In kernel mode there is no trap: the command is in the host's network namespace, and the wall is what the caller's `place`
 * hangs on the group that it puts init into. */
#ifndef LAT_SANDBOX_LAUNCHER_H
#define LAT_SANDBOX_LAUNCHER_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/resource.h>
#include <sys/types.h>

/* Addresses of the sandbox in its own network namespace (both on lo). */
#define LAT_TRAP_ADDR4 "192.0.0.2"           /* RFC 7600: an IPv4 address for hosts that have none */
#define LAT_TRAP_ADDR6 "fd6c:6174:7469::2"
#define LAT_TRAP_DNS "127.0.0.53"            /* where the supervisor answers DNS, port 53 */
/* Packet marks that a verdict in NFQUEUE sets; the trap's second chain acts on them. */
#define LAT_MARK_ACCEPT 0x1u      /* TCP SYN: to the relay's listener */
#define LAT_MARK_RESET 0x2u       /* TCP: RST; other: ICMP port unreachable (ECONNREFUSED) */
#define LAT_MARK_HOST_UNREACH 0x3u /* EHOSTUNREACH */
#define LAT_MARK_NET_UNREACH 0x4u  /* ENETUNREACH */
#define LAT_MARK_PROHIBITED 0x5u   /* ICMP admin prohibited: EHOSTUNREACH on IPv4, EACCES on IPv6 */
/* Of a socket (SO_MARK, the supervisor's alone: the command has no capability over the namespace): its TCP SYN is of a flow
 * that was judged and dialled already, and goes to the relay's listener without waiting in the queue. */
#define LAT_MARK_JUDGED 0x6u
/* The probe of the self-check goes here: never a real destination, always refused (RFC 6890: reserved). */
#define LAT_PROBE_ADDR4 "240.0.0.1"
#define LAT_PROBE_PORT 9

struct lat_rlimit { int resource; rlim_t value; };
struct lat_port_span { uint16_t lo, hi; uint8_t proto; };

/* Which network namespace the command is in. */
enum lat_launch_network {
	LAT_NETWORK_TRAP, /* one of its own, in which every address is local (user mode) */
	LAT_NETWORK_HOST, /* the caller's (kernel mode): needs `place`; no listener, queue, nft, raw or DNS sockets */
	LAT_NETWORK_PLAIN /* the caller's, and no namespace, filter or mount at all (preload mode): pidfd and control alone */
};

struct lat_launch_spec {
	enum lat_launch_network network;
	bool ask;                      /* host's network: every connect(2) is notified, not only those whose address has a
	                                  length that IP has none of (16 and 28 else pass, for the programs to judge) */
	char *const *argv;             /* NULL-terminated; argv[0] is looked up in PATH */
	char **environment;            /* PLAIN: of the command; NULL: the caller's */
	const char *const *hide;       /* absolute paths that the command must not see (an empty read-only file or
	                                  directory is mounted over each that exists) */
	size_t hide_count;
	const char *const *readonly;   /* absolute paths of files that it must not change */
	size_t readonly_count;
	const struct lat_rlimit *rlimits;
	size_t rlimit_count;
	/* NULL, or called in the supervisor when init is there and waits: puts it (and so all that comes after it) into its
	 * cgroups. Negative errno, with say filled, ends the launch. init then makes its cgroup namespace there. */
	int (*place)(void *ctx, pid_t init, char say[256]);
	void *place_ctx;
	bool oom_first;                /* who is short of memory loses the command, never init (and with it everything) */
	const struct lat_port_span *host_ports; /* loopback ports that are queued instead of staying inside */
	size_t host_port_count;
};

/* Descriptors are the caller's, -1 where absent, all CLOEXEC and NONBLOCK. */
struct lat_sandbox {
	pid_t init;      /* in the caller's pid namespace */
	int pidfd;       /* of init: readable when everything inside has ended */
	int control;     /* protocol.h, SOCK_SEQPACKET, to init */
	int notify;      /* seccomp listener: connect(2) of the command and its children, before exec already installed */
	int listener;    /* TCP, AF_INET6 dual-stack, IP(V6)_TRANSPARENT: TPROXY target; getsockname = original destination */
	int queue;       /* nfnetlink socket bound to queue 0 in copy-packet mode: first packets; dropped if nobody listens */
	int diag;        /* NETLINK_SOCK_DIAG of the command's network namespace (inet and unix) */
	int nft;         /* NETLINK_NETFILTER of the trap namespace, to change the host-port set */
	int raw4, raw6;  /* raw sockets with header included, to answer ICMP echo inside */
	int dns_udp, dns_tcp; /* LAT_TRAP_DNS port 53; dns_tcp listens */
	int root;        /* O_PATH of the command's root directory */
	bool plain;      /* init is the command itself: lat_launch_status tells its end */
};

struct lat_launch_error { char text[512]; bool missing_feature; /* exit with the hint to `lattice doctor` */ };

/* Makes the namespaces, the trap and the confined child that waits before exec. Must be called by the main thread (the
 * sandbox ends with that thread). 0, or negative errno with error->text filled: what failed, where, what to do. */
int lat_launch(const struct lat_launch_spec *spec, struct lat_sandbox *out, struct lat_launch_error *error);
/* Asks the confined child to try what must fail (results come as LAT_MSG_PROBED); needs the supervisor's loop running. */
int lat_launch_probe(struct lat_sandbox *sandbox);
/* Lets the command run. */
int lat_launch_go(struct lat_sandbox *sandbox);
/* PLAIN: the command's exit status as the shell sees it, once pidfd is readable; -1: not known. */
int lat_launch_status(struct lat_sandbox *sandbox);
/* Forwards a signal to the command. */
int lat_launch_signal(struct lat_sandbox *sandbox, int signal);
/* Asks init for `count` (<= LAT_MSG_MAX_FDS) unbound transparent UDP sockets (AF_INET6 dual-stack, IPV6_TRANSPARENT,
 * IP_TRANSPARENT, IP_RECVERR off, NONBLOCK; AF_INET where the host has no IPv6, as the listener is then); they come
 * as LAT_MSG_SOCKETS. */
int lat_launch_want_sockets(struct lat_sandbox *sandbox, unsigned count);
/* Receives one message from init; fds[] gets the descriptors, at most *nfds, which then counts them. 0, -EAGAIN, -EPIPE when init is gone. */
struct lat_msg;
int lat_launch_receive(struct lat_sandbox *sandbox, struct lat_msg *msg, int *fds, size_t *nfds);
/* Replaces the set of queued loopback ports (reload). */
int lat_launch_host_ports(struct lat_sandbox *sandbox, const struct lat_port_span *ports, size_t count);
/* Kills the whole tree (SIGKILL to init), reaps it, closes every descriptor. Idempotent. */
void lat_sandbox_close(struct lat_sandbox *sandbox);

#endif
