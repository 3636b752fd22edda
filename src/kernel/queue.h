/* An NFQUEUE over a netlink socket that somebody else opened (in another network namespace, usually). Packets are held by
 * the kernel until a verdict names their id; when the socket closes, all that are held are dropped. Not owner of the
 * descriptor. */
#ifndef LAT_KERNEL_QUEUE_H
#define LAT_KERNEL_QUEUE_H
#include <stddef.h>
#include <stdint.h>

struct lat_queue;

struct lat_queue_packet {
	uint32_t id;         /* for the verdict */
	const uint8_t *data; /* from the network header on; valid during the callback */
	size_t size;
};

/* Binds the socket to queue `number` (already bound by this socket: fine), asks for whole packets, for room for `length`
 * held packets and for a large receive buffer, and makes it nonblocking. 0, or negative errno. */
int lat_queue_open(int fd, uint16_t number, uint32_t length, struct lat_queue **out);
void lat_queue_free(struct lat_queue *queue); /* NULL is fine; the descriptor stays open */
/* Receives one batch and calls `packet` for each. Returns how many packets there were (0: none waiting), or negative
 * errno. A message that is no packet is counted in *odd (never NULL). */
int lat_queue_receive(struct lat_queue *queue, void (*packet)(void *ctx, const struct lat_queue_packet *p), void *ctx,
	uint64_t *odd);
/* The largest batch that one receive returns. */
#define LAT_QUEUE_BATCH 16
/* Verdict NF_ACCEPT or NF_DROP with a packet mark (0: unchanged). 0, or negative errno. */
int lat_queue_verdict(struct lat_queue *queue, uint32_t id, uint32_t verdict, uint32_t mark);

#endif
