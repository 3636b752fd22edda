/* Packets that a rule with the target NFLOG tells of, in the network namespace of the process: a descriptor and a dispatch
 * with a budget. The kernel numbers what it sends, so what a full socket buffer cost is known to the packet. */
#ifndef LAT_KERNEL_NFLOG_H
#define LAT_KERNEL_NFLOG_H
#include <stddef.h>
#include <stdint.h>

struct lat_nflog;

struct lat_nflog_packet {
	const char *prefix;  /* the rule's, without a NUL; "" if it has none */
	size_t prefix_size;
	const uint8_t *data; /* from the network header on, as much of it as was copied; NULL: nothing */
	size_t size;
	uint32_t in, out;    /* interfaces, 0: none */
	uint32_t seq;
	uint8_t has_seq;
};

/* Valid during the call. */
typedef void (*lat_nflog_fn)(void *ctx, const struct lat_nflog_packet *packet);

/* What was lost before the packets that the dispatch gives. */
struct lat_nflog_losses {
	uint64_t lost; /* packets that did not fit into the socket's buffer */
	uint64_t odd;  /* messages that were no packets */
};

/* Takes the group's packets. -EBUSY: somebody else has it. */
int lat_nflog_open(uint16_t group, lat_nflog_fn packet, void *ctx, struct lat_nflog **out);
void lat_nflog_free(struct lat_nflog *log); /* NULL is fine */
int lat_nflog_fd(const struct lat_nflog *log);
/* Calls `packet` for what waits, until `budget` packets were given (a message that was begun is finished). How many, or
 * negative errno; *losses: since the last call. */
int lat_nflog_dispatch(struct lat_nflog *log, int budget, struct lat_nflog_losses *losses);
/* The packets of one datagram; how many. For the dispatch and its tests. */
int lat_nflog_parse(const uint8_t *data, size_t size, lat_nflog_fn packet, void *ctx, uint64_t *odd);

#endif
