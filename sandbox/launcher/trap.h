/* The trap: netfilter rules of the sandbox's network namespace. Every address is local there
 * (netlink.c), so no packet can leave; these rules say which packets wait for the supervisor's
 * verdict and what each verdict's mark does.
 *
 * Two chains on PREROUTING, in this order, for IPv4 and IPv6 alike:
 *   wait (-150)  a new flow's first packet goes to queue 0; what belongs to a known flow, and what
 * stays inside, passes act  (-149)  the mark of the verdict: to the relay's listener (TPROXY), or
 * refused the way a real network would No connection tracking: state is TCP's own (a SYN is new)
 * and the sockets' (a bound UDP socket is known). */
#ifndef LAT_SANDBOX_TRAP_H
#define LAT_SANDBOX_TRAP_H
#include "launcher/launcher.h"
#include "launcher/nft.h"

/* The relay's listener binds here; connecting to it directly is refused. No service uses port 1
 * (tcpmux). */
#define LAT_TRAP_LISTENER_PORT 1
#define LAT_TRAP_QUEUE 0
/* More disjoint spans than this are refused: one batch has to fit a socket buffer. */
#define LAT_TRAP_SPANS_MAX 512

/* Builds the whole trap. compat_queue: see nft.h. 0, -E2BIG for too many spans, -ENOMEM. */
int lat_trap_build(struct lat_nft *n, bool ipv6, bool compat_queue,
	const struct lat_port_span *ports, size_t count);
/* Builds the replacement of the host-port sets alone. */
int lat_trap_build_ports(
	struct lat_nft *n, bool ipv6, const struct lat_port_span *ports, size_t count);

#endif
