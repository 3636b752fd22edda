/* The DNS server of a sandbox: answers on sockets inside the namespace, asks the host's resolver,
 * never forwards a query. Each answer is pinned to the subject before the program can see it. */
#ifndef LAT_CORE_DNS_H
#define LAT_CORE_DNS_H
#include "core/names.h"
#include "core/poller.h"
#include "loop/resolver.h"

struct lat_dns;

enum lat_dns_decision { LAT_DNS_REFUSE, LAT_DNS_RESOLVE, LAT_DNS_WAIT };

struct lat_dns_hooks {
	void *ctx;
	/* Is the asker one of the subject's? NULL: whoever can reach the sockets is. */
	bool (*client)(void *ctx, bool tcp, const struct lat_addr *from, uint16_t sport);
	/* May `name` (normalized) be resolved? *private_ok: answers in private ranges may be given.
	 * WAIT: lat_dns_answer(id) follows. */
	enum lat_dns_decision (*judge)(
		void *ctx, uint64_t id, const char *name, uint16_t qtype, bool *private_ok);
	/* An address is about to be answered for `name` (pin it). until_ns is monotonic, TTL and
	 * grace included. false: do not answer it. */
	bool (*pin)(void *ctx, const char *name, const struct lat_addr *addr, uint64_t until_ns);
	/* The query was answered with rcode. `refused_private` addresses were left out by the
	 * rebinding guard. sport: the asker's port inside (for identity). */
	void (*done)(void *ctx, const char *name, uint16_t qtype, uint16_t rcode, size_t addresses,
		size_t refused_private, bool tcp, uint16_t sport);
};

struct lat_dns_options {
	struct lat_poller *poller;
	struct lat_resolver *resolver;	   /* not owned */
	const struct lat_dns_hooks *hooks; /* not copied */
	int udp, tcp;			   /* bound sockets; not owned */
	uint32_t grace_s;		   /* 0: 30; added to the TTL of a pin */
};

int lat_dns_new(const struct lat_dns_options *options, struct lat_dns **out);
void lat_dns_free(struct lat_dns *dns);
void lat_dns_answer(struct lat_dns *dns, uint64_t id, bool resolve, bool private_ok);
/* In hooks->done: the descriptor of the connection that the question came by; -1: by none (UDP), or it is gone. */
int lat_dns_asker(const struct lat_dns *dns);
void lat_dns_tick(struct lat_dns *dns, uint64_t now_ns);

#endif
