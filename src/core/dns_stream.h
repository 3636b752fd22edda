/* DNS over TCP: connections of the sandbox's programs, each message handed up whole, each answer
 * sent whole.
 *
 * Queries may be pipelined and are answered in any order. Bounded: connections, unanswered queries
 * of each, unsent bytes of each; a connection that is idle or that misbehaves is closed. */
#ifndef LAT_CORE_DNS_STREAM_H
#define LAT_CORE_DNS_STREAM_H
#include "core/poller.h"

struct lat_dns_streams;
struct lat_dns_conn;

struct lat_dns_stream_hooks {
	void *ctx;
	/* A message came. It must be answered once, now or later, by lat_dns_conn_answer. */
	void (*message)(void *ctx, struct lat_dns_conn *conn, const uint8_t *msg, size_t len,
		uint16_t sport);
	/* The connection is gone: what is still open on it must not be answered. */
	void (*gone)(void *ctx, struct lat_dns_conn *conn);
};

/* listener: bound and listening, or bound only; not owned. hooks is not copied. */
int lat_dns_streams_new(struct lat_poller *poller, int listener,
	const struct lat_dns_stream_hooks *hooks, struct lat_dns_streams **out);
void lat_dns_streams_free(struct lat_dns_streams *streams);
/* Its descriptor: not the caller's to close. */
int lat_dns_conn_fd(const struct lat_dns_conn *conn);
/* len 0: there is no answer to this message, close the connection. */
void lat_dns_conn_answer(struct lat_dns_conn *conn, const uint8_t *msg, size_t len);
/* Closes connections that have been idle too long, and listens again where descriptors had run out.
 */
void lat_dns_streams_tick(struct lat_dns_streams *streams, uint64_t now_ns);

#endif
