/* A batch of nf_tables messages in one buffer, and the few matches and verdicts that the trap uses.
 *
 * Building needs memory but no namespace, sending needs the namespace but no memory: so a batch is
 * built before the fork and sent after it. Errors stick: after the first one every call does
 * nothing and lat_nft_end reports it. */
#ifndef LAT_SANDBOX_NFT_H
#define LAT_SANDBOX_NFT_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct nftnl_rule;
struct nftnl_expr;

struct lat_nft {
	char *buf;
	size_t len, cap;
	uint32_t seq;
	uint8_t family; /* NFPROTO_IPV4 or NFPROTO_IPV6: of the messages that follow */
	const char *table;
	struct nftnl_rule *rule; /* under construction */
	bool removed; /* the last message took the table away: it is the one that is confirmed */
	bool compat_queue; /* NFQUEUE as an xtables target, else the native queue expression */
	int error;
};

/* How a base chain hangs on its hook; NULL for a chain that is only jumped to. */
struct lat_nft_hook {
	uint32_t num;
	int32_t prio;
	bool drop;
};

int lat_nft_begin(struct lat_nft *n, const char *table);
/* Closes the batch. 0, or the first error. */
int lat_nft_end(struct lat_nft *n);
void lat_nft_free(struct lat_nft *n);
/* Sends the batch on a NETLINK_NETFILTER socket. 0, or the kernel's errno (nothing of the batch is
 * then in force); -EPROTO when the kernel did not confirm it. Allocates nothing. */
int lat_nft_send(int fd, const struct lat_nft *n);

void lat_nft_table(struct lat_nft *n);
/* Takes the table of this name away, if there is one. */
void lat_nft_table_remove(struct lat_nft *n);
void lat_nft_chain(struct lat_nft *n, const char *name, const struct lat_nft_hook *hook);
/* A set of port intervals. */
void lat_nft_port_set(struct lat_nft *n, const char *name, uint32_t id);
void lat_nft_port_set_flush(struct lat_nft *n, const char *name);
/* spans: pairs lo, hi; disjoint, ascending, not touching. */
void lat_nft_port_set_add(
	struct lat_nft *n, const char *name, const uint16_t (*spans)[2], size_t count);

void lat_nft_rule(struct lat_nft *n, const char *chain);
void lat_nft_rule_end(struct lat_nft *n);

/* Matches; a rule goes on only while they hold. */
void lat_nft_l4proto(struct lat_nft *n, uint8_t proto);
/* The packet came in by this device, or leaves by it. */
void lat_nft_device(struct lat_nft *n, bool out, const char *name);
void lat_nft_mark(struct lat_nft *n, uint32_t mark);
/* Bytes of the network header equal value under mask (mask NULL: all). */
void lat_nft_network(
	struct lat_nft *n, uint32_t offset, uint32_t len, const void *value, const void *mask);
void lat_nft_transport(
	struct lat_nft *n, uint32_t offset, uint32_t len, const void *value, const void *mask);
void lat_nft_not_network8(struct lat_nft *n, uint32_t offset, uint8_t value);
void lat_nft_dport_in(struct lat_nft *n, const char *set, uint32_t id);
/* TCP: SYN set, ACK, RST and FIN clear. syn false: anything else. */
void lat_nft_tcp_syn(struct lat_nft *n, bool syn);
/* A socket bound to this very address would get the packet. */
void lat_nft_socket_bound(struct lat_nft *n);

/* What to do; ends the rule. */
void lat_nft_set_mark(struct lat_nft *n, uint32_t mark); /* not an end: the next rule follows */
void lat_nft_accept(struct lat_nft *n);
void lat_nft_accept_as(struct lat_nft *n, uint32_t mark);
void lat_nft_drop(struct lat_nft *n);
void lat_nft_goto(struct lat_nft *n, const char *chain);
void lat_nft_queue(struct lat_nft *n, uint16_t number);
void lat_nft_reject_tcp(struct lat_nft *n);
void lat_nft_reject_icmp(struct lat_nft *n, uint8_t code);
void lat_nft_tproxy(struct lat_nft *n, uint16_t port);

#endif
